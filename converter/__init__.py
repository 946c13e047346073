"""Converts trained classifiers to fully-convolutional ONNX models. Never imports `service`."""
