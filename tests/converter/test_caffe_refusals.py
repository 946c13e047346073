"""Caffe networks that are refused: unsupported layers, and damaged, hostile and mismatched files."""

import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
from support.caffe_files import write

from converter.errors import ConversionError, SourceError, UnsupportedError
from converter.sources.caffe import weights
from converter.sources.read import read_source
from fullconv.protos import caffe_pb2

DATA = Path(__file__).parents[1] / "data" / "caffe"
FLAT = 'layer { name: "flat" type: "Flatten" bottom: "it" top: "flat" }\n'
CONV = "num_output: 2 kernel_size: 3"


def refusal(path: Path, **options: Any) -> str:
    """Return the message of a refusal, which is one line."""
    with pytest.raises(ConversionError) as caught:
        read_source(path, **{"arch": None, "window": None, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def one(layer: str) -> str:
    """Return a prototxt of one layer, "it", and a head."""
    return f'layer {{ name: "it" bottom: "data" top: "it" {layer} }}\n{FLAT}'


def conv(parameters: str) -> str:
    """Return a prototxt of one convolution."""
    return one(f'type: "Convolution" convolution_param {{ {parameters} }}')


def pool(parameters: str) -> str:
    """Return a prototxt of one pool."""
    return one(f'type: "Pooling" pooling_param {{ {parameters} }}')


def data(transform: str) -> str:
    """Return a data layer of training."""
    return (
        f'layer {{ name: "t" type: "Data" top: "data" include {{ phase: TRAIN }} transform_param {{ {transform} }} }}\n'
    )


def image(sizes: str) -> str:
    """Return an image "b" of this shape."""
    return f'input: "b" input_shape {{ {" ".join(f"dim: {size}" for size in sizes.split())} }}'


def doubling(times: int) -> str:
    """Return layers that repeatedly concatenate a map with itself."""
    blobs = ["data", *(f"x{time}" for time in range(times))]
    layer = 'layer {{ name: "{1}" type: "Concat" bottom: "{0}" bottom: "{0}" top: "{1}" }}\n'
    return "".join(layer.format(*pair) for pair in pairwise(blobs))


TWO_BOTTOMS = 'bottom: "data"'
UNSUPPORTED = {
    "crop": (one('type: "Crop"'), "layer 'it' (Crop): expected a type among BatchNorm, Bias, Concat"),
    "deconvolution": (
        one('type: "Deconvolution"'),
        "if the scores come before this layer, remove it from the prototxt",
    ),
    "typeless": (one(""), "layer 'it' (): expected a type"),
    "fork": (pool("kernel_size: 2 ceil_mode: false"), "(Pooling): pooling_param.ceil_mode is not known and may change"),
    "fork-layer": (one('type: "ReLU" relu6_param { }'), "relu6_param is not known"),
    "fork-list": (
        one('type: "ReLU" relu_param: { negative_slope: 0 # "\n shift < x: [1, 2] > }'),
        "relu_param.shift is",
    ),
    "training": (one('type: "Dropout" phase: TRAIN'), "expected phase TEST, got TRAIN"),
    "dropout": (one('type: "Dropout" dropout_param { scale_train: false }'), "dropout_param.scale_train is not known"),
    "stochastic": (pool("kernel_size: 2 pool: STOCHASTIC"), "expected MAX or AVE with one top"),
    "mask": (one('top: "mask" type: "Pooling" pooling_param { kernel_size: 2 }'), "expected MAX or AVE with one top"),
    "no-kernel": (pool("stride: 2"), "expected kernel_size from 1 to 4096, for both axes or each, got []"),
    "half-kernel": (pool("kernel_h: 2"), "expected kernel_size from 1 to 4096, for both axes or each, got [2, 0]"),
    "both-kernels": (pool("kernel_size: 2 kernel_h: 2 kernel_w: 2"), "got [2, 2, 2]"),
    "no-stride": (pool("kernel_size: 2 stride: 0"), "expected stride from 1"),
    "huge-pad": (conv(f"{CONV} pad: 4000000000"), "expected pad from 0 to 4096"),
    "wide-pad": (pool("kernel_size: 2 pad: 2"), "a window of [2, 2] does not fit a map of (7, 6) padded by [2, 2]"),
    "small-map": (conv(f"{CONV} dilation: 3"), "does not fit a map of (7, 6); check --window"),
    "group": (conv(f"{CONV} group: 3"), "group to divide 2 and 2 channels, got 3"),
    "no-group": (conv(f"{CONV} group: 0"), "group to divide 2 and 2 channels, got 0"),
    "conv-axis": (conv(f"{CONV} axis: 2"), "expected axis 1"),
    "fc-axis": (one('type: "InnerProduct" inner_product_param { axis: 2 }'), "expected axis 1, the channels, got 2"),
    "softmax-axis": (one('type: "Softmax" softmax_param { axis: 2 }'), "expected axis 1, the channels, got 2"),
    "concat-axis": (
        one('type: "Concat" bottom: "data" concat_param { axis: 0 }'),
        "expected axis 1, the channels, got 0",
    ),
    "flatten-end": (one('type: "Flatten" flatten_param { end_axis: 2 }'), "expected end_axis -1, got 2"),
    "reshape": (one('type: "Reshape" reshape_param { shape { dim: 0 dim: 12 dim: -1 } }'), "got [0, 12, -1]"),
    "reshape-batch": (one('type: "Reshape" reshape_param { shape { dim: 2 dim: 42 } }'), "which flatten the map"),
    "scale-axes": (one('type: "Scale" scale_param { num_axes: -1 }'), "expected num_axes 1"),
    "excitation": (one(f'{TWO_BOTTOMS} type: "Scale" scale_param {{ axis: 0 }}'), "expected one bottom, got 2"),
    "batch": (one('type: "BatchNorm" batch_norm_param { use_global_stats: false }'), "expected use_global_stats"),
    "even": (one('type: "LRN" lrn_param { local_size: 4 }'), "expected an odd local_size of at most 4096, got 4"),
    "coefficients": (one(f'{TWO_BOTTOMS} type: "Eltwise" eltwise_param {{ coeff: 1 }}'), "coeff for each or none"),
    "product": (
        one(f'{TWO_BOTTOMS} type: "Eltwise" eltwise_param {{ operation: PROD coeff: 1 coeff: 2 }}'),
        "expected coeff only in sums",
    ),
    "vector": (FLAT.replace("it", "data") + one('type: "LRN"').replace('"data"', '"flat"', 1), "expected a map"),
    "no-image": ('layer { name: "it" type: "ReLU" bottom: "x" top: "x" }', "inputs: expected one image, got none"),
    "two-images": ('input: "b"' + one('bottom: "b" type: "Eltwise"'), "inputs: expected one image, got b, data"),
    "two-outputs": (one('type: "ReLU"') + FLAT.replace('"flat"', '"x"'), "expected one row of scores, got flat, x"),
    "no-output": ('layer { name: "s" type: "Silence" bottom: "data" }', "expected one row of scores, got none"),
    "resized": (
        'layer { name: "t" type: "Data" top: "data" transform_param { resize_param { } } include { phase: TRAIN } }'
        + one('type: "ReLU"'),
        "layer 't' (Data): the effect of transform_param.resize_param on an image is not known",
    ),
}


@pytest.mark.parametrize(("layers", "expected_message"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_unsupported_parameters_are_named(layers: str, expected_message: str, tmp_path: Path) -> None:
    """A parameter that may change the result is refused, with the names of layer, type and parameter."""
    path = write(tmp_path, layers, {"it": [np.zeros((2, 2, 3, 3)), np.zeros(2)]})
    with pytest.raises(UnsupportedError) as caught:
        read_source(path, arch=None, window=None)
    assert expected_message in str(caught.value)
    assert "\n" not in str(caught.value)


MALFORMED = {
    "syntax": ("layer {", "not a valid prototxt"),
    "negative": (pool("kernel_size: -1"), "not a valid prototxt"),
    "enumeration": (pool("pool: MEDIAN"), "not a valid prototxt"),
    "deep": ("a {\n" * 100_000, "not a valid prototxt"),
    "long-line": ("#" * 20_000, "in lines of 16384 characters"),
    "long": ("#\n" * (1 << 20), "at most 2 MiB of text"),
    "v0": ('layers { layer { name: "conv" type: "conv" } }', "run Caffe's upgrade_net_proto_text"),
    "formats": ('layers { name: "r" type: RELU bottom: "data" top: "r" }', "run Caffe's upgrade_net_proto_text"),
    "list": ('layer: [{ name: "r" type: "ReLU" }, { name: "s" type: "ReLU" }]', "every layer written as layer { ... }"),
    "bottom": (one('type: "Eltwise" bottom: "later"'), "earlier layers compute, got ['later']"),
    "top": (
        one('type: "ReLU"') + one('type: "ReLU"'),
        "layer 'it' (ReLU): expected tops that no other layer has, got ['it']",
    ),
    "no-top": (
        'layer { name: "x" type: "ReLU" bottom: "data" }',
        "layer 'x' (ReLU): expected tops that no other layer has, got []",
    ),
    "no-row": (
        'layer { name: "x" type: "ReLU" bottom: "data" top: "x" }',
        "expected one row of scores at the end, got",
    ),
    "no-weights": (one('type: "PReLU"').replace('name: "it"', 'name: "x"'), "expected weights of shape (2,), got none"),
    "no-bias": (conv(f"{CONV} bias_term: false"), "weights of shape (2, 2, 3, 3), got (2, 2, 3, 3), (2,) in the caffe"),
    "misshapen": (conv("num_output: 2 kernel_size: 2"), "expected weights of shape (2, 2, 2, 2), (2,), got"),
    "huge-layer": (conv("num_output: 4000000000 kernel_size: 3"), "expected weights of shape (4000000000, 2, 3, 3)"),
    "huge-group": (conv("num_output: 0 kernel_size: 3 group: 2"), "expected weights of shape (0, 1, 3, 3), (0,), got"),
    "huge-image": (
        one('type: "ReLU"').replace("data", "b") + image("1 3 99999 99999"),
        "expected at most 1073741824 numbers",
    ),
    "doubling": (doubling(40), "x22.output: expected at most 1073741824 numbers in all values"),
    "open-image": (
        one('type: "ReLU"').replace("data", "b") + 'input: "b"',
        "expected the size of 'b', which the prototxt leaves open; give --window",
    ),
    "flat-image": (one('type: "ReLU"').replace("data", "b") + image("1 84"), "height and width, got [1, 84]"),
    "no-image": (one('type: "ReLU"').replace("data", "b") + image("1 3 0 4"), "height and width, got [1, 3, 0, 4]"),
    "same-name": (
        conv(CONV).removesuffix(FLAT) + conv(f"{CONV} pad: 1").replace('"data"', '"it"'),
        "expected a unique name, since weights are assigned by name",
    ),
    "scale": (data("scale: 0") + one('type: "ReLU"'), "transform_param: "),
    "mean": (data('mean_file: "away/mean"') + one('type: "ReLU"'), "mean: the prototxt's mean_file cannot be read: No"),
    "mean-here": (data('mean_file: ".."') + one('type: "ReLU"'), "the prototxt's mean_file cannot be read: Is a dir"),
    "mean-nul": (data('mean_file: "\\000"') + one('type: "ReLU"'), "damaged mean image"),
    "mean-damaged": (data('mean_file: "net.prototxt"') + one('type: "ReLU"'), "damaged mean image"),
    "mean-shape": (data('mean_file: "vector"') + one('type: "ReLU"'), "expected one mean image (1, channels, height,"),
}


@pytest.mark.parametrize(("layers", "expected_message"), MALFORMED.values(), ids=MALFORMED)
def test_inconsistent_prototxts_are_refused(layers: str, expected_message: str, tmp_path: Path) -> None:
    """Invalid or inconsistent prototxts, and prototxts that do not fit the caffemodel, are refused in one line."""
    path = write(tmp_path, layers, {"it": [np.zeros((2, 2, 3, 3)), np.zeros(2)]})
    (tmp_path / "vector").write_bytes(caffe_pb2.BlobProto(data=[1, 2], shape={"dim": [2]}).SerializeToString())
    assert expected_message in refusal(path)


def test_types_of_the_first_format_are_named(tmp_path: Path) -> None:
    """A layer of an unknown type of the old format is refused by the name of its number."""
    layer = 'layers { name: "x" type: BNLL bottom: "data" top: "x" }'
    path = write(tmp_path, f'input: "data" input_dim: [1, 3, 4, 4] {layer}', {}, ())
    assert "layer 'x' (BNLL): expected a type among" in refusal(path)


def test_unstated_channels_are_refused(tmp_path: Path) -> None:
    """If no layer states the image's channels, the prototxt is refused."""
    path = write(tmp_path, data("crop_size: 4").replace("TRAIN", "TEST") + pool("kernel_size: 4"), {}, ())
    assert "the prototxt leaves its channels open; add a layer of type Input" in refusal(path)


def test_missing_prototxts_are_refused(tmp_path: Path) -> None:
    """If there is no prototxt beside the caffemodel, or two, or a wrong one is named, --arch is the way out."""
    path = Path(copy(DATA / "varied.caffemodel", tmp_path))
    expected = "arch: expected varied.prototxt or deploy.prototxt beside"
    assert f"{expected} {path}, got 0 of them; give --arch FILE.prototxt" in refusal(path)
    for name in ("varied", "deploy"):
        copy(DATA / "varied.prototxt", tmp_path / f"{name}.prototxt")
    assert "got 2 of them" in refusal(path)
    assert "arch: expected a prototxt, got 'vgg16': No such file" in refusal(path, arch="vgg16")


def blob(**fields: Any) -> Callable[[caffe_pb2.BlobProto], None]:
    """Return a function that changes fields of an array."""

    def change(array: caffe_pb2.BlobProto) -> None:
        array.MergeFrom(caffe_pb2.BlobProto(**fields))

    return change


BLOBS = {
    "claim": (blob(shape={"dim": [1 << 62] * 8}), "numbers for the shape (5, 6, 4611686018427387904"),
    "negative": (blob(shape={"dim": [-1, -1]}), "numbers for the shape (5, 6, -1, -1), got 30"),
    "legacy": (blob(num=1 << 40), "expected 0 numbers for the shape (1099511627776, 0, 0, 0), got 30"),
    "more": (blob(data=[1.0]), "expected 30 numbers for the shape (5, 6), got 31"),
    "twice": (blob(double_data=[1.0] * 30), "expected 30 numbers for the shape (5, 6), got 60"),
    "axes": (blob(shape={"dim": [1] * 400}), "layer 'last': "),
    "nan": (lambda array: array.data.__setitem__(3, np.nan), "expected finite numbers, got NaN or infinity"),
    "overflow": (lambda array: (array.ClearField("data"), array.double_data.extend([1e300] * 30)), "got NaN or inf"),
    "empty": (lambda array: array.Clear(), "expected 1 numbers for the shape (), got 0"),
}


@pytest.mark.parametrize(("change", "expected_message"), BLOBS.values(), ids=BLOBS)
def test_arrays_that_contradict_their_claims_are_refused(
    change: Callable[..., object], expected_message: str, tmp_path: Path
) -> None:
    """A weight's claimed shape is compared with its numbers before memory of that size is allocated."""
    copy(DATA / "varied.prototxt", tmp_path)
    net = caffe_pb2.NetParameter.FromString((DATA / "varied.caffemodel").read_bytes())
    change(net.layer[-1].blobs[0])
    path = tmp_path / "varied.caffemodel"
    path.write_bytes(net.SerializeToString())
    assert expected_message in refusal(path)


FILES = {
    "no-protobuf": (b"PK\3\4" * 9, "damaged or truncated caffemodel: "),
    "claim": (
        b"\xa2\x06\xff\xff\xff\xff\xff\xff\xff\x7f",
        "expected a record of 72057594037927935 bytes at byte 10, got 0",
    ),
    "group": (b"\x0b\x0c", "expected a record of kind 0, 1, 2 or 5 before byte 1, got 3"),
    "endless": (b"\x08" + b"\xff" * 20, "expected a whole number at byte 1"),
    "many": (b"\x08\x01" * 30_000, "expected at most 10000 records"),
    "empties": (b"\xa2\x06\xe0\xd4\x03" + b"\x3a\x00" * 30_000, "expected at most 10000 records"),
    "no-weights": (b"\x08\x01", "expected a caffemodel, got a file without weights"),
    "two": (
        (DATA / "varied.caffemodel").read_bytes() * 2,
        "expected one layer 'wide' with weights, got two; rename one",
    ),
}


@pytest.mark.parametrize(("content", "expected_message"), FILES.values(), ids=FILES)
def test_files_that_are_not_caffemodels_are_refused(
    content: bytes, expected_message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths beyond the file, invalid records and too many records are refused without taking much memory."""
    copy(DATA / "varied.prototxt", tmp_path)
    path = tmp_path / "varied.caffemodel"
    path.write_bytes(content)
    monkeypatch.setattr(weights, "MAX_RECORDS", 10_000)
    tracemalloc.start()
    message = refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert expected_message in message
    assert peak < 8 << 20


@pytest.mark.parametrize("name", ["alexnet", "residual"])
def test_truncated_caffemodels_are_refused(name: str, tmp_path: Path) -> None:
    """A caffemodel that is truncated in a number, in an array or between two layers is refused."""
    copy(DATA / f"{name}.prototxt", tmp_path)
    path, content = tmp_path / f"{name}.caffemodel", (DATA / f"{name}.caffemodel").read_bytes()
    for end in [*range(1, len(content), 211), len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(SourceError):
            read_source(path, arch=None, window=None)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with a few bytes changed, taken out, put in twice or made large numbers."""
    changed = bytearray(content)
    for at in rng.integers(0, len(content), rng.integers(1, 4)).tolist():
        replacements: tuple[Sequence[int], ...] = (
            [int(rng.integers(0, 256))],
            [],
            changed[at : at + 1] * 2,
            [0xFF] * int(rng.integers(1, 9)),
            changed[: rng.integers(0, 40)],
        )
        changed[at : at + 1] = bytes(replacements[rng.integers(0, len(replacements))])
    return bytes(changed)


@pytest.mark.parametrize("suffix", ["prototxt", "caffemodel"])
@pytest.mark.parametrize("name", ["alexnet", "varied"])
def test_mutated_files_are_read_or_refused(name: str, suffix: str, tmp_path: Path) -> None:
    """Each of a thousand damaged files is read as a network, or refused in one line."""
    for kind in ("prototxt", "caffemodel"):
        copy(DATA / f"{name}.{kind}", tmp_path)
    path, rng, messages = tmp_path / f"{name}.{suffix}", np.random.default_rng(1), []
    content = path.read_bytes()
    for _ in range(250):
        path.write_bytes(mutated(content, rng))
        try:
            read_source(tmp_path / f"{name}.caffemodel", arch=None, window=None)
        except ConversionError as error:
            messages.append(str(error))
    assert 50 < len(messages) < 250
    assert not any("\n" in message for message in messages)
