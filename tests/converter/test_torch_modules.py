"""State_dicts of modules, from torchvision and from factory functions, with random weights."""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import save_file
from support.conversion import SILENT
from support.pictures import noise

from converter import convert as conversion
from converter.convert import convert_checkpoint
from converter.errors import ConversionError
from converter.preprocessing import PRESETS, load_preprocessing
from converter.sources.checkpoint import read_checkpoint, sha256
from converter.sources.classifier import Classifier
from converter.sources.read import read_source

if TYPE_CHECKING:
    from torch import nn

pytestmark = pytest.mark.torch

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    window = (22, 26)

    def __init__(self):
        super().__init__()
        print("made")
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()
        )
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))

class Fickle(Net):
    def forward(self, x):
        return super().forward(x) if x.mean() > 0 else -super().forward(x)

class Large(Net):
    window = 224

def fail():
    raise RuntimeError("no such\\nconfiguration")

def sizes():
    return [1, 2, 3]
"""


def build(name: str, classes: int, **options: bool) -> "nn.Module":
    """Return a torchvision network whose batch normalisation has random statistics."""
    import torch
    import torchvision

    torch.manual_seed(0)
    net: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return net


def scores(net: "nn.Module", images: np.ndarray) -> np.ndarray:
    """PyTorch's scores of (N, channels, height, width) float32."""
    import torch

    with torch.no_grad():
        found: np.ndarray = net(torch.from_numpy(images)).numpy()
    return found


def answer(classifier: Classifier, images: np.ndarray, folder: Path) -> np.ndarray:
    """Return the scores of the network as it was read, before anything is rewritten."""
    ir.save(classifier.original, folder / "read.onnx")
    session = ort.InferenceSession(folder / "read.onnx")
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def assert_same(classifier: Classifier, net: "nn.Module", folder: Path) -> None:
    """Check that the classifier's scores of a window equal the module's, to rounding."""
    pixels = noise(*classifier.window, 3)[None]
    preprocessing = load_preprocessing(classifier.preprocess)
    assert preprocessing is not None
    images = np.moveaxis(preprocessing.apply(pixels), -1, 1).copy()
    expected = scores(net, images)
    assert_allclose(answer(classifier, images, folder), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def refused(source: Path, arch: str, **options: tuple[int, int]) -> str:
    """Return the message of a refusal, which is one line."""
    with pytest.raises(ConversionError) as caught:
        read_source(source, arch=arch, window=options.get("window"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvision_networks_convert(suffix: str, tmp_path: Path) -> None:
    """The scores of 224×224 pixels equal the module's; window, preprocessing, classes and source are recorded."""
    import torch

    net, source = build("resnet18", 7), tmp_path / f"net.{suffix}"
    if suffix == "pth":
        torch.save(net.state_dict(), source)
    else:
        save_file({key: value.numpy() for key, value in net.state_dict().items()}, source)
    classifier = read_source(source, arch="torchvision:resnet18", window=None)
    assert classifier.window == (224, 224)
    assert load_preprocessing(classifier.preprocess) == PRESETS["imagenet"]
    target = tmp_path / "models" / "net" / "1"
    report = conversion.convert(classifier, conversion.Request(target, windows=4), SILENT)
    described = report.spec.source
    kind = {"pth": "torch-zip", "safetensors": "safetensors"}[suffix]
    assert (described.format, described.sha256, described.producer) == (kind, sha256(source), "pytorch")
    pixels = noise(224, 224, 3)[None]
    expected = scores(net, np.moveaxis(PRESETS["imagenet"].apply(pixels), -1, 1).copy())
    session = ort.InferenceSession(target / "model.onnx")
    (native,) = session.run(None, {"image": pixels})
    assert_allclose(native[:, :, 0, 0], expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert session.run(None, {"image": noise(288, 416, 3)[None]})[0].shape == (1, 7, 3, 7)


@pytest.mark.parametrize(
    ("name", "options", "window"),
    [
        ("squeezenet1_1", {}, 224),
        ("mnasnet0_5", {}, 224),
        ("efficientnet_b1", {}, 240),
        ("googlenet", {"aux_logits": True, "transform_input": True, "init_weights": False}, 224),
        ("inception_v3", {"aux_logits": False, "transform_input": True, "init_weights": False}, 299),
    ],
    ids=["conv-head", "versioned", "larger", "auxiliary", "inception"],
)
def test_unusual_architectures_convert(name: str, options: dict[str, bool], window: int, tmp_path: Path) -> None:
    """Heads of other names, versioned modules, auxiliary heads and other windows give the module's own scores."""
    import torch

    net = build(name, 5, **options)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch=f"torchvision:{name}", window=None)
    assert classifier.window == (window, window)
    assert_same(classifier, net, tmp_path)


def test_keys_of_the_first_release_are_converted(tmp_path: Path) -> None:
    """DenseNets with the keys of torchvision's first release convert, also with another window."""
    import torch

    net = build("densenet121", 5)
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key): value
        for key, value in net.state_dict().items()
    }
    assert old.keys() != net.state_dict().keys()
    torch.save({key: value for key, value in old.items() if "num_batches" not in key}, tmp_path / "net.pth")
    classifier = read_source(tmp_path / "net.pth", arch="torchvision:densenet121", window=(64, 96))
    assert classifier.window == (64, 96)
    assert_same(classifier, net, tmp_path)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Return the tensors of a ResNet-18 of seven classes."""
    import torch

    path = tmp_path_factory.mktemp("resnet") / "net.pth"
    torch.save(build("resnet18", 7).state_dict(), path)
    return dict(read_checkpoint(path).tensors)


MUTILATIONS: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "missing": (
        lambda tensors: tensors.pop("bn1.bias"),
        "the 102 tensors of torchvision:resnet18, but it lacks bn1.bias;",
    ),
    "unknown": (lambda tensors: tensors.update(e=np.zeros(3, np.float32)), "but it also has e;"),
    "head": (lambda tensors: tensors.pop("fc.weight"), "but it lacks fc.weight;"),
    "shape": (lambda t: t.update({"bn1.bias": np.zeros(9, np.float32)}), "bn1.bias: expected shape (64,), got (9,)"),
    "flat": (
        lambda t: t.update({"fc.weight": np.zeros(7, np.float32)}),
        "fc.weight: expected shape (1000, 512), got (7,)",
    ),
    "none": (
        lambda t: t.update({"fc.weight": np.zeros((0, 512), np.float32)}),
        "fc.weight: expected shape (1000, 512), got (0, 512)",
    ),
    "integers": (lambda t: t.update({"bn1.bias": np.zeros(64, np.int64)}), "bn1.bias: expected floating-point numbers"),
}


@pytest.mark.parametrize(("damage", "expected_message"), MUTILATIONS.values(), ids=MUTILATIONS)
def test_checkpoints_of_other_networks_are_refused(
    resnet: dict[str, np.ndarray], damage: Callable[..., object], expected_message: str, tmp_path: Path
) -> None:
    """A checkpoint with missing or additional keys is refused, and the first of them is named."""
    tensors = dict(resnet)
    damage(tensors)
    save_file(tensors, tmp_path / "net.safetensors")
    assert expected_message in refused(tmp_path / "net.safetensors", "torchvision:resnet18")


def test_mistyped_libraries(resnet: dict[str, np.ndarray], tmp_path: Path) -> None:
    """A module that cannot be found, with nearly the name of a library, is refused with the library's name."""
    save_file(resnet, tmp_path / "net.safetensors")
    message = refused(tmp_path / "net.safetensors", "torchvison:resnet18")
    assert message.endswith("No module named 'torchvison'; nearest: torchvision:resnet18")


@pytest.mark.parametrize(
    ("name", "expected_message"),
    [("resnet49", "expected resnet"), ("fcn_resnet50", "torchvision has no classifier"), ("x", "another of 80")],
    ids=["misspelt", "segmentation", "unknown"],
)
def test_unknown_torchvision_names(
    resnet: dict[str, np.ndarray], name: str, expected_message: str, tmp_path: Path
) -> None:
    """An unknown torchvision name is refused, and similar names are suggested."""
    save_file(resnet, tmp_path / "net.safetensors")
    assert expected_message in refused(tmp_path / "net.safetensors", f"torchvision:{name}")


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "nn.Module":
    """Write the module `some.nets` with factories into the current directory, and its checkpoint into net.pth."""
    import torch

    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("some.nets", None)
    sys.modules.pop("some", None)
    nets = importlib.import_module("some.nets")
    torch.manual_seed(0)
    net: nn.Module = nets.Net()
    net.features[1].running_mean.normal_(0, 0.1)
    torch.save(net.state_dict(), "net.pth")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    return net.eval()


@pytest.mark.parametrize("window", [None, (30, 30)], ids=["own", "chosen"])
def test_factories_convert(factory: "nn.Module", window: tuple[int, int] | None, tmp_path: Path) -> None:
    """A module in the current directory converts, with its own window or --window, and without preprocessing."""
    before = sys.path[:]
    classifier = read_source(Path("net.pth"), arch="some.nets:Net", window=window)
    assert sys.path == before
    assert classifier.window == (window or (22, 26))
    assert classifier.preprocess == "none"
    images = np.random.default_rng(0).standard_normal((1, 1, *classifier.window)).astype(np.float32)
    assert_allclose(answer(classifier, images, tmp_path), scores(factory, images), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("factory")
@pytest.mark.parametrize(
    ("arch", "expected_message"),
    [
        ("some.nets:Fickle", "some.nets:Fickle: PyTorch cannot export it to ONNX: "),
        (
            "some.nets:Large",
            "window: expected the attribute `window`, (height, width), of the module that some.nets:Large returns",
        ),
        ("some.nets:fail", "arch: some.nets:fail fails: RuntimeError: no such configuration"),
        ("some.nets:sizes", "arch: some.nets:sizes: expected a torch.nn.Module, got list"),
        ("some.nets:absent", "AttributeError: module 'some.nets' has no attribute 'absent'"),
        ("some.absent:build", "ModuleNotFoundError: No module named 'some.absent'"),
    ],
    ids=["branches", "window", "fails", "list", "attribute", "module"],
)
def test_factories_that_cannot_be_used(arch: str, expected_message: str) -> None:
    """Errors of the user's module are reported on one line, including paths that depend on the pixels."""
    assert expected_message in refused(Path("net.pth"), arch)


@pytest.mark.usefixtures("factory")
def test_the_command_imports_from_the_current_directory() -> None:
    """The console script imports the module, prints only its report on standard output, and ends with status 0."""
    command: list[str | Path] = [
        Path(sys.executable).with_name("fullconv-convert"),
        "net.pth",
        "-o",
        "models/net/1",
        "--json",
    ]
    done = subprocess.run(
        [*command, "--arch", "some.nets:Net", "--preprocess", "unit", "--verify", "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"]["format"] == "torch-zip"
    assert "made" in done.stderr
    assert "Warning" not in done.stderr


def test_modules_in_memory_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in memory is exported in any mode and not changed; its digest is the hash of its tensors."""
    import torch

    net = factory_net(tmp_path, monkeypatch).half().train()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    reports = [
        convert_checkpoint(net, tmp_path / name / "net" / "1", preprocess="unit", verify=4) for name in ("one", "two")
    ]
    assert net.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    spec = reports[0].spec
    assert (spec.window.height, spec.window.width) == (22, 26)
    assert spec.source.format == "torch-module"
    assert len(spec.source.sha256) == 64
    assert spec == reports[1].spec
    pixels = noise(22, 26, 1)
    session = ort.InferenceSession(tmp_path / "one" / "net" / "1" / "model.onnx")
    images = np.moveaxis(pixels[None] / np.float32(255), -1, 1).copy()
    expected = scores(net.float().eval(), images)
    assert_allclose(session.run(None, {"image": pixels[None]})[0][..., 0, 0], expected, rtol=0, atol=1e-4)


def test_modules_in_memory_need_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an attribute `window` and without the option there is no size to export; --arch has no meaning."""
    net = factory_net(tmp_path, monkeypatch)
    with pytest.raises(
        ConversionError, match=r"arch: expected none for a module, which is a network, got --arch vgg16; leave it out"
    ):
        convert_checkpoint(net, tmp_path / "net" / "1", arch="vgg16")
    type(net).window = None
    with pytest.raises(
        ConversionError, match=r"window: expected the attribute `window`, \(height, width\), of the module Net"
    ):
        convert_checkpoint(net, tmp_path / "net" / "1")
    assert convert_checkpoint(net, tmp_path / "net" / "1", window=(24, 28), verify=4).spec.window.width == 28


def factory_net(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 (a module of PyTorch, which may be missing)
    """Return the network of FACTORY, with random weights and statistics."""
    import torch

    (folder / "notebook.py").write_text(FACTORY, "utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "notebook", raising=False)
    torch.manual_seed(0)
    net = importlib.import_module("notebook").Net()
    net.features[1].running_mean.normal_(0, 0.1)
    net.features[1].running_var.uniform_(0.5, 2)
    return net
