"""Networks that enlarge maps by Resize, ConvTranspose and DepthToSpace slide."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from support.pictures import noise
from support.upsampling_networks import SHUFFLE, SMALLER, TRUNK, UNPADDED, Nodes, convert, graph
from support.written_graphs import node

from converter.errors import ConversionError
from fullconv import Scorer
from fullconv.common.model_files import STRIDE_MODEL


def scores(file: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a converted network's scores (rows, cols, classes) of an image (height, width, channels)."""
    grid: NDArray[np.float32] = ort.InferenceSession(file).run(None, {"image": pixels[None]})[0]
    return np.moveaxis(grid[0], 0, -1)


EXACT: dict[str, Nodes] = {
    "nearest": [*UNPADDED, SMALLER, "Resize: s _ double -> m"],
    "nearest, asymmetric": [
        *UNPADDED,
        SMALLER,
        node(
            "Resize: s _ double -> m",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ],
    "to the size of another branch": [
        *UNPADDED,
        SMALLER,
        "Shape: x -> size",
        "Resize: s _ _ size -> r",
        "Add: x r -> m",
    ],
    "nearest-exact of PyTorch": [
        *UNPADDED,
        SMALLER,
        node(
            "Resize: s _ double -> m",
            mode="nearest",
            coordinate_transformation_mode="half_pixel",
            nearest_mode="round_prefer_ceil",
        ),
    ],
    "pixel shuffle": [*UNPADDED, SMALLER, SHUFFLE, "Conv: r k1 -> m"],
    "depth to space": [*UNPADDED, SMALLER, node("DepthToSpace: s -> r", blocksize=2), "Conv: r k1 -> m"],
    "pixel shuffle by reshapes": [
        *UNPADDED,
        SMALLER,
        "Reshape: s blocks -> t",
        node("Transpose: t -> u", perm=[0, 1, 4, 2, 5, 3]),
        "Reshape: u shuffled -> r",
        "Conv: r k1 -> m",
    ],
    "pixel shuffle beside a branch": [
        *UNPADDED,
        SMALLER,
        SHUFFLE,
        "Relu: r -> a",
        "Mul: a factor -> b",
        "Conv: x n1 -> n",
        node("Concat: b n -> o", axis=1),
        "Conv: o k2 -> m",
    ],
    "two pixel shuffles": [
        *UNPADDED,
        node("MaxPool: x -> s", kernel_shape=[4, 4], strides=[4, 4]),
        "Conv: s n16 -> t",
        node("DepthToSpace: t -> u", blocksize=2, mode="CRD"),
        "Relu: u -> v",
        node("DepthToSpace: v -> r", blocksize=2),
        "Conv: r k1 -> m",
    ],
    "pixel shuffle before the head": [
        *UNPADDED,
        SMALLER,
        "Conv: s n16 -> t",
        node("DepthToSpace: t -> m", blocksize=2, mode="CRD"),
    ],
    "along rows": [*UNPADDED, SMALLER, "Resize: s _ double_rows -> m"],
    "by its axes": [*UNPADDED, SMALLER, node("Resize: s _ spatial -> m", axes=[2, 3])],
    "to its own size": [*UNPADDED, "Resize: x _ _ eight -> m"],
    "then a convolution": [*UNPADDED, SMALLER, "Resize: s _ double -> r", "Conv: r k4 -> m"],
    "then a layer of stride 2": [
        *UNPADDED,
        SMALLER,
        "Resize: s _ double -> r",
        node("Conv: r k4 -> m", strides=[2, 2]),
    ],
    "ConvTranspose": [*UNPADDED, SMALLER, node("ConvTranspose: s t2 -> m", strides=[2, 2])],
    "ConvTranspose of groups": [*UNPADDED, SMALLER, node("ConvTranspose: s groups -> m", strides=[2, 2], group=2)],
    "ConvTranspose of stride 1": [*UNPADDED, node("ConvTranspose: x t3 -> m", pads=[2, 2, 2, 2])],
}
PADDED: dict[str, Nodes] = {
    "nearest, shifted by half a pixel": [*TRUNK, SMALLER, node("Resize: s _ double -> m", nearest_mode="floor")],
    "nearest, shifted by a whole pixel": [
        *TRUNK,
        SMALLER,
        node("Resize: s _ double -> m", coordinate_transformation_mode="asymmetric", nearest_mode="ceil"),
    ],
    "pixel shuffle of a padded network": [
        *TRUNK,
        SMALLER,
        node("Conv: s k4 -> n", pads=[1, 1, 1, 1]),
        node("DepthToSpace: n -> r", blocksize=2, mode="CRD"),
        node("Conv: r k1 -> m", pads=[1, 1, 1, 1]),
    ],
    "linear": [*TRUNK, SMALLER, node("Resize: s _ double -> m", mode="linear")],
    "linear, asymmetric": [
        *TRUNK,
        SMALLER,
        node("Resize: s _ double -> m", mode="linear", coordinate_transformation_mode="asymmetric"),
    ],
    "cubic": [
        *TRUNK,
        SMALLER,
        node("Resize: s _ double -> m", mode="cubic", coordinate_transformation_mode="pytorch_half_pixel"),
    ],
    "nearest of a padded network": [
        *TRUNK,
        SMALLER,
        node("Conv: s k4 -> n", pads=[1, 1, 1, 1]),
        "Resize: n _ double -> r",
        "Add: x r -> a",
        node("Conv: a k4 -> m", pads=[1, 1, 1, 1], strides=[2, 2]),
    ],
    "ConvTranspose with pads": [
        *TRUNK,
        SMALLER,
        node("ConvTranspose: s t4 -> r", strides=[2, 2], pads=[1, 1, 1, 1]),
        "Add: x r -> m",
    ],
    "ConvTranspose with output_padding": [
        *TRUNK,
        SMALLER,
        node("ConvTranspose: s t3 -> m", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    ],
    "ConvTranspose with dilation": [
        *TRUNK,
        SMALLER,
        node("ConvTranspose: s t3 -> m", strides=[2, 2], dilations=[2, 2]),
    ],
    "ConvTranspose with SAME_UPPER": [
        *TRUNK,
        SMALLER,
        node("ConvTranspose: s t3 -> r", strides=[2, 2], auto_pad="SAME_UPPER"),
        "Add: x r -> m",
    ],
    "ConvTranspose with SAME_LOWER": [
        *TRUNK,
        SMALLER,
        node("ConvTranspose: s t3 -> r", strides=[2, 2], auto_pad="SAME_LOWER"),
        "Add: x r -> m",
    ],
    "ConvTranspose with a larger output_shape": [
        *TRUNK,
        SMALLER,
        node("ConvTranspose: s t1 -> r", strides=[2, 2], output_shape=[10, 10]),
        "Add: x r -> m",
    ],
    "ConvTranspose with output_shape": [
        *TRUNK,
        SMALLER,
        node("ConvTranspose: s t3 -> r", strides=[2, 2], output_shape=[10, 10]),
        "Add: x r -> m",
    ],
}


@pytest.mark.parametrize("nodes", EXACT.values(), ids=EXACT)
def test_every_window_of_an_unpadded_network(tmp_path: Path, nodes: Nodes) -> None:
    """The network is exact, and every cell of a larger image equals the source network on its window."""
    spec = convert(graph(nodes), tmp_path)
    assert spec.parity[0].exact
    down, across = spec.vertical.stride, spec.horizontal.stride
    pixels = noise(20 + 3 * down, 20 + 2 * across, 3)
    grid = scores(tmp_path / "net" / "1" / "model.onnx", pixels)
    assert grid.shape == (4, 3, 5)
    assert_windows(tmp_path, grid, pixels, down, across)


def assert_windows(folder: Path, grid: NDArray[Any], pixels: NDArray[np.uint8], down: int, across: int) -> None:
    """Check that every cell (rows, cols, classes) has the source network's scores of its window."""
    original = ort.InferenceSession(folder / "net.onnx")
    for row, col in np.ndindex(*grid.shape[:2]):
        crop = pixels[row * down : row * down + 20, col * across : col * across + 20]
        (expected,) = original.run(None, {"image": np.moveaxis(crop, -1, 0)[None] / np.float32(255)})
        assert_allclose(grid[row, col], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("nodes", PADDED.values(), ids=PADDED)
def test_interior_cells_of_a_padded_network(tmp_path: Path, nodes: Nodes) -> None:
    """A part of an image has the scores of the image, apart from the cells that the geometry counts as border."""
    spec = convert(graph(nodes), tmp_path)
    axis = spec.vertical
    assert not spec.parity[0].exact
    before = -(-axis.padding_before // axis.stride)
    after = -(-max(0, axis.receptive_field - axis.padding_before - 20) // axis.stride)
    rows = before + after + 3
    pixels = noise(20 + (rows + 2) * axis.stride, 20 + (rows + 2) * axis.stride, 3)
    file = tmp_path / "net" / "1" / "model.onnx"
    whole, part = scores(file, pixels), scores(file, pixels[axis.stride : -axis.stride, axis.stride : -axis.stride])
    assert (len(whole), len(part)) == (rows + 3, rows + 1)
    cells = slice(before, rows + 1 - after)
    assert_allclose(part[cells, cells], whole[1:-1, 1:-1][cells, cells], rtol=0, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13])
def test_older_operator_sets(tmp_path: Path, opset: int) -> None:
    """Upsample of operator sets 7 to 9, and Resize of later ones, enlarge maps."""
    enlarge = {
        7: node("Upsample: s -> m", scales=[1.0, 1, 2, 2], mode="nearest"),
        9: node("Upsample: s double -> m", mode="nearest"),
        10: node("Resize: s double -> m", mode="nearest"),
    }
    later = node("Resize: s part double -> m", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    spec = convert(graph([*UNPADDED, SMALLER, enlarge.get(opset, later)], opset=opset), tmp_path)
    assert spec.parity[0].exact


def test_strides(tmp_path: Path) -> None:
    """Coarser strides have files; a finer stride is refused unless enlarged maps shift by it."""
    nodes: Nodes = [
        *UNPADDED,
        SMALLER,
        "Resize: s _ double -> r",
        node("MaxPool: r -> m", kernel_shape=[4, 4], strides=[4, 4]),
    ]
    spec = convert(graph(nodes), tmp_path, 4, 16)
    assert spec.vertical.stride == 8
    pixels = noise(52, 52, 3)
    native, finer, coarser = (
        scores(tmp_path / "net" / "1" / name, pixels)
        for name in ("model.onnx", STRIDE_MODEL.format(4), STRIDE_MODEL.format(16))
    )
    assert_allclose(finer[::2, ::2], native, rtol=0, atol=1e-5)
    assert_allclose(coarser, native[::2, ::2], rtol=0, atol=1e-5)
    finer_folder = tmp_path / "finer"
    finer_folder.mkdir()
    with pytest.raises(ConversionError, match=r"expected a multiple of 4 pixels, because node 'r' \(Resize\) enlarges"):
        convert(graph(nodes), finer_folder, 2)


def test_other_strides_are_shifted_passes(tmp_path: Path) -> None:
    """The service computes a stride without a file from shifted images: every cell equals the source network's."""
    convert(graph(EXACT["nearest"]), tmp_path)
    pixels = noise(27, 25, 3)
    with Scorer(tmp_path) as scorer:
        grid = scorer.score(pixels, model="net", stride=1, grid=True).grid
    assert grid is not None
    assert grid.shape == (8, 6, 5)
    assert_windows(tmp_path, grid, pixels, 1, 1)


@pytest.mark.parametrize(
    "enlarged",
    [
        [node("ConvTranspose: s t2 -> t", strides=[2, 2]), "Resize: t _ double -> r"],
        ["Conv: s n16 -> t", node("DepthToSpace: t -> u", blocksize=2), "Resize: u _ double -> r"],
    ],
    ids=["ConvTranspose", "DepthToSpace"],
)
def test_windows_share_what_precedes(tmp_path: Path, enlarged: Nodes) -> None:
    """A padded network has a file of mode shared, which gives the source's scores at strides of its own."""
    nodes: Nodes = [
        node("Conv: image k3 -> x", pads=[1, 1, 1, 1]),
        *(node(f"Conv: {name} k4 -> {name}x", pads=[1, 1, 1, 1]) for name in ("x", "xx")),
        node("MaxPool: xxx -> s", kernel_shape=[4, 4], strides=[4, 4]),
        *enlarged,
        "Add: xxx r -> m",
    ]
    spec = convert(graph(nodes), tmp_path)
    shared = next(each for each in spec.shared if each.multiple_of.height == 1)
    pixels = noise(26, 29, 3)
    session = ort.InferenceSession(tmp_path / "net" / "1" / shared.file)
    (grid,) = session.run(None, {"image": pixels[None], "stride": np.array([3, 3])})
    assert grid.shape == (1, 5, 3, 4)
    assert_windows(tmp_path, np.moveaxis(grid[0], 0, -1), pixels, 3, 3)


def test_multiply_adds_of_a_transposed_convolution(tmp_path: Path) -> None:
    """Every element of its input is multiplied by every weight, in every mode."""
    nodes: Nodes = [*UNPADDED, SMALLER, node("ConvTranspose: s t2 -> m", strides=[2, 2])]
    expected = 64 * 27 * 4 + 16 * 64 + 20
    assert convert(graph(nodes), tmp_path).cost[0].multiply_adds_per_window == expected
    (tmp_path / "crops").mkdir()
    crops = convert(graph(nodes), tmp_path / "crops", crops_only=True)
    assert crops.cost[0].multiply_adds_per_crop == expected


def test_half_precision(tmp_path: Path) -> None:
    """The factors of a Resize remain constants in float32."""
    spec = convert(graph(PADDED["linear"]), tmp_path, precision="fp16")
    assert spec.parity[0].precision.relative_l2 < 1e-3
