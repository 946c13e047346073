"""Files of real exporters convert as `data/README.md` states: exact, padded, or refused with the stated reason."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from support.conversion import SILENT

from converter import convert as conversion
from converter.errors import ConversionError
from converter.sources.read import read_source
from fullconv.protos import model_pb2

DATA = Path(__file__).parent.parent / "data"
FOLDERS = ("pytorch", "keras", "built")
OLDEST = 7
"""The first operator set that ONNX Runtime runs."""
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
COARSE = {"half": 2e-3, "bfloat16": 2e-2, "half_inside": 2e-3}
"""For networks that computed with 16 bits, the tolerance of their scores relative to the largest score."""


def verdicts() -> Iterator[tuple[Path, tuple[int, ...], str]]:
    """Yield every file, its window and the stated result of its conversion."""
    for folder in FOLDERS:
        _, section = (DATA / "README.md").read_text("utf-8").split(f"## {folder}/")
        for line in section.split("\n## ")[0].splitlines():
            cells = line.strip("|").split("|")
            if len(cells) == 5:
                name, _, window, _, verdict = (cell.strip() for cell in cells)
                for path in sorted((DATA / folder).glob(f"{name}.*.onnx")):
                    yield path, tuple(int(size) for size in window.split("×")[:2] if size.isdigit()), verdict


ALL = list(verdicts())
CONVERTED = [case for case in ALL if not case[2].startswith("refused")]
REFUSED = [(path, verdict.removeprefix("refused: ")) for path, _, verdict in ALL if verdict.startswith("refused")]


def convert(path: Path, window: tuple[int, int], folder: Path) -> model_pb2.ModelSpec:
    """Convert a file, so that the result takes uint8 pixels and the network gets values from 0 to 1."""
    requested_window = window if "open" in path.stem else None
    preprocess = "none" if path.stem.startswith(("bytes_input", "rescaled")) else "unit"
    request = conversion.Request(folder / "net" / "1", preprocess=preprocess, windows=8)
    return conversion.convert(read_source(path, arch=None, window=requested_window), request, SILENT).spec


@pytest.mark.parametrize(
    ("path", "window", "verdict"), CONVERTED, ids=[f"{p.parent.name}-{p.stem}" for p, _, _ in CONVERTED]
)
def test_exports_convert(tmp_path: Path, path: Path, window: tuple[int, int], verdict: str) -> None:
    """The framework's own scores are reproduced; a cell of an exact network is the original's score of the window."""
    spec = convert(path, window, tmp_path)
    assert spec.parity[0].exact == verdict.startswith("exact")
    dense = session(tmp_path / "net" / "1" / "model.onnx")
    with np.load(path.with_name(f"{path.name.split('.')[0]}.npz")) as arrays:
        stored, expected = arrays["window"][:1], arrays["scores"].astype(np.float32)
    tolerance = COARSE.get(path.name.split(".")[0], 1e-4)
    got = run(dense, spec, as_pixels(stored, spec, path))
    assert_allclose(got.ravel(), expected.reshape(-1, got.size)[0], rtol=0, atol=tolerance * np.abs(expected).max())
    opset = onnx.load(path, load_external_data=False).opset_import[0].version
    if spec.parity[0].exact and opset >= OLDEST and not path.stem.startswith("bfloat16"):
        check_every_cell(session(path), spec, dense, tolerance)


def check_every_cell(
    original: ort.InferenceSession, spec: model_pb2.ModelSpec, dense: ort.InferenceSession, tolerance: float
) -> None:
    """Score a batch of two images of 3×2 cells, and compare each cell with the original network on its window."""
    size = (spec.window.height + 2 * spec.vertical.stride, spec.window.width + spec.horizontal.stride)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, spec.input.channels), np.uint8)
    grid = run(dense, spec, pixels)
    assert grid.shape[2:] == (3, 2)
    scale = 255 if (spec.input.dtype, spec.input.layout) == ("uint8", "NHWC") else 1
    for number, row, col in np.ndindex(2, 3, 2):
        top, left = row * spec.vertical.stride, col * spec.horizontal.stride
        crop = pixels[number, top : top + spec.window.height, left : left + spec.window.width]
        expected = run_original(original, np.divide(crop, scale, dtype=np.float32))
        cell = grid[number, :, row, col]
        assert_allclose(cell, expected.reshape(-1, cell.size)[0], rtol=0, atol=tolerance * np.abs(expected).max())


def run_original(original: ort.InferenceSession, window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of one window (height, width, channels), in the layout, type and batch that the network wants."""
    image = original.get_inputs()[0]
    laid_out = window if image.shape[3] == window.shape[-1] else np.moveaxis(window, -1, 0)
    count = image.shape[0] if isinstance(image.shape[0], int) else 1
    feed = np.repeat(laid_out[None], count, 0).astype(TYPES[image.type])
    scores: NDArray[np.float32] = original.run(None, {image.name: feed})[0]
    return scores


def as_pixels(stored: NDArray[np.generic], spec: model_pb2.ModelSpec, path: Path) -> NDArray[np.uint8]:
    """Return a stored window as N,H,W,C pixels; its numbers are multiples of 1/255, or pixels already."""
    scale = 1 if stored.dtype == np.uint8 or path.stem.startswith("rescaled") else 255
    pixels = np.rint(stored.astype(np.float64) * scale)
    assert_allclose(pixels / scale, stored.astype(np.float64), atol=COARSE.get(path.name.split(".")[0], 1e-6))
    last = pixels.shape[3] == spec.input.channels and pixels.shape[1] == spec.window.height
    return (pixels if last else np.moveaxis(pixels, 1, -1)).astype(np.uint8)


def run(network: ort.InferenceSession, spec: model_pb2.ModelSpec, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scores (N, classes, rows, cols) of pixels N,H,W,C."""
    image = pixels if spec.input.layout == "NHWC" else np.moveaxis(pixels, -1, 1)
    feed = np.ascontiguousarray(image.astype(spec.input.dtype))
    scores: NDArray[np.float32] = network.run(None, {spec.input.name: feed})[0]
    return scores


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(path, options)


@pytest.mark.parametrize(("path", "expected_message"), REFUSED, ids=[f"{p.parent.name}-{p.stem}" for p, _ in REFUSED])
def test_exports_are_refused(tmp_path: Path, path: Path, expected_message: str) -> None:
    """The network is refused in one line with the reason, and nothing is written."""
    with pytest.raises(ConversionError) as caught:
        convert(path, (0, 0), tmp_path)
    assert expected_message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()
