"""Converts trained classifiers to fully-convolutional ONNX models. Never imports `service`."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is first imported
