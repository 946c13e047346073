"""Checkpoints with other heads than the shipped networks: one layer is read, several need an architecture file."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import save_file
from support import reference

from converter.errors import SourceError
from converter.sources.architecture import load_architecture, recognise
from converter.sources.classifier import Classifier
from converter.sources.heads import Shapes, with_own_head
from converter.sources.layers import Layer, Linear, WithTensors, tensor_keys
from converter.sources.read import read_source

RNG = np.random.default_rng(0)
SMALL = load_architecture("cifar10_80sec")
"""A shipped network of few weights, whose last layer, fc10, has 64 inputs."""


def saved(folder: Path, head: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Save a small network whose layer fc10 is replaced by tensors of these shapes; returns its tensors."""
    tensors = reference.random_tensors(SMALL, 7, np.random.default_rng(0))
    trunk = {key: tensor for key, tensor in tensors.items() if not key.startswith("fc10.")}
    own = {key: RNG.normal(size=shape).astype(np.float32) for key, shape in head.items()}
    save_file({**trunk, **own}, folder / "net.safetensors")
    return {**trunk, **own}


def source_scores(classifier: Classifier, window: np.ndarray, folder: Path) -> np.ndarray:
    """Return the scores of one window (channels, height, width) by the network as it was read."""
    ir.save(classifier.original, folder / "read.onnx")
    scores: np.ndarray = ort.InferenceSession(folder / "read.onnx").run(None, {"input": window[None]})[0][0]
    return scores


def test_one_layer_is_the_head(tmp_path: Path) -> None:
    """A Sequential of one fully connected layer has the scores of this layer; a note says what was assumed."""
    tensors = saved(tmp_path, {"fc10.1.weight": (7, 64), "fc10.1.bias": (7,)})
    classifier = read_source(tmp_path / "net.safetensors", arch=None, window=None)
    plain = {key.replace("fc10.1", "fc10"): tensor for key, tensor in tensors.items()}
    window = RNG.normal(size=(3, 32, 32)).astype(np.float32)
    expected = reference.run(SMALL, plain, window)
    assert_allclose(source_scores(classifier, window, tmp_path), expected, rtol=0, atol=1e-5 * abs(expected).max())
    assert classifier.notes[0] == (
        "assumed that fc10 computes only its layer fc10.1 (linear 64→7): the checkpoint does not name layers without "
        "tensors, such as Dropout"
    )


def test_several_layers_are_refused(tmp_path: Path) -> None:
    """The refusal names the layers, and the lines of an architecture file that state the activations."""
    saved(tmp_path, {"fc10.0.weight": (9, 64), "fc10.0.bias": (9,), "fc10.3.weight": (7, 9)})
    with pytest.raises(SourceError) as caught:
        read_source(tmp_path / "net.safetensors", arch=None, window=None)
    assert str(caught.value) == (
        "checkpoint: expected one Linear layer as fc10, the head of cifar10_80sec, got fc10.0 (linear 64→9), fc10.3 "
        "(linear 9→7); a state_dict does not hold the activations between them: write a file for --arch "
        '(docs/architectures.md) with the lines base = "cifar10_80sec" and replace.fc10 = [{ op = "linear", key = '
        '"fc10.0" }, { op = "relu" }, { op = "linear", key = "fc10.3", bias = false }], where relu stands for your own '
        "activations; or name the function that makes the network (--arch mypackage.nets:build, "
        "which needs PyTorch), or export it to ONNX"
    )


LACKS = (
    "but it lacks fc10.bias, fc10.weight; the checkpoint has no head (fc10); convert the classifier, not its backbone"
)
OWN_HEAD = {"fc10.weight": (7, 64), "fc10.bias": (7,)}


@pytest.mark.parametrize(
    ("head", "prefix", "expected_message"),
    [
        (
            {**OWN_HEAD, "extra": (3,)},
            "",
            "but it also has extra; leave extra out of the file, or name",
        ),
        ({}, "", LACKS),
        (
            {"head.weight": (7, 64)},
            "net.",
            f"{LACKS}; outside of 'net.', it has head.weight; if these",
        ),
    ],
    ids=["further tensor", "no head", "head of another name"],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, head: dict[str, tuple[int, ...]], prefix: str, expected_message: str
) -> None:
    """The refusal of tensors that are missing or superfluous says what to do about them."""
    tensors = saved(tmp_path, head)
    save_file(
        {key if key in head else f"{prefix}{key}": each for key, each in tensors.items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(SourceError) as caught:
        read_source(tmp_path / "a.safetensors", arch="cifar10_80sec", window=None)
    assert expected_message in str(caught.value)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_need_a_file(tmp_path: Path, channels: int) -> None:
    """The refusal of a network for grey or infrared images gives the lines of an architecture file that reads it."""
    tensors = saved(tmp_path, {"fc10.weight": (7, 64), "fc10.bias": (7,)})
    first = next(key for key, tensor in tensors.items() if tensor.ndim == 4)
    shape = (len(tensors[first]), channels, *tensors[first].shape[2:])
    tensors[first] = RNG.normal(size=shape).astype(np.float32)
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(SourceError) as caught:
        read_source(tmp_path / "net.safetensors", arch=None, window=None)
    lines = ['base = "cifar10_80sec"', f"channels = {channels}", 'preprocess = "unit"']
    assert str(caught.value) == (
        f"checkpoint: {first}: expected 3 input channels, got {channels}; write a file for --arch "
        f"(docs/architectures.md) with the lines {lines[0]}, {lines[1]} and {lines[2]}, or the preprocessing with "
        "which it was trained"
    )
    (tmp_path / "net.toml").write_text("\n".join(lines), "utf-8")
    classifier = read_source(tmp_path / "net.safetensors", arch=str(tmp_path / "net.toml"), window=None)
    window = RNG.normal(size=(channels, 32, 32)).astype(np.float32)
    expected = reference.run(load_architecture(str(tmp_path / "net.toml")), tensors, window)
    assert_allclose(source_scores(classifier, window, tmp_path), expected, rtol=0, atol=1e-5 * abs(expected).max())


UNNAMED = ": the checkpoint does not name layers without tensors, such as Dropout"
FILE = """
base = "cifar10_80sec"
name = "mine"
activation = "sigmoid"
labels = ["a", "b", "c"]

[replace]
fc10 = [
  { op = "batchnorm", key = "fc10.0" }, { op = "linear", key = "fc10.1" }, { op = "tanh" }, { op = "dropout" },
  { op = "linear", key = "fc10.4" },
]
"""
TENSORS: Shapes = {
    **{f"fc10.0.{name}": (64,) for name in ("weight", "bias", "running_mean")},
    "fc10.1.weight": (9, 64),
    "fc10.1.bias": (9,),
    "fc10.4.weight": (3, 9),
    "fc10.4.bias": (3,),
}


def test_a_file_states_the_head(tmp_path: Path) -> None:
    """A file with a base has the base's fields and layers, except those that it states."""
    (tmp_path / "net.toml").write_text(FILE, "utf-8")
    tensors = saved(tmp_path, dict(TENSORS))
    tensors["fc10.0.running_var"] = RNG.uniform(0.5, 2, 64).astype(np.float32)
    save_file(tensors, tmp_path / "net.safetensors")
    classifier = read_source(tmp_path / "net.safetensors", arch=str(tmp_path / "net.toml"), window=None)
    assert (classifier.activation, classifier.labels, classifier.notes) == ("sigmoid", ("a", "b", "c"), ())
    assert (classifier.window, classifier.preprocess) == (SMALL.window, SMALL.preprocess)
    window = RNG.normal(size=(3, 32, 32)).astype(np.float32)
    expected = reference.run(load_architecture(str(tmp_path / "net.toml")), tensors, window)
    assert_allclose(source_scores(classifier, window, tmp_path), expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_a_base_has_the_names_of_its_networks(tmp_path: Path) -> None:
    """`base` may be torchvision's name of a network that a shipped file describes."""
    (tmp_path / "net.toml").write_text('base = "resnet18"\nwindow = [64, 96]', "utf-8")
    architecture, base = load_architecture(str(tmp_path / "net.toml")), load_architecture("resnet_basic")
    assert architecture == base.model_copy(update={"window": (64, 96)})


@pytest.mark.parametrize(
    ("text", "expected_message"),
    [
        (
            'base = "cifar11"',
            "base: expected the name of a shipped architecture, got 'cifar11'; docs/architectures.md lists them",
        ),
        (
            "base = 3",
            "base: expected the name of a shipped architecture, got 3; docs/architectures.md lists them",
        ),
        ('base = "alexnet"\nlayers = []', "expected no layers and blocks beside base = 'alexnet'; use replace"),
        ('base = "alexnet"\nreplace.fc = []', "replace: expected a layer of the base, such as classifier.6, got fc"),
        (
            'base = "resnet"\nreplace."layer1.0.conv1" = []',
            "replace: expected a layer of the base, such as fc, got layer1.0.conv1",
        ),
        (
            'base = "resnet"\nreplace.fc = [{ op = "linear" }]',
            "replace.fc.0.linear.key: expected this field, got none",
        ),
    ],
    ids=["unknown", "type", "layers", "module", "block", "layer"],
)
def test_invalid_files_are_refused(tmp_path: Path, text: str, expected_message: str) -> None:
    """A file that changes no shipped architecture, or no layer of it, is refused on one line."""
    (tmp_path / "net.toml").write_text(text, "utf-8")
    with pytest.raises(SourceError) as caught:
        load_architecture(str(tmp_path / "net.toml"))
    assert str(caught.value) == f"arch: {tmp_path / 'net.toml'}: {expected_message}"


def shapes_of(architecture: str) -> tuple[list[Layer], Shapes]:
    """Return the layers of a shipped network, and shapes of its tensors with five inputs and seven classes."""
    layers = load_architecture(architecture).layers_for(())
    outputs = {layer.tensor_keys[0]: layer.out or 7 for layer in layers if isinstance(layer, Linear)}
    return layers, {key: (outputs[key], 5) if key in outputs else (7,) for key in tensor_keys(layers)}


@pytest.mark.parametrize(
    ("architecture", "replaced", "head", "key"),
    [
        ("resnet_basic", "fc", {"fc.1.weight": (3, 5), "fc.1.bias": (3,)}, "fc.1"),
        ("resnet", "fc", {"fc.drop.out.weight": (3, 5)}, "fc.drop.out"),
        ("resnet", "fc", {"fc.weight": (3, 5)}, "fc"),
        ("densenet", "classifier", {"classifier.0.weight": (3, 5), "classifier.0.bias": (3,)}, "classifier.0"),
        ("mobilenet_v2", "classifier.1", {"classifier.weight": (3, 5), "classifier.bias": (3,)}, "classifier"),
        ("mobilenet_v2", "classifier.1", {"classifier.1.1.weight": (3, 5)}, "classifier.1.1"),
        ("vgg16", "classifier.6", {"classifier.6.1.weight": (3, 5), "classifier.6.1.bias": (3,)}, "classifier.6.1"),
        ("vgg16", "classifier", {"classifier.1.weight": (3, 5), "classifier.1.bias": (3,)}, "classifier.1"),
        ("squeezenet1_1", "classifier.1", {"classifier.1.1.weight": (3, 5, 1, 1)}, "classifier.1.1"),
        ("efficientnet_lite0", "_fc", {"_fc.1.weight": (3, 5), "_fc.1.bias": (3,)}, "_fc.1"),
    ],
)
def test_heads_of_shipped_networks(architecture: str, replaced: str, head: Shapes, key: str) -> None:
    """The layer takes the place of the last layer, or of all fully connected layers; it has a bias if it has one."""
    layers, shapes = shapes_of(architecture)
    others = {each: shape for each, shape in shapes.items() if not each.startswith(f"{replaced}.")}
    fitted, _ = with_own_head(layers, {**others, **head}, architecture)
    *_, last = (layer for layer in fitted if isinstance(layer, WithTensors))
    assert last.key == key
    assert set(last.tensor_keys) == set(head)
    kept = [
        layer for layer in layers if not (isinstance(layer, WithTensors) and f"{layer.key}.".startswith(f"{replaced}."))
    ]
    assert [layer for layer in fitted if layer is not last and layer not in kept] == []


@pytest.mark.parametrize(
    ("architecture", "head", "note"),
    [
        ("resnet", {"fc.weight": (3, 5), "fc.bias": (3,)}, ()),
        ("resnet", {"fc.weight": (3, 5)}, ("fc has no bias in the checkpoint",)),
        ("vgg11", {"classifier.weight": (3, 5)}, ("classifier is one Linear layer (5→3) in the checkpoint",)),
        (
            "vgg11",
            {"classifier.6.weight": (3, 5)},
            (f"assumed that classifier computes only its layer classifier.6 (linear 5→3){UNNAMED}",),
        ),
    ],
    ids=["plain", "no bias", "one layer for all", "last of several"],
)
def test_notes_on_heads(architecture: str, head: Shapes, note: tuple[str, ...]) -> None:
    """A note says how the head differs from the network's own."""
    layers, shapes = shapes_of(architecture)
    trunk = {key: shape for key, shape in shapes.items() if not key.startswith(("classifier.", "fc."))}
    assert with_own_head(layers, {**trunk, **head}, architecture)[1] == note


@pytest.mark.parametrize(
    ("architecture", "head", "got"),
    [
        ("vgg11", {"classifier.0.weight": (6, 5), "classifier.3.weight": (7, 6)}, "classifier.0 (linear 5→6), classif"),
        (
            "alexnet",
            {"classifier.1.weight": (6, 5), "classifier.4.weight": (5, 6), "classifier.6.weight": (2, 5)},
            "classifier.1 (linear 5→6), classifier.4 (linear 6→5), classifier.6 (linear 5→2)",
        ),
        ("resnet", {"fc.10.weight": (2, 6), "fc.9.weight": (6, 5)}, "fc.9 (linear 5→6), fc.10 (linear 6→2)"),
        (
            "resnet",
            {
                **{f"fc.0.{name}": (5,) for name in ("weight", "bias", "running_mean", "running_var")},
                "fc.1.weight": (6, 5),
            },
            "fc.0 (batchnorm 5), fc.1 (linear 5→6)",
        ),
    ],
    ids=["fewer layers", "other widths", "order of numbers", "batch normalisation"],
)
def test_heads_of_several_layers(architecture: str, head: Shapes, got: str) -> None:
    """Other layers than the network's own are named in the order of the Sequential."""
    layers, shapes = shapes_of(architecture)
    trunk = {key: shape for key, shape in shapes.items() if not key.startswith(("classifier.", "fc."))}
    with pytest.raises(SourceError) as caught:
        with_own_head(layers, {**trunk, **head}, architecture)
    assert got in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        {"fc.weight_g": (7, 1), "fc.weight_v": (7, 5)},
        {"fc.1.weight": (7, 5, 1, 1)},
        {"fc.1.weight": (7, 5), "head.weight": (7, 5)},
        {"fc.1.weight": (0, 5)},
    ],
    ids=["weight normalisation", "convolution", "elsewhere", "no classes"],
)
def test_other_tensors_are_no_head(head: Shapes) -> None:
    """Other tensors than those of fully connected layers in the network's head leave the network as it is."""
    layers, shapes = shapes_of("resnet")
    trunk = {key: shape for key, shape in shapes.items() if not key.startswith("fc.")}
    assert with_own_head(layers, {**trunk, **head}, "resnet") == (layers, ())


@pytest.mark.parametrize("head", [(0,), (0, 3), (1, 4, 6, 8)], ids=str)
def test_heads_do_not_hide_the_network(head: tuple[int, ...]) -> None:
    """AlexNet, which has as many tensors in its head as in its trunk, is recognised with any head."""
    trunk = {key for key in tensor_keys(load_architecture("alexnet").layers_for(())) if key.startswith("features.")}
    own = {f"model.classifier.{number}.{name}" for number in head for name in ("weight", "bias")}
    prefix, found = recognise({f"model.{key}" for key in trunk} | own)
    assert (prefix, [each.name for each in found]) == ("model.", ["alexnet"])


def test_networks_with_equal_trunks_are_asked_for_first(tmp_path: Path) -> None:
    """If two architectures fit except for the head, the refusal asks for --arch, whose refusal then names its base."""
    trunk = reference.random_tensors(load_architecture("timm_efficientnet_lite0"), 7, RNG)
    own = {"classifier.0.weight": np.ones((9, 1280), np.float32), "classifier.2.weight": np.ones((7, 9), np.float32)}
    others = {key: tensor for key, tensor in trunk.items() if not key.startswith("classifier.")}
    save_file({**others, **own}, tmp_path / "net.safetensors")
    with pytest.raises(SourceError, match="choose --arch timm_efficientnet_lite0 or --arch timm_tf_efficientnet_lite0"):
        read_source(tmp_path / "net.safetensors", arch=None, window=None)
    with pytest.raises(SourceError, match='base = "timm_tf_efficientnet_lite0"'):
        read_source(tmp_path / "net.safetensors", arch="timm_tf_efficientnet_lite0", window=None)
