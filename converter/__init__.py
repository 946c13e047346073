"""Rewrites trained classifiers as fully-convolutional ONNX models. Never imports `service` or `client`."""
