"""The runtimes that compute networks, and the precisions in which they compute."""

from dataclasses import dataclass
from typing import Literal

Provider = Literal["cpu", "openvino", "cuda", "tensorrt"]
"""ONNX Runtime on the CPU, OpenVINO on the CPU, and ONNX Runtime with CUDA or TensorRT on an NVIDIA GPU."""
Precision = Literal["fp32", "bf16", "fp16"]
"""The number format of computation: float32, or bfloat16 or float16 with sums in float32."""


@dataclass(frozen=True)
class Backend:
    """A runtime, and the precision in which it computes."""

    provider: Provider = "cpu"
    precision: Precision = "fp32"

    def __str__(self) -> str:
        return f"{self.provider} {self.precision}"


REFERENCE = Backend()
"""The backend whose scores are those that the converter has verified."""
ROUNDING = 1e-4
"""Largest difference of two backends of fp32, relative to the scores in Euclidean norm, that counts as rounding."""
