"""Variants at other strides have equal cells for the same windows, and the scores of crops for unpadded networks."""

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from support.conversion import SILENT
from support.networks import PADDED, UNPADDED, make_network

from converter import convert as conversion
from converter.errors import ConversionError
from converter.sources.read import read_source
from fullconv.common.model_files import STRIDE_MODEL
from fullconv.protos import model_pb2

DATA = Path(__file__).parent.parent / "data"
STRIDES = (1, 2, 4, 8, 16)
TRUNKS = [
    "pytorch/basic_block.torchscript_batch",  # branches that meet
    "pytorch/squeezenet.torchscript",  # pools with ceil_mode, Concat
    "pytorch/convnext.torchscript",  # LayerNormalization between transposes
    "pytorch/densenet.torchscript_batch",
    "pytorch/shufflenet.dynamo_batch",
    "pytorch/average_pool_pad.torchscript_batch",
    "pytorch/cropped_residual.torchscript_batch",  # Slice
    "pytorch/pixel_unshuffle.torchscript_batch",  # strides that convolutionalization has added
    "pytorch/uneven_pad.torchscript",  # Pad
    "pytorch/adaptive_even.torchscript",  # a dilated layer
    "pytorch/strided.torchscript_batch",  # 8 and 4 pixels
    "keras/same_strided.tf2onnx",
    "keras/residual.tf2onnx",
]


def convert(source: Path, folder: Path, *strides: int, arch: Path | None = None) -> model_pb2.ModelSpec:
    """Convert a network that takes pixels from 0 to 1."""
    request = conversion.Request(folder / "net" / "1", preprocess="unit", windows=4, strides=strides)
    return conversion.convert(read_source(source, arch=str(arch) if arch else None, window=None), request, SILENT).spec


def grids(folder: Path, spec: model_pb2.ModelSpec, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return each file's scores of an image (height, width, channels) as (rows, cols, classes)."""
    sessions = [ort.InferenceSession(folder / "net" / "1" / entry.file) for entry in spec.strides]
    return [np.moveaxis(each.run(None, {"image": pixels[None]})[0][0], 0, -1) for each in sessions]


@pytest.mark.parametrize("name", TRUNKS)
def test_cells_of_the_same_window_are_equal(tmp_path: Path, name: str) -> None:
    """Phase (0, 0) of every finer stride is the native grid, and every coarser grid is a part of it."""
    spec = convert(DATA / f"{name}.onnx", tmp_path, *STRIDES)
    native = (spec.vertical.stride, spec.horizontal.stride)
    assert len(spec.strides) == len({(stride, stride) for stride in STRIDES} | {native})
    size = (spec.window.height + 3 * native[0], spec.window.width + 5 * native[1])
    pixels = np.random.default_rng(0).integers(0, 256, (*size, spec.input.channels), np.uint8)
    scores = grids(tmp_path, spec, pixels)
    for entry, own in zip(spec.strides, scores, strict=True):
        strides = (entry.stride.height, entry.stride.width)
        assert own.shape[:2] == (3 * native[0] // strides[0] + 1, 5 * native[1] // strides[1] + 1)
        finer = tuple(slice(None, None, max(1, mine // its)) for mine, its in zip(native, strides, strict=True))
        coarser = tuple(slice(None, None, max(1, its // mine)) for mine, its in zip(native, strides, strict=True))
        assert_allclose(own[finer], scores[0][coarser], rtol=0, atol=1e-5 * np.abs(scores[0]).max())


def test_every_window_of_an_unpadded_network(tmp_path: Path) -> None:
    """At every stride, each cell equals the numpy network's score of its window, and every window has a cell."""
    network = make_network(tmp_path, UNPADDED.replace("[22, 26]", "[24, 27]"))
    spec = convert(network.checkpoint, tmp_path, 1, 2, 12, arch=network.toml)
    pixels = np.random.default_rng(0).integers(0, 256, (24 + 12, 27 + 12, 3), np.uint8)
    for entry, grid in zip(spec.strides, grids(tmp_path, spec, pixels), strict=True):
        assert grid.shape[:2] == (12 // entry.stride.height + 1, 12 // entry.stride.width + 1)
        for row, col in itertools.product(range(0, len(grid), 3), range(0, grid.shape[1], 2)):
            top, left = row * entry.stride.height, col * entry.stride.width
            assert_allclose(grid[row, col], network.scores(pixels[top : top + 24, left : left + 27]), atol=1e-4)


def test_shifted_passes_are_the_other_phases(tmp_path: Path) -> None:
    """Native grids of shifted images equal the phases of the finer grid; with padding, only away from the border."""
    for toml, padding in ((UNPADDED, 0), (PADDED, 3)):
        folder = tmp_path / str(padding)
        folder.mkdir()
        network = make_network(folder, toml)
        spec = convert(network.checkpoint, folder, spec_stride(toml) // 2, arch=network.toml)
        half, native = spec.strides[1].stride.height, spec.vertical.stride
        size = (spec.window.height + 7 * half, spec.window.width + 7 * half)
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        _, finer = grids(folder, spec, pixels)
        touched = -(-spec.vertical.padding_before // native) if padding else 0
        for top, left in itertools.product((0, half), repeat=2):
            shifted = grids(folder, spec, pixels[top:, left:])[0][touched:, touched:]
            phase = finer[top // half :: 2, left // half :: 2][touched:, touched:]
            rows, cols = (min(pair) for pair in zip(shifted.shape[:2], phase.shape[:2], strict=True))
            assert min(rows, cols) > 0
            assert_allclose(phase[:rows, :cols], shifted[:rows, :cols], rtol=0, atol=2e-6 * np.abs(finer).max())


def spec_stride(toml: str) -> int:
    """Return the native stride of a network in `support.networks`."""
    return 4 if toml == UNPADDED else 8


def test_files_share_their_weights(tmp_path: Path) -> None:
    """A second file adds less than a hundredth to the shipped model's size, and holds no weights of its own."""
    digits = Path("models/digits")
    spec = convert(digits / "digits.safetensors", tmp_path, 4, arch=digits / "digits.toml")
    folder = tmp_path / "net" / "1"
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    alone = convert_alone(tmp_path)
    assert sum(sizes.values()) < 1.01 * alone
    assert [entry.file for entry in spec.strides] == ["model.onnx", STRIDE_MODEL.format(4)]
    weights = [tensors(folder / entry.file) for entry in spec.strides]
    assert weights[0] == weights[1]
    assert len(weights[0]) > 5
    assert len(json.loads((folder / "report.json").read_text())["parity"]) == 2


def convert_alone(folder: Path) -> int:
    """Convert the shipped model at its native stride only; returns the bytes of its files."""
    (folder / "alone").mkdir()
    digits = Path("models/digits")
    convert(digits / "digits.safetensors", folder / "alone", arch=digits / "digits.toml")
    return sum(path.stat().st_size for path in (folder / "alone" / "net" / "1").iterdir())


def tensors(file: Path) -> dict[str, tuple[str, ...]]:
    """Return the location of each external weight of a file."""
    graph = onnx.load(file, load_external_data=False).graph
    return {
        each.name: tuple(part.value for part in each.external_data) for each in graph.initializer if each.external_data
    }


def test_averages_that_leave_their_padding_out_have_no_wide_variant(tmp_path: Path) -> None:
    """A stride that would need such a pool is refused, the error names the node, and nothing is written."""
    source = DATA / "keras" / "same_pool.tf2onnx.onnx"
    with pytest.raises(ConversionError, match=r"\(AveragePool\): an average that does not count its padding"):
        convert(source, tmp_path, 1)
    assert not (tmp_path / "net").exists()
    assert len(convert(source, tmp_path).strides) == 1


def test_the_native_stride_has_exactly_one_file(tmp_path: Path) -> None:
    """Naming the native stride, or a stride twice, adds no file."""
    network = make_network(tmp_path, UNPADDED)
    spec = convert(network.checkpoint, tmp_path, 4, 2, 2, arch=network.toml)
    assert_array_equal([entry.stride.height for entry in spec.strides], [4, 2])
