"""The model repository, the ONNX Runtime sessions, and the scheduler that runs tiles in them."""
