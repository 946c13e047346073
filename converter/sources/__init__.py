"""Readers: each converts a source to a classifier in ONNX. No reader runs code from a file."""
