"""Scores images of any size with converted models. Never imports `converter`: geometry travels inside the ONNX file."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is first imported
