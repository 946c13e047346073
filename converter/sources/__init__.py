"""Readers: what people bring, as a classifier in ONNX. Reading never runs code from a file."""
