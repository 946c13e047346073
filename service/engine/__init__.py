"""Models on disk, and the ONNX Runtime sessions that run them."""
