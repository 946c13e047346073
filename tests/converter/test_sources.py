"""Checkpoints and exported networks of PyTorch."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from safetensors.numpy import save_file
from support import reference
from support.conversion import SILENT
from support.networks import UNPADDED, make_network

from converter import convert as conversion
from converter.errors import ConversionError, SourceError
from converter.sources.architecture import load_architecture, recognise
from converter.sources.checkpoint import read_checkpoint
from converter.sources.read import read_source

DATA = Path(__file__).parents[1] / "data"
EXPECTED = np.load(DATA / "expected.npz")
EXPORTS = sorted((DATA / "exports").glob("*.onnx"))


def converted(source: Path, target: Path, **options: Any) -> ort.InferenceSession:
    """Convert an ONNX file to TARGET/net/1 and load it."""
    classifier = read_source(source, arch=None, window=None)
    conversion.convert(classifier, conversion.Request(target / "net" / "1", windows=8, **options), SILENT)
    return ort.InferenceSession(target / "net" / "1" / "model.onnx")


@pytest.mark.parametrize("export", EXPORTS, ids=lambda path: path.stem)
def test_exports_keep_their_scores(export: Path, tmp_path: Path) -> None:
    """For one window every export gives PyTorch's scores, as a grid of 1×1."""
    session = converted(export, tmp_path)
    (scores,) = session.run(["scores"], {session.get_inputs()[0].name: EXPECTED["window"]})
    assert scores.shape == (1, 5, 1, 1)
    assert_allclose(scores[0, :, 0, 0], EXPECTED[export.name.split(".")[0]][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "export", [path for path in EXPORTS if not path.name.startswith("padded")], ids=lambda path: path.stem
)
def test_unpadded_exports_score_every_window(export: Path, tmp_path: Path) -> None:
    """Two larger images in one batch: every cell equals the exported network on that window."""
    session, original = converted(export, tmp_path), ort.InferenceSession(export)
    images = np.random.default_rng(0).standard_normal((2, 3, 41, 47)).astype(np.float32)
    (scores,) = session.run(["scores"], {session.get_inputs()[0].name: images})
    assert scores.shape == (2, 5, 5, 6)
    batch = original.get_inputs()[0]
    for image, row, col in np.ndindex(2, 5, 6):
        crop = images[image : image + 1, :, 4 * row : 4 * row + 22, 4 * col : 4 * col + 26]
        (expected,) = original.run(None, {batch.name: crop})
        assert_allclose(scores[image, :, row, col], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["plain", "parallel", "training", "parameters", "strided", "legacy"], ids=lambda name: f"{name}.pth"
)
def test_pth_checkpoints_are_read_without_pytorch(name: str) -> None:
    """Every way of saving a state_dict gives the same tensors."""
    plain = read_checkpoint(DATA / "checkpoints" / "plain.pth").tensors
    got = read_checkpoint(DATA / "checkpoints" / f"{name}.pth").tensors
    assert plain.keys() == got.keys()
    for key, tensor in plain.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, got[key])


def test_bfloat16_checkpoints_become_float32() -> None:
    """bfloat16 weights are read as float32 with the same numbers."""
    plain: Mapping[str, NDArray[Any]] = read_checkpoint(DATA / "checkpoints" / "plain.pth").tensors
    rounded: Mapping[str, NDArray[Any]] = read_checkpoint(DATA / "checkpoints" / "bfloat16.pth").tensors
    for key, tensor in rounded.items():
        assert tensor.dtype == np.float32
        assert_allclose(tensor, plain[key], rtol=2**-8)


def test_checkpoints_keep_their_scores(tmp_path: Path) -> None:
    """A .pth file with the TOML of its layers gives PyTorch's scores."""
    toml = tmp_path / "net.toml"
    toml.write_text(UNPADDED)
    classifier = read_source(DATA / "checkpoints" / "plain.pth", arch=str(toml), window=None)
    architecture = load_architecture(str(toml))
    tensors: dict[str, Any] = dict(read_checkpoint(DATA / "checkpoints" / "plain.pth").tensors)
    assert classifier.window == (22, 26)
    assert_allclose(
        reference.run(architecture, tensors, EXPECTED["window"][0]), EXPECTED["flatten"][0], rtol=1e-4, atol=1e-6
    )


FAMILIES = ["alexnet", *(f"vgg{depth}{bn}" for depth in (11, 13, 16, 19) for bn in ("", "_bn"))]


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_recognised_by_their_keys(family: str) -> None:
    """A network of torchvision is recognised by its keys."""
    assert [found.name for found in recognise(set(load_architecture(family).keys()))[1]] == [family]


def refused(run: Callable[[], object]) -> str:
    """Return the message of a refusal, which is one line."""
    with pytest.raises(ConversionError) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message
    return message


def mutilations() -> Iterator[tuple[str, Callable[[dict[str, np.ndarray]], object], str]]:
    """Yield damages to a checkpoint's tensors, each with its name and the expected error message."""
    yield "missing", lambda tensors: tensors.pop("b.bias"), "lacks b.bias"
    yield "unknown", lambda tensors: tensors.update(e=np.zeros(3, np.float32)), "also has e"
    yield "misshapen", lambda t: t.update({"b.bias": np.zeros(9, np.float32)}), r"b.bias: expected shape (8,), got (9,)"
    yield "window", lambda t: t.update({"c.weight": np.zeros((16, 8), np.float32)}), "expected shape (16, 160)"
    yield "classes", lambda t: t.update({"d.weight": np.zeros((0, 16), np.float32)}), "expected shape (1, 16)"
    yield "scalar", lambda t: t.update({"d.weight": np.zeros((), np.float32)}), "expected shape (1, 16), got ()"
    yield "nan", lambda t: t["c.weight"].fill(np.nan), "c.weight: expected finite numbers"
    yield (
        "integers",
        lambda t: t.update({"b.bias": np.zeros(8, np.int64)}),
        "expected floating-point numbers, got int64",
    )


@pytest.mark.parametrize(
    ("damage", "expected_message"), [entry[1:] for entry in mutilations()], ids=[e[0] for e in mutilations()]
)
def test_checkpoints_that_do_not_fit(tmp_path: Path, damage: Callable[..., object], expected_message: str) -> None:
    """A missing, unknown, misshapen or non-finite tensor is refused by name, with the expected value."""
    network = make_network(tmp_path, UNPADDED)
    tensors = dict(network.tensors)
    damage(tensors)
    save_file(tensors, network.checkpoint)
    assert expected_message in refused(lambda: read_source(network.checkpoint, arch=str(network.toml), window=None))


@pytest.mark.parametrize(
    ("kind", "shape", "expected_message"),
    [
        ("F32", [0, 1 << 61, 1 << 61], "damaged safetensors file"),
        ("F32", [1] * 65 + [0], "damaged safetensors file"),
        ("F8_E4M3", [0], "a: expected float64, float32, float16 or bfloat16, got F8_E4M3; convert it with"),
    ],
    ids=["huge", "rank", "type"],
)
def test_safetensors_with_impossible_shapes(tmp_path: Path, kind: str, shape: list[int], expected_message: str) -> None:
    """An array whose valid header claims an impossible shape is refused."""
    header = json.dumps({"a": {"dtype": kind, "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "net.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert expected_message in refused(lambda: read_checkpoint(tmp_path / "net.safetensors"))


def test_two_networks_in_one_file_are_refused(tmp_path: Path) -> None:
    """Keys that are equal after a wrapper's prefix is removed must have equal tensors."""
    network = make_network(tmp_path, UNPADDED)
    copies = {f"module.{key}": tensor for key, tensor in network.tensors.items()}
    save_file({**network.tensors, **copies}, network.checkpoint)
    assert read_checkpoint(network.checkpoint).tensors.keys() == network.tensors.keys()
    copies["module.a.weight"] = copies["module.a.weight"] * 2
    save_file({**network.tensors, **copies}, network.checkpoint)
    assert refused(lambda: read_checkpoint(network.checkpoint)) == (
        "checkpoint: expected one tensor a.weight, got two, a.weight and module.a.weight; save one of the networks"
    )


@pytest.mark.parametrize(
    "prefix", ["model.", "student.model.backbone.net."], ids=["lightning", "names of several modules"]
)
def test_tensors_that_are_left_out_may_be_infinite(tmp_path: Path, prefix: str) -> None:
    """A metric of a Lightning module begins at minus infinity, which says nothing about the network."""
    network = make_network(tmp_path, UNPADDED)
    own = {f"{prefix}{key}": tensor for key, tensor in network.tensors.items()}
    save_file({**own, "best.max_value": np.array(-np.inf, np.float32)}, network.checkpoint)
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    assert classifier.notes == (
        f"the network's tensors begin with '{prefix}' in the checkpoint; left out: best.max_value",
    )
    own[f"{prefix}a.weight"] = np.full_like(network.tensors["a.weight"], np.nan)
    save_file(own, network.checkpoint)
    message = refused(lambda: read_source(network.checkpoint, arch=str(network.toml), window=None))
    assert f"checkpoint: {prefix}a.weight: expected finite numbers, got NaN or infinity" in message


@pytest.mark.parametrize("byte", [0x08, 0x80], ids=["onnx", "pickle"])
def test_safetensors_that_begin_like_another_format(tmp_path: Path, byte: int) -> None:
    """One safetensors file in 32 begins with the first byte of an ONNX file, and one in 32 with that of a pickle.

    This byte belongs to the length of the header. Such files are read correctly.
    """
    network = make_network(tmp_path, UNPADDED)
    for length in range(256):
        save_file(network.tensors, network.checkpoint, {"padding": "-" * length})
        if network.checkpoint.read_bytes()[0] == byte:
            break
    assert network.checkpoint.read_bytes()[0] == byte
    assert read_source(network.checkpoint, arch=str(network.toml), window=None).source.format == "safetensors"


def test_graphs_share_the_weights_of_the_file(tmp_path: Path) -> None:
    """The weights of both graphs are views of the file's bytes."""
    network = make_network(tmp_path, UNPADDED)
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    for name, value in classifier.original.graph.initializers.items():
        shared = classifier.model.graph.initializers[name].const_value
        assert value.const_value is not None
        assert shared is not None
        array = value.const_value.numpy()
        np.testing.assert_array_equal(array, network.tensors[name])
        assert np.shares_memory(array, shared.numpy())
        assert not array.flags.owndata


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["pth", "safetensors", "onnx"])
def test_truncated_sources_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    """A truncated source is refused in every format."""
    network = make_network(tmp_path, UNPADDED)
    whole = {
        "pth": DATA / "checkpoints" / "plain.pth",
        "safetensors": network.checkpoint,
        "onnx": DATA / "exports" / "flatten.dynamo.onnx",
    }[kind].read_bytes()
    path = tmp_path / f"short.{kind}"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert str(path) in refused(
        lambda: read_source(path, arch=str(network.toml) if kind != "onnx" else None, window=None)
    )


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04nonsense", b"\x80\x02nonsense"])
def test_nonsense_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is not a checkpoint is refused."""
    path = tmp_path / "nonsense.bin"
    path.write_bytes(content)
    assert str(path) in refused(lambda: read_source(path, arch=None, window=None))


def test_missing_source_is_refused(tmp_path: Path) -> None:
    """A missing source file is refused by its path."""
    assert "No such file" in refused(lambda: read_source(tmp_path / "none.pth", arch=None, window=None))


def test_unknown_checkpoints_ask_for_an_architecture(tmp_path: Path) -> None:
    """A checkpoint whose keys fit no shipped architecture is refused, with --arch as the way out."""
    network = make_network(tmp_path, UNPADDED)
    assert "--arch FILE.toml" in refused(lambda: read_source(network.checkpoint, arch=None, window=None))


@pytest.mark.parametrize(
    ("old", "new", "expected_message"),
    [
        ("out = 6", "out = -6", "layers.0.conv.out: expected a number greater than 0, got '-6'"),
        ('op = "relu"', 'op = "swish"', "layers.1: expected hardswish or mish, got 'swish'"),
        ("kernel = 3", "kernels = 3", "layers.0.conv.kernel: expected this field, got none"),
        ("channels = 3", "", "channels: expected this field, got none"),
        ("layers = [", "layers = ", "not valid TOML"),
        ('{ op = "flatten" },', "", "linear cannot follow"),
        ("kernel = 2, stride = 2", "kernel = 2, stride = 90", "does not fit"),
    ],
    ids=["value", "operator", "key", "missing", "syntax", "order", "too-large"],
)
def test_architectures_that_do_not_fit(tmp_path: Path, old: str, new: str, expected_message: str) -> None:
    """A mistake in the TOML is reported with its place in the file."""
    network = make_network(tmp_path, UNPADDED)
    network.toml.write_text(UNPADDED.replace(old, new, 1), "utf-8")
    assert expected_message in refused(lambda: read_source(network.checkpoint, arch=str(network.toml), window=None))


def test_wrong_window_is_refused() -> None:
    """--window that contradicts the file is refused, and the file's size is named."""
    message = refused(lambda: read_source(DATA / "exports" / "flatten.dynamo.onnx", arch=None, window=(64, 64)))
    assert "the file's height is 22, got 64" in message


def test_windows_that_are_too_large_are_refused(tmp_path: Path) -> None:
    """A window of a checkpoint that is too large for a test run is refused before the network is built."""
    network = make_network(tmp_path, UNPADDED)
    message = refused(lambda: read_source(network.checkpoint, arch=str(network.toml), window=(9999, 9999)))
    assert message == "input 'image': expected 1 to 67108864 numbers, got 1×3×9999×9999"


def test_arch_with_onnx_is_refused() -> None:
    """--arch with an ONNX file is refused."""
    with pytest.raises(SourceError, match="leave it out"):
        read_source(EXPORTS[0], arch="vgg16", window=None)
