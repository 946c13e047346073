"""Readers: each turns a source into a classifier in ONNX. No reader runs code from a file."""
