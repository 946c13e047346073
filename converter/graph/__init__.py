"""The graph layer, on onnx-ir: from a classifier for single windows to a network for any image."""
