"""Caffe networks of either format have the scores that Caffe's layers compute."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from shutil import copy

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from support.caffe_files import Array, answer, pool, run, write
from support.conversion import SILENT

from converter import convert as conversion
from converter.errors import UnsupportedError
from converter.preprocessing import Preprocessing, load_preprocessing
from converter.sources.checkpoint import sha256
from converter.sources.read import read_source
from fullconv.protos import caffe_pb2

DATA = Path(__file__).parents[1] / "data" / "caffe"
EXPECTED = np.load(DATA / "expected.npz")
NETWORKS = ["alexnet", "inception", "residual", "varied"]
RNG = np.random.default_rng(7)
MAP = RNG.normal(size=(2, 7, 6))
COLUMN = RNG.normal(size=(2, 1, 1))
MATRIX = RNG.normal(size=(84, 5))


def copied(name: str, folder: Path) -> Path:
    """Return a network of tests/data/caffe in a folder of its own, with a name that finds its prototxt."""
    copy(DATA / f"{name}.prototxt", folder)
    return Path(copy(DATA / f"{name}.caffemodel", folder))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_opencv(name: str) -> None:
    """AlexNet in the first format, and three networks in the current one, agree with OpenCV's implementation."""
    scores, expected = run(DATA / f"{name}.caffemodel", EXPECTED[f"{name}.windows"]), EXPECTED[f"{name}.scores"]
    assert scores.shape == expected.shape == (3, 5)
    assert_allclose(scores, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_convert(name: str, tmp_path: Path) -> None:
    """The converted network has the source's scores of a window, also with pools that round up and normalisation."""
    classifier = read_source(DATA / f"{name}.caffemodel", arch=None, window=None)
    request = conversion.Request(tmp_path / "net" / "1", windows=4, preprocess="none")
    report = conversion.convert(classifier, request, SILENT)
    assert report.spec.source.format == "caffe"
    session = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    windows, expected = EXPECTED[f"{name}.windows"], EXPECTED[f"{name}.scores"]
    (scores,) = session.run(["scores"], {session.get_inputs()[0].name: windows})
    assert_allclose(scores, expected[:, :, None, None], rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_unpadded_networks_score_every_window(tmp_path: Path) -> None:
    """Without padding, and if pools divide evenly, every cell of a large image equals the network's own score."""
    layers = """
    layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 4 kernel_size: 3 } }
    layer { name: "p" type: "Pooling" bottom: "a" top: "p" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
    layer { name: "s" type: "Scale" bottom: "p" top: "p" scale_param { bias_term: true } }
    layer { name: "r" type: "ReLU" bottom: "p" top: "p" relu_param { negative_slope: 0.1 } }
    layer { name: "f" type: "InnerProduct" bottom: "p" top: "f" inner_product_param { num_output: 3 } }
    """
    shapes: dict[str, list[tuple[int, ...]]] = {"a": [(4, 2, 3, 3), (4,)], "s": [(4,), (4,)], "f": [(3, 48), (3,)]}
    weights = {name: [RNG.normal(size=shape) for shape in each] for name, each in shapes.items()}
    path = write(tmp_path, layers, weights, (2, 10, 8))
    request = conversion.Request(tmp_path / "net" / "1", windows=4)
    report = conversion.convert(read_source(path, arch=None, window=None), request, SILENT)
    assert report.spec.parity[0].exact
    session = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    image = RNG.normal(size=(2, 16, 12)).astype(np.float32)
    (grid,) = session.run(["scores"], {session.get_inputs()[0].name: image[None]})
    crops = [image[:, 2 * row : 2 * row + 10, 2 * col : 2 * col + 8] for row, col in np.ndindex(4, 3)]
    assert_allclose(grid[0].reshape(3, 12).T, run(path, np.stack(crops)), rtol=1e-4, atol=1e-5)


VECTORS: dict[str, tuple[str, list[Array]]] = {
    "prelu": ('type: "PReLU"', [RNG.normal(size=6)]),
    "scale": ('type: "Scale" scale_param { bias_term: true }', [RNG.normal(size=6), RNG.normal(size=6)]),
    "norm": ('type: "BatchNorm"', [RNG.normal(size=6), RNG.uniform(1, 2, 6), np.array([3.0])]),
    "power": ('type: "Power" power_param { power: 2 scale: 0.5 shift: -1 }', []),
}


@pytest.mark.parametrize(("layer", "weights"), VECTORS.values(), ids=VECTORS)
def test_layers_between_fully_connected_ones_convert(layer: str, weights: list[Array], tmp_path: Path) -> None:
    """Layers convert on vectors, and after an average that counts padding and reaches over the edge."""
    layers = f"""
    layer {{
      name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param {{ pool: AVE kernel_size: 3 stride: 2 pad: 1 }}
    }}
    layer {{ name: "f" type: "InnerProduct" bottom: "p" top: "f" inner_product_param {{ num_output: 6 }} }}
    layer {{ name: "it" bottom: "f" top: "f" {layer} }}
    layer {{ name: "g" type: "InnerProduct" bottom: "f" top: "g" inner_product_param {{ num_output: 4 }} }}
    """
    ends = {"f": [RNG.normal(size=(6, 50)), RNG.normal(size=6)], "g": [RNG.normal(size=(4, 6)), RNG.normal(size=4)]}
    path = write(tmp_path, layers, {**ends, "it": weights}, (2, 8, 8))
    request = conversion.Request(tmp_path / "net" / "1", windows=4)
    conversion.convert(read_source(path, arch=None, window=None), request, SILENT)
    session = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    images = RNG.normal(size=(2, 2, 8, 8)).astype(np.float32)
    (scores,) = session.run(["scores"], {session.get_inputs()[0].name: images})
    assert_allclose(scores[:, :, 0, 0], run(path, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("rounding", ["CEIL", "FLOOR"])
def test_pools_are_caffes(method: str, rounding: str, tmp_path: Path) -> None:
    """Sizes and divisors equal those of Caffe's loops even over the edges; empty windows are refused."""
    image, refused = RNG.normal(size=(2, 8, 8)) - 1, 0
    for size, kernel, stride, pad in product((1, 4, 5, 6), (1, 2, 3, 4), (1, 2, 3), (0, 1, 2)):
        if pad >= kernel:
            continue
        part = image[:, :size, : size + 2]
        expected = pool(part, kernel, stride, pad, average=method == "AVE", floor=rounding == "FLOOR")
        sizes = f"kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {rounding}"
        layer = f'type: "Pooling" pooling_param {{ pool: {method} {sizes} }}'
        if expected is None:
            refused += 1
            with pytest.raises(UnsupportedError, match="does not fit a map"):
                answer(tmp_path, layer, part)
        else:
            assert_allclose(answer(tmp_path, layer, part), expected.ravel(), rtol=1e-5, atol=1e-6)
    assert refused


def test_pools_have_axes_of_their_own(tmp_path: Path) -> None:
    """A pool that is padded along one axis has its last window clipped along both."""
    layer = 'type: "Pooling" pooling_param { kernel_h: 2 kernel_w: 1 stride_h: 2 stride_w: 4 pad_h: 1 pad_w: 0 }'
    padded = np.pad(MAP, ((0, 0), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = np.maximum(padded[:, 0:8:2, 0:5:4], padded[:, 1:9:2, 0:5:4])
    assert_allclose(answer(tmp_path, layer, MAP), expected.ravel(), rtol=1e-6)


def normalised(image: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Local response normalisation across channels."""
    squares = np.pad(image**2, ((size // 2, size // 2), (0, 0), (0, 0)))
    sums = np.stack([squares[channel : channel + size].sum(axis=0) for channel in range(len(image))])
    return image / (k + alpha / size * sums) ** beta


LAYERS: dict[str, tuple[str, list[Array], Array]] = {
    "lrn": (
        'type: "LRN" lrn_param { local_size: 3 alpha: 0.9 beta: 0.6 k: 2 }',
        [],
        normalised(MAP, 3, 0.9, 0.6, 2),
    ),
    "transposed": (
        'type: "InnerProduct" inner_product_param { num_output: 5 transpose: true bias_term: false }',
        [MATRIX],
        MAP.ravel() @ MATRIX,
    ),
    "bias": ('type: "Bias"', [COLUMN.ravel()], MAP + COLUMN),
    "scalar": ('type: "Scale" scale_param { num_axes: 0 }', [np.array(3.0)], MAP * 3),
    "shared": ('type: "PReLU" prelu_param { channel_shared: true }', [np.array(0.3)], np.maximum(MAP, MAP * 0.3)),
    "uncounted": (
        'type: "BatchNorm" batch_norm_param { eps: 0.25 }',
        [np.ones(2), np.ones(2), np.zeros(1)],
        MAP / 0.25**0.5,
    ),
    "reshape": ('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 } }', [], MAP),
    "reshape-fixed": ('type: "Reshape" reshape_param { shape { dim: 1 dim: 84 } }', [], MAP),
    "reshape-same": ('type: "Reshape" reshape_param { shape { dim: 0 dim: 0 dim: 7 dim: 0 } }', [], MAP),
    "idle": ('type: "Power"', [], MAP),
    "maximum": (
        'type: "Pooling" pooling_param { pool: MAX global_pooling: true }',
        [],
        MAP.max(axis=(1, 2)),
    ),
    "concat": ('type: "Concat" bottom: "data" concat_param { concat_dim: 1 }', [], np.concatenate([MAP, MAP])),
    "wide": (
        'type: "Convolution" convolution_param { num_output: 2 group: 2 kernel_size: 1 stride: 3 stride: 2 }',
        [COLUMN[..., None], COLUMN.ravel()],
        MAP[:, ::3, ::2] * COLUMN + COLUMN,
    ),
}


@pytest.mark.parametrize(("layer", "weights", "expected"), LAYERS.values(), ids=LAYERS)
def test_layers_compute_what_caffe_documents(layer: str, weights: list[Array], expected: Array, tmp_path: Path) -> None:
    """Layers that OpenCV does not implement agree with numpy."""
    assert_allclose(answer(tmp_path, layer, MAP, *weights), expected.ravel(), rtol=1e-5, atol=1e-6)


def today(net: caffe_pb2.NetParameter) -> None:
    """Convert layers of the first format to the current format."""
    for old in net.layers:
        net.layer.add(name=old.name).blobs.extend(old.blobs)
    del net.layers[:]


def shaped(net: caffe_pb2.NetParameter) -> None:
    """Convert the four sizes of each array to one shape."""
    for layer in net.layers:
        for blob in layer.blobs:
            blob.shape.dim.extend(size for size in (blob.num, blob.channels, blob.height, blob.width) if size > 1)
            for name in ("num", "channels", "height", "width"):
                blob.ClearField(name)


def doubled(net: caffe_pb2.NetParameter) -> None:
    """Convert the weights to double precision."""
    for layer in net.layers:
        for blob in layer.blobs:
            blob.double_data.extend(blob.data)
            del blob.data[:]


@pytest.mark.parametrize("rewrite", [today, shaped, doubled])
def test_formats_of_weights_are_one(rewrite: Callable[[caffe_pb2.NetParameter], None], tmp_path: Path) -> None:
    """The same weights in another format of layers, shapes or numbers give bitwise equal scores."""
    path = copied("alexnet", tmp_path)
    net = caffe_pb2.NetParameter.FromString(path.read_bytes())
    rewrite(net)
    path.write_bytes(net.SerializeToString())
    windows = EXPECTED["alexnet.windows"]
    np.testing.assert_array_equal(run(path, windows), run(DATA / "alexnet.caffemodel", windows))


TRAINING = """
layer {
  name: "train" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true crop_size: 5 mean_value: 1 }
}
layer {
  name: "test" type: "Data" top: "data" top: "label" exclude { phase: TRAIN } data_param { source: "C:\\lmdb" }
  transform_param { crop_size: 6 mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5 }
}
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 2 kernel_size: 6 } }
layer { name: "f" type: "Flatten" bottom: "c" top: "f" }
layer { name: "drop" type: "Dropout" bottom: "f" top: "f" include { phase: TRAIN } dropout_param { unheard_of: 1 } }
layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "f" bottom: "label" loss_param { normalize: true } }
layer { name: "top-5" type: "Accuracy" bottom: "f" bottom: "label" top: "top-5" accuracy_param { top_k: 5 } }
layer { name: "hush" type: "Silence" bottom: "label" }
layer { name: "deploy" type: "Softmax" bottom: "f" top: "p" include { stage: "deploy" } }
"""


def test_a_training_network_is_read_for_inference(tmp_path: Path) -> None:
    """Layers of a train_val.prototxt outside phase TEST are left out; its data layer gives size and preprocessing."""
    kernel = RNG.normal(size=(2, 3, 6, 6))
    classifier = read_source(write(tmp_path, TRAINING, {"c": [kernel, np.ones(2)]}, ()), arch=None, window=None)
    assert (classifier.window, classifier.activation) == ((6, 6), "sigmoid")
    assert classifier.preprocess == Preprocessing(scale=0.5, mean=(52, 58.5, 61.5), order="BGR")
    image = RNG.normal(size=(1, 3, 6, 6))
    expected = np.tensordot(kernel, image[0], 3)[None] + 1
    assert_allclose(run(tmp_path / "net.caffemodel", image), expected, rtol=1e-5)


FLAT = 'layer { name: "f" type: "Flatten" bottom: "data" top: "f" }\n'
DATA_LAYER = 'layer {{ name: "t" type: "Data" top: "data" include {{ phase: TRAIN }} transform_param {{ {} }} }}'


@pytest.mark.parametrize(
    ("transform", "channels", "expected"),
    [
        (None, 3, Preprocessing(mean=(103.939, 116.779, 123.68), order="BGR")),
        (None, 1, None),
        ("scale: 0.00390625", 1, Preprocessing(scale=0.00390625)),
        ("mean_value: 8 scale: 0.25", 3, Preprocessing(scale=0.25, mean=(2, 2, 2), order="BGR")),
        ('mean_file: "data/mean.binaryproto"', 3, Preprocessing(mean=(2, 3, 4), order="BGR")),
    ],
    ids=["colour", "grey", "scale", "value", "file"],
)
def test_preprocessing_is_the_networks_own(
    transform: str | None, channels: int, expected: Preprocessing | None, tmp_path: Path
) -> None:
    """Preprocessing is the data layer's, with one mean per channel, or Caffe's usual mean for colour images."""
    image = np.stack([np.full((4, 4), mean) + np.linspace(-1, 1, 4) for mean in (2, 3, 4)])
    mean = caffe_pb2.BlobProto(num=1, channels=3, height=4, width=4, data=image.ravel().tolist())
    (tmp_path / "mean.binaryproto").write_bytes(mean.SerializeToString())
    layers = FLAT + (DATA_LAYER.format(transform) if transform else "")
    classifier = read_source(write(tmp_path, layers, {}, (channels, 4, 4)), arch=None, window=None)
    assert load_preprocessing(classifier.preprocess) == expected


@pytest.mark.parametrize("place", ["deploy.prototxt", "named.txt"])
def test_prototxt_is_found_or_named(place: str, tmp_path: Path) -> None:
    """The deploy.prototxt beside the caffemodel is used, or the file of --arch; --window replaces its size."""
    path = copied("inception", tmp_path)
    (tmp_path / "inception.prototxt").rename(tmp_path / place)
    classifier = read_source(path, arch=str(tmp_path / place) if place == "named.txt" else None, window=(40, 50))
    assert classifier.window == (40, 50)
    assert classifier.source.sha256 == sha256(path, tmp_path / place)
