"""Scores images of any size with converted models. Never imports `converter`: geometry travels inside the ONNX file."""
