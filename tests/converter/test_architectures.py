"""Networks described in TOML, the shipped networks and every kind of layer, agree with the reference and PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import save_file
from support import reference
from support.conversion import SILENT, convert_into
from support.networks import make_network

from converter import convert as conversion
from converter.errors import SourceError
from converter.preprocessing import load_preprocessing
from converter.sources.architecture import load_architecture, recognise
from converter.sources.classifier import Classifier
from converter.sources.layers import Add, AvgPool, Conv, MaxPool
from converter.sources.read import read_source

LECTURED = {
    "alexnet2012": (227, [(11, 4), (3, 2), (5, 1), (3, 2), (3, 1), (3, 1), (3, 1), (3, 2)]),
    "cifar10_80sec": (32, [(5, 1), (3, 2), (5, 1), (3, 2), (5, 1), (3, 2)]),
    "cifar10_18pct": (32, [(5, 1), (3, 2), (5, 1), (3, 2), (5, 1), (3, 2)]),
    "allcnn_c": (32, [(3, 1), (3, 1), (3, 2), (3, 1), (3, 1), (3, 2), (3, 1), (1, 1), (1, 1)]),
}
"""Networks of the lecture note: the window, and the kernel and stride of every convolution and pool."""

TOML = """
name = "net"
channels = 4
window = [17, 20]
preprocess = "none"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 6, kernel = 3 },
  %s
  { op = "linear", key = "z" },
]
"""
FLATTEN = '{ op = "flatten" },'
LAYERS = {
    "groups": '{ op = "conv", key = "b", out = 4, kernel = 3, groups = 2 },',
    "depthwise": '{ op = "conv", key = "b", out = 12, kernel = 3, stride = 2, groups = 6 },',
    "no-bias": '{ op = "conv", key = "b", out = 5, kernel = 2, bias = false },',
    "open-width": '{ op = "conv", key = "b", kernel = 2 },',
    "linear-no-bias": FLATTEN + '{ op = "linear", key = "b", out = 7, bias = false }, { op = "relu" },',
    "lrn": '{ op = "lrn", size = 3, alpha = 0.7, beta = 0.6, bias = 1.5 },',
    "lrn-wide": '{ op = "lrn", size = 9, alpha = 0.7 },',
    "lrn-map": '{ op = "lrn", size = 5, alpha = 0.7, beta = 0.6, bias = 1.5, region = "map" },',
    "maxpool": '{ op = "maxpool", kernel = 4, stride = 3 },',
    "maxpool-ceil": '{ op = "maxpool", kernel = 4, stride = 3, ceil = true },',
    "maxpool-ceil-pad": '{ op = "maxpool", kernel = 3, stride = 2, pad = 1, ceil = true },',
    "maxpool-ceil-behind": '{ op = "maxpool", kernel = 2, stride = 5, ceil = true },',
    "avgpool": '{ op = "avgpool", kernel = 4, stride = 3 },',
    "avgpool-ceil": '{ op = "avgpool", kernel = 4, stride = 3, ceil = true },',
    "avgpool-ceil-behind": '{ op = "avgpool", kernel = 2, stride = 7, ceil = true },',
    "same": '{ op = "conv", key = "b", out = 4, kernel = 5, stride = 2, pad = "same" },',
    "same-even": '{ op = "conv", key = "b", out = 4, kernel = 2, stride = 3, pad = "same" },',
    **{
        name: f'{{ op = "{name}" }},'
        for name in ("relu6", "elu", "selu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "tanh")
    },
    "leakyrelu": '{ op = "leakyrelu", slope = 0.2 },',
    "prelu": '{ op = "prelu", key = "b" },',
    "prelu-vector": FLATTEN + '{ op = "linear", key = "b", out = 7 }, { op = "prelu", key = "c" },',
    "batchnorm": '{ op = "batchnorm", key = "b", eps = 0.1 }, { op = "dropout" },',
    "batchnorm-vector": FLATTEN + '{ op = "linear", key = "b", out = 7 }, { op = "batchnorm", key = "c" },',
    "add": '{ op = "add", branches = [[{ op = "conv", key = "b", out = 6, kernel = 3, pad = 1 }], []] },',
    "add-if-same": '{ op = "add", if_same_shape = true, branches = ['
    '[{ op = "conv", key = "b", out = 5, kernel = 3 }], []] },',
    "add-vectors": FLATTEN + '{ op = "linear", key = "b", out = 7 }, '
    '{ op = "add", branches = [[{ op = "linear", key = "c", out = 7 }, { op = "tanh" }], []] },',
    "concat": '{ op = "concat", branches = [[], [{ op = "relu" }, { op = "conv", key = "b", out = 2, kernel = 1 }]] },',
    "nested": '{ op = "concat", branches = [[{ op = "add", branches = [[], [{ op = "tanh" }]] }], []] },',
    "bias-any": '{ op = "conv", key = "b", out = 5, kernel = 2, bias = "any" },',
    "globalmaxpool": '{ op = "globalmaxpool" },',
    "globalavgpool": '{ op = "relu" }, { op = "globalavgpool" },',
}


def windows(classifier: Classifier, count: int = 2) -> np.ndarray:
    """Return random windows (N, height, width, channels) uint8."""
    shape = classifier.original.graph.inputs[0].shape
    assert shape is not None
    channels = shape[1]
    assert isinstance(channels, int)
    return np.random.default_rng(1).integers(0, 256, (count, *classifier.window, channels), dtype=np.uint8)


def answer(classifier: Classifier, pixels: np.ndarray, folder: Path) -> np.ndarray:
    """Return the scores of the network as it was read, before anything is rewritten."""
    ir.save(classifier.original, folder / "read.onnx")
    session = ort.InferenceSession(folder / "read.onnx")
    preprocessing = load_preprocessing(classifier.preprocess)
    image = preprocessing.apply(pixels) if preprocessing else pixels.astype(np.float32) / 255
    scores: np.ndarray = session.run(None, {"input": np.moveaxis(image, -1, 1)})[0]
    return scores


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_layers_are_the_references(layer: str, tmp_path: Path) -> None:
    """Every kind of layer gives the reference's values, at sizes that do not fit evenly."""
    network = make_network(tmp_path, TOML % (layer if FLATTEN in layer else layer + FLATTEN))
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    pixels = windows(classifier)
    got = answer(classifier, pixels, tmp_path)
    for scores, window in zip(got, pixels, strict=True):
        expected = reference.run(network.architecture, network.tensors, window.transpose(2, 0, 1) / 255)
        assert_allclose(scores, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


PIXELS = np.random.default_rng(3).integers(0, 256, (2, 16, 20, 3), np.uint8)
RESIDUAL = """
name = "residual"
channels = 3
window = [16, 20]
preprocess = "unit"
layers = [
  { op = "conv", key = "stem", out = 4, kernel = 3 },
  { op = "blocks", block = "step", key = "s", count = 3, parameters = { out = 4 }, first = { stride = 2, out = 6 } },
  { op = "flatten" },
  { op = "linear", key = "fc" },
]

[blocks.step]
parameters = { stride = 1, out = 4, kernel = 3 }
layers = [
  { op = "add", if_same_shape = true, branches = [
    [{ op = "conv", key = "a", out = "$out", kernel = "$kernel", stride = "$stride", pad = 1 }, { op = "relu" }],
    [],
  ] },
]
"""


def test_blocks_are_repeated_as_in_the_checkpoint(tmp_path: Path) -> None:
    """A block has the parameters of its copy; without a count, there are as many copies as the checkpoint has."""
    network = make_network(tmp_path, RESIDUAL)
    kinds = [layer.branches[0][0] for layer in network.architecture.layers_for(()) if isinstance(layer, Add)]
    assert [(kind.key, kind.stride, kind.out) for kind in kinds if isinstance(kind, Conv)] == [
        ("s.0.a", 2, 6),
        ("s.1.a", 1, 4),
        ("s.2.a", 1, 4),
    ]
    network.toml.write_text(RESIDUAL.replace("count = 3, ", ""), "utf-8")
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    pixels = windows(classifier)
    for scores, window in zip(answer(classifier, pixels, tmp_path), pixels, strict=True):
        expected = reference.run(network.architecture, network.tensors, window.transpose(2, 0, 1) / 255)
        assert_allclose(scores, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_optional_layers_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """An optional layer without tensors in the checkpoint is left out; another layer must have its tensors."""
    layer = '{ op = "batchnorm", key = "b", optional = true },' + FLATTEN
    network = make_network(tmp_path, TOML % layer)
    network.toml.write_text(TOML % layer, "utf-8")
    assert read_source(network.checkpoint, arch=str(network.toml), window=None).original.graph.num_nodes() == 3
    save_file({key: value for key, value in network.tensors.items() if "b." not in key}, network.checkpoint)
    assert read_source(network.checkpoint, arch=str(network.toml), window=None).original.graph.num_nodes() == 3
    network.toml.write_text(TOML % layer.replace(", optional = true", ""), "utf-8")
    with pytest.raises(SourceError, match=r"but it lacks b\.bias"):
        read_source(network.checkpoint, arch=str(network.toml), window=None)


@pytest.mark.parametrize(
    ("saved", "note"),
    [
        (lambda tensors: {f"model.{key}": value for key, value in tensors.items()}, "begin with 'model.' in"),
        (
            lambda tensors: {
                **{f"net.backbone.{key}": value for key, value in tensors.items()},
                "loss.weight": np.ones(3, np.float32),
            },
            "begin with 'net.backbone.' in the checkpoint; left out: loss.weight",
        ),
        (lambda tensors: {f"module.{key}": value for key, value in tensors.items()}, None),
        (lambda tensors: {**{f"_orig_mod.module.{key}": value for key, value in tensors.items()},
                          "n_averaged": np.array(7)}, None),
    ],
    ids=["lightning", "deeper", "parallel", "averaged"],
)  # fmt: skip
def test_networks_inside_of_modules_are_found(
    tmp_path: Path, saved: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], note: str | None
) -> None:
    """The prefix that training scripts put before keys is found by what fits, and a note says so."""
    network = make_network(tmp_path, RESIDUAL)
    plain = answer(read_source(network.checkpoint, arch=str(network.toml), window=None), PIXELS, tmp_path)
    save_file(saved(network.tensors), network.checkpoint)
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    assert_allclose(answer(classifier, PIXELS, tmp_path), plain)
    assert len(classifier.notes) == (note is not None)
    assert note is None or note in classifier.notes[0]


@pytest.mark.parametrize(
    ("change", "expected_message"),
    [
        (('"step"', '"leap"'), "expected one of the file's blocks (step), got 'leap'"),
        (('"$kernel"', '"$size"'), "expected a default of the parameter $size in `parameters`"),
        (("{ out = 4 }", "{ depth = 4 }"), "expected parameters among stride, out, kernel, got depth"),
        (("{ out = 4 }", '{ out = "4" }'), "expected a valid integer"),
        (("[],", '[{ op = "blocks", block = "step", key = "x", count = 1 }],'), "at most 8 blocks inside one another"),
        (("count = 3", "count = 100000"), "expected at most 10000 layers, got more"),
        (("if_same_shape = true, ", ""), "add: expected branches that end in the same size, got (6, 7, 9), (4,"),
    ],
)  # fmt: skip
def test_wrong_blocks_are_refused(tmp_path: Path, change: tuple[str, str], expected_message: str) -> None:
    """A block with an unknown name or parameter, or inside of itself, is refused on one line."""
    network = make_network(tmp_path, RESIDUAL)
    network.toml.write_text(RESIDUAL.replace(*change), "utf-8")
    with pytest.raises(SourceError) as caught:
        read_source(network.checkpoint, arch=str(network.toml), window=None)
    assert expected_message in str(caught.value)
    assert "\n" not in str(caught.value)


UNPADDED = """
name = "unpadded"
channels = 3
window = [24, 28]
preprocess = "unit"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 6, kernel = 3, bias = false }, { op = "relu" }, { op = "lrn", size = 3, alpha = 0.5 },
  { op = "avgpool", kernel = 2, stride = 2 },
  { op = "conv", key = "b", out = 8, kernel = 3, groups = 2 }, { op = "relu" },
  { op = "maxpool", kernel = 3, stride = 2, ceil = true },
  { op = "conv", key = "c", kernel = 1 },
  { op = "globalavgpool" }, { op = "flatten" },
]
"""


def test_dense_cells_are_single_windows(tmp_path: Path) -> None:
    """Groups, normalisation and averages slide: every cell of a larger image is the reference's score of its window."""
    network = make_network(tmp_path, UNPADDED)
    models = convert_into(tmp_path / "models", network)
    session = ort.InferenceSession(models / "unpadded" / "1" / "model.onnx")
    image = np.random.default_rng(2).integers(0, 256, (36, 44, 3), dtype=np.uint8)
    (grid,) = session.run(None, {"image": image[None]})
    assert grid.shape == (1, 5, 4, 5)
    for row, col in np.ndindex(4, 5):
        expected = network.scores(image[4 * row : 4 * row + 24, 4 * col : 4 * col + 28])
        assert_allclose(grid[0, :, row, col], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("layer", "expected_message"),
    [
        ('{ op = "conv", key = "b", out = 4, kernel = 3, groups = 4 },', "4 groups cannot divide 6 channels into 4"),
        ('{ op = "conv", key = "b", out = 9, kernel = 3, groups = 2 },', "2 groups cannot divide 6 channels into 9"),
        ('{ op = "lrn", size = 4 },', "layers.1.lrn.size: expected an odd size"),
        ('{ op = "lrn", size = 3, bias = nan },', "layers.1.lrn.bias: expected"),
        ('{ op = "lrn", size = 3, region = "image" },', "layers.1.lrn.region: expected 'channels' or 'map'"),
        (
            '{ op = "avgpool", kernel = 2, stride = 2, pad = 1 },',
            "layers.1.avgpool.pad: expected no field",
        ),
        ('{ op = "maxpool", kernel = 2, stride = 2, pad = 2 },', "maxpool of 2×2 does not fit"),
        ('{ op = "avgpool", kernel = 90, stride = 2, ceil = true },', "avgpool of 90×90 does not fit"),
        ('{ op = "flatten" }, { op = "globalavgpool" },', "globalavgpool cannot follow a shape of (1620,)"),
    ],
    ids=["channels", "out", "even", "nan", "region", "padded", "pad", "large", "order"],
)
def test_invalid_layers_are_refused(tmp_path: Path, layer: str, expected_message: str) -> None:
    """A layer that contradicts itself or the layers before it is refused on one line."""
    network = make_network(tmp_path, TOML % FLATTEN)
    network.toml.write_text(TOML % (layer + FLATTEN), "utf-8")
    unused = {"b.weight": np.zeros(1, np.float32), "b.bias": np.zeros(1, np.float32)} if '"b"' in layer else {}
    save_file({**network.tensors, **unused}, network.checkpoint)
    with pytest.raises(SourceError) as caught:
        read_source(network.checkpoint, arch=str(network.toml), window=None)
    assert expected_message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_of_preprocessing_are_checked(tmp_path: Path) -> None:
    """`preprocess` may be a table with the fields of a JSON file."""
    network = make_network(tmp_path, UNPADDED)
    network.toml.write_text(UNPADDED.replace('"unit"', '{ mean = [1, 2, 3], std = [1, 0, 1], order = "RGB" }'), "utf-8")
    with pytest.raises(SourceError, match=r"preprocess: expected a scale other than 0 and std above 0, got"):
        read_source(network.checkpoint, arch=str(network.toml), window=None)


@pytest.mark.parametrize("name", LECTURED)
def test_the_lecture_notes_networks(name: str) -> None:
    """Window, kernels and strides are the published values; the network is recognised by the keys."""
    architecture = load_architecture(name)
    size, slides = LECTURED[name]
    assert architecture.window == (size, size)
    sliding = [layer for layer in architecture.layers if isinstance(layer, Conv | MaxPool | AvgPool)]
    assert [(layer.kernel, layer.stride) for layer in sliding] == slides
    assert recognise(set(architecture.keys())) == ("", [architecture])


@pytest.mark.parametrize(
    ("name", "classes", "window", "stride"),
    [
        ("cifar10_80sec", 10, (32, 32), 8),
        ("cifar10_80sec", 10, (24, 24), 8),
        ("cifar10_18pct", 10, (32, 32), 8),
        ("cifar10_18pct", 7, (24, 24), 8),
        ("allcnn_c", 10, (32, 32), 4),
        pytest.param("alexnet2012", 20, (227, 227), 32, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_recognised_networks_convert(
    name: str, classes: int, window: tuple[int, int], stride: int, tmp_path: Path
) -> None:
    """A checkpoint with any number of classes is recognised, and its scores of a window equal the reference's."""
    architecture = load_architecture(name).model_copy(update={"window": window})
    tensors = reference.random_tensors(architecture, classes, np.random.default_rng(0))
    save_file(tensors, tmp_path / "net.safetensors")
    classifier = read_source(tmp_path / "net.safetensors", arch=None, window=window)
    assert f"recognised as {architecture.name} by its tensors" in classifier.notes[-1]
    target = tmp_path / "models" / "net" / "1"
    report = conversion.convert(classifier, conversion.Request(target, windows=2), SILENT)
    assert report.spec.vertical.stride == stride
    (pixels,) = windows(classifier, 1)
    preprocessing = load_preprocessing(architecture.preprocess)
    assert preprocessing is not None
    expected = reference.run(architecture, tensors, preprocessing.apply(pixels).transpose(2, 0, 1))
    (scores,) = ort.InferenceSession(target / "model.onnx").run(None, {"image": pixels[None]})
    assert_allclose(scores[0, :, 0, 0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def torch_layers(name: str) -> list[Any]:
    """Return a published network as PyTorch's layers, with the names in the TOML."""
    from torch import nn

    def conv(*sizes: int, **options: int) -> list[Any]:
        return [nn.Conv2d(*sizes, **options), nn.ReLU()]

    if name == "alexnet2012":
        around = [nn.LocalResponseNorm(5, 1e-4, 0.75, 2), nn.MaxPool2d(3, 2)]
        return [
            *conv(3, 96, 11, stride=4), *around, *conv(96, 256, 5, padding=2, groups=2), *around,
            *conv(256, 384, 3, padding=1), *conv(384, 384, 3, padding=1, groups=2),
            *conv(384, 256, 3, padding=1, groups=2), nn.MaxPool2d(3, 2), nn.Flatten(),
            nn.Linear(9216, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 20),
        ]  # fmt: skip
    if name == "cifar10_80sec":
        return [
            nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU(),
            *conv(32, 32, 5, padding=2), nn.AvgPool2d(3, 2, ceil_mode=True),
            *conv(32, 64, 5, padding=2), nn.AvgPool2d(3, 2, ceil_mode=True), nn.Flatten(),
            nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
        ]  # fmt: skip
    blocks = [(3, 96, 1), (96, 96, 1), (96, 96, 2), (96, 192, 1), (192, 192, 1), (192, 192, 2)]
    return [
        *(layer for inputs, outputs, stride in blocks for layer in conv(inputs, outputs, 3, stride=stride, padding=1)),
        *conv(192, 192, 3), *conv(192, 192, 1), *conv(192, 10, 1), nn.AvgPool2d(6), nn.Flatten(),
    ]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", ["alexnet2012", "cifar10_80sec", "allcnn_c"])
def test_the_lecture_notes_networks_are_pytorchs(name: str, tmp_path: Path) -> None:
    """Networks that are built from the papers with PyTorch's own layers give the same scores with the same weights."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(*torch_layers(name))
    tensor_keys = load_architecture(name).keys()
    names = [key.removesuffix(".weight") for key in tensor_keys if key.endswith(".weight")]
    numbers = sorted({int(key.split(".")[0]) for key in net.state_dict()})
    renamed = {str(number): name for number, name in zip(numbers, names, strict=True)}
    state = {
        ".".join((renamed[key.split(".")[0]], key.split(".")[1])): value for key, value in net.state_dict().items()
    }
    torch.save(state, tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=None, window=None)
    pixels = windows(classifier)
    preprocessing = load_preprocessing(classifier.preprocess)
    assert preprocessing is not None
    image = np.moveaxis(preprocessing.apply(pixels), -1, 1)
    with torch.no_grad():
        expected = net.double()(torch.from_numpy(image.astype(np.float64))).numpy()
    assert_allclose(answer(classifier, pixels, tmp_path), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
