"""Networks that ONNX Runtime's tool has quantized, with QuantizeLinear and DequantizeLinear, convert."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from support.conversion import SILENT
from support.pictures import noise
from support.written_graphs import graph, node

from converter import convert as conversion
from converter.sources.read import read_source
from fullconv.common.optimisers import LOSSY_OPTIMISERS

WINDOW = 10
PADDED = {"pads": [1, 1, 1, 1]}
NETWORKS: dict[str, Any] = {
    "flattened": ["Conv: image k -> c", "Relu: c -> x", "Flatten: x -> f", "MatMul: f w -> y"],
    "pooled": [
        "Conv: image k3 -> c",
        "Relu: c -> r",
        "GlobalAveragePool: r -> p",
        "Flatten: p -> f",
        "MatMul: f w4 -> y",
    ],
    "residual": [
        "Conv: image k -> c",
        node("Conv: c k4 -> d", **PADDED),
        "Relu: d -> r",
        "Add: c r -> s",
        node("MaxPool: s -> m", kernel_shape=[2, 2], strides=[2, 2]),
        "GlobalAveragePool: m -> p",
        "Flatten: p -> f",
        "MatMul: f w4 -> l",
        "Add: l b -> y",
    ],
    "softmax": [
        "Conv: image k -> c",
        "GlobalAveragePool: c -> p",
        "Flatten: p -> f",
        "MatMul: f w4 -> l",
        node("Softmax: l -> y", axis=1),
    ],
}
FORMATS: dict[str, Any] = {
    "uint8": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8},
    "int8": {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True},
}


class Windows(CalibrationDataReader):  # type: ignore[misc]
    """Eight windows for the calibration."""

    def __init__(self) -> None:
        self._windows = iter(np.random.default_rng(0).random((8, 1, 3, WINDOW, WINDOW), np.float32))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next window, or None at the end."""
        window = next(self._windows, None)
        return None if window is None else {"image": window}


@pytest.mark.parametrize("quantization", FORMATS)
@pytest.mark.parametrize("network", NETWORKS)
def test_quantized_networks_convert(tmp_path: Path, network: str, quantization: str) -> None:
    """Every cell is the source's score of its window, but for steps at values in the middle between two steps."""
    onnx.save(graph(NETWORKS[network]), tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "net.onnx",
        Windows(),
        quant_format=QuantFormat.QDQ,
        **FORMATS[quantization],
    )
    assert b"QuantizeLinear" in (tmp_path / "net.onnx").read_bytes()
    request = conversion.Request(tmp_path / "net" / "1", windows=8, preprocess="unit")
    report = conversion.convert(read_source(tmp_path / "net.onnx", arch=None, window=None), request, SILENT)
    assert not report.spec.parity[0].exact
    assert report.spec.parity[0].native.max_abs < 0.05
    if network == "residual":
        return  # padded: cells differ from crops
    pixels = noise(WINDOW + 4, WINDOW + 2, 3)
    file = tmp_path / "net" / "1" / "model.onnx"
    (grid,) = ort.InferenceSession(file, disabled_optimizers=[*LOSSY_OPTIMISERS]).run(None, {"image": pixels[None]})
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    original = ort.InferenceSession(tmp_path / "net.onnx", options)
    differences = []
    for row, col in np.ndindex(*grid.shape[2:]):
        crop = np.moveaxis(pixels[row : row + WINDOW, col : col + WINDOW], -1, 0)[None] / np.float32(255)
        differences.append(np.abs(grid[0, :, row, col] - original.run(None, {"image": crop})[0][0]))
    assert_allclose(np.median(differences), 0, atol=1e-5)
    assert np.max(differences) < 0.1
