"""ONNX Runtime's optimisers that the converter and the service must not use."""

LOSSY_OPTIMISERS = ("WeightBiasQuantization",)
"""Optimisers that lose precision: this one rounds float32 weights to integers where activations are quantized."""
