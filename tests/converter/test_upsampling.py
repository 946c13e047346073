"""Networks that enlarge maps by Resize, ConvTranspose and DepthToSpace slide, or are refused with the reason."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.conversion import SILENT
from support.pictures import noise
from support.written_graphs import node

from converter import convert as conversion
from converter.errors import ConversionError
from converter.sources.read import read_source
from fullconv import Scorer
from fullconv.common.model_files import STRIDE_MODEL
from fullconv.protos import model_pb2

RNG = np.random.default_rng(0)
Nodes = Sequence[str | onnx.NodeProto]
CONSTANTS = {
    "k3": RNG.standard_normal((4, 3, 3, 3)) / 4,
    "k4": RNG.standard_normal((4, 4, 3, 3)) / 6,
    "t2": RNG.standard_normal((4, 4, 2, 2)) / 3,
    "t3": RNG.standard_normal((4, 4, 3, 3)) / 4,
    "t4": RNG.standard_normal((4, 4, 4, 4)) / 5,
    "groups": RNG.standard_normal((4, 2, 2, 2)) / 2,
    "w4": RNG.standard_normal((4, 5)) / 2,
    "double": np.array([1, 1, 2, 2.0]),
    "double_rows": np.array([1, 1, 2, 1.0]),
    "half": np.array([1, 1, 0.5, 0.5]),
    "spatial": np.array([2, 2.0]),
    "eight": np.array([1, 4, 8, 8]),
    "ten": np.array([1, 4, 10, 10]),
    "part": np.array([0, 0, 0, 0, 1, 1, 1, 1.0]),
    "t1": RNG.standard_normal((4, 4, 1, 1)),
    "k1": RNG.standard_normal((4, 1, 3, 3)),
    "k2": RNG.standard_normal((4, 2, 3, 3)) / 2,
    "n1": RNG.standard_normal((1, 4, 1, 1)) / 2,
    "n4": RNG.standard_normal((4, 1, 1, 1)),
    "n16": RNG.standard_normal((16, 4, 1, 1)) / 2,
    "n48": RNG.standard_normal((48, 3, 1, 1)),
    "columns": np.array([1, 1, 4, 4, 4]),
    "wide": np.array([1, 1, 4, 16]),
    "factor": np.full((1, 1, 1, 1), 1.5),
    "blocks": np.array([1, 1, 2, 2, 4, 4]),
    "shuffled": np.array([1, 1, 8, 8]),
}


def graph(nodes: Nodes, *, opset: int = 19) -> onnx.ModelProto:
    """Return a classifier of 3×20×20 windows; its last map is m, whose average has 4 features."""
    head = [node("GlobalAveragePool: m -> g"), node("Flatten: g -> f"), node("MatMul: f w4 -> y")]
    proto = helper.make_graph(
        [*(each if isinstance(each, onnx.NodeProto) else node(each) for each in nodes), *head],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 20, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [
            numpy_helper.from_array(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), name)
            for name, array in CONSTANTS.items()
        ],
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def convert(proto: onnx.ModelProto, folder: Path, *strides: int, **options: Any) -> model_pb2.ModelSpec:
    """Convert a network that takes pixels from 0 to 1."""
    onnx.save(proto, folder / "net.onnx")
    request = conversion.Request(folder / "net" / "1", windows=4, preprocess="unit", strides=strides, **options)
    return conversion.convert(read_source(folder / "net.onnx", arch=None, window=None), request, SILENT).spec


def scores(file: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a converted network's scores (rows, cols, classes) of an image (height, width, channels)."""
    grid: NDArray[np.float32] = ort.InferenceSession(file).run(None, {"image": pixels[None]})[0]
    return np.moveaxis(grid[0], 0, -1)


TRUNK: Nodes = [node("Conv: image k3 -> c", strides=[2, 2], pads=[0, 0, 1, 1]), "Relu: c -> x"]
"""Ten rows and columns, 2 pixels apart; the last ones read padding."""
UNPADDED: Nodes = [node("MaxPool: image -> p", kernel_shape=[2, 2], strides=[2, 2]), node("Conv: p k3 -> x")]
"""Eight rows and columns, 2 pixels apart."""
SMALLER = node("MaxPool: x -> s", kernel_shape=[2, 2], strides=[2, 2])
SHUFFLE = node("DepthToSpace: s -> r", blocksize=2, mode="CRD")
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


REFUSED: dict[str, tuple[Nodes, str]] = {
    "other factor": (
        [*UNPADDED, "Resize: x _ _ ten -> m"],
        "node 'm' (Resize): expected to enlarge rows and columns by integer factors, got 8×8 to 10×10",
    ),
    "smaller": (
        [*UNPADDED, "Resize: x _ half -> m"],
        "node 'm' (Resize): expected to enlarge rows and columns by integer factors, got 8×8 to 4×4",
    ),
    "corners": (
        [
            *UNPADDED,
            SMALLER,
            node("Resize: s _ double -> m", mode="linear", coordinate_transformation_mode="align_corners"),
        ],
        "node 'm' (Resize): expected another coordinate transformation than 'align_corners', whose positions depend on",
    ),
    "crop": (
        [
            *UNPADDED,
            SMALLER,
            node("Resize: s part double -> m", coordinate_transformation_mode="tf_crop_and_resize"),
        ],
        "node 'm' (Resize): expected another coordinate transformation than 'tf_crop_and_resize', which cuts a part",
    ),
    "shuffled pixels": (
        ["Conv: image n48 -> c", node("DepthToSpace: c -> r", blocksize=4), "Conv: r k3 -> m"],
        "node 'm_cells_1' (DepthToSpace): expected a factor that divides the 1 pixels between the elements of its",
    ),
    "shuffled summary": (
        [
            *UNPADDED,
            node("GlobalAveragePool: x -> a"),
            node("DepthToSpace: a -> r", blocksize=2),
            "Conv: r n4 -> m",
        ],
        "node 'm' (Conv): mixes a summary of the whole map back into the map",
    ),
    "rows and columns of channels": (
        [
            *UNPADDED,
            SMALLER,
            "Reshape: s columns -> t",
            node("Transpose: t -> u", perm=[0, 1, 3, 4, 2]),
            "Reshape: u wide -> r",
            "Conv: r k1 -> m",
        ],
        "node 'm' (Conv): expected a map (N, C, height, width), got positions in another order: (1, 1, 4, 16)",
    ),
    "half pixels": (
        ["Resize: image _ double -> r", "Conv: r k3 -> m"],
        "node 'r' (Resize): expected a factor that divides the 1 pixels between the elements of its input, got 2",
    ),
    "summary": (
        [*UNPADDED, node("GlobalAveragePool: x -> a"), "Resize: a _ _ eight -> r", "Add: x r -> m"],
        "node 'r' (Resize): mixes a summary of the whole map back into the map",
    ),
    "transposed summary": (
        [*UNPADDED, node("GlobalMaxPool: x -> a"), node("ConvTranspose: a t2 -> m")],
        "node 'm' (ConvTranspose): mixes a summary of the whole map back into the map",
    ),
}


@pytest.mark.parametrize(("nodes", "expected_message"), REFUSED.values(), ids=REFUSED)
def test_maps_that_cannot_be_enlarged(tmp_path: Path, nodes: Nodes, expected_message: str) -> None:
    """The refusal names the node and the reason, and nothing is written."""
    with pytest.raises(ConversionError) as caught:
        convert(graph(nodes), tmp_path)
    assert str(caught.value).startswith(expected_message)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()
