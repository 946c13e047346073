"""Folders of Hugging Face (timm and transformers) and of WSInfer are read with window, preprocessing and labels."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.torch_networks import check_scores, randomised

from converter.convert import convert_checkpoint
from converter.errors import ConversionError
from converter.preprocessing import Preprocessing
from converter.sources.read import read_source

if TYPE_CHECKING:
    from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
EXPECTED = Preprocessing(scale=1 / 255, mean=tuple(MEAN), std=tuple(STD), order="RGB")


def write(folder: Path, **files: Mapping[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def transformers_folder(folder: Path, kind: str) -> "nn.Module":
    """Write a folder as transformers writes it; returns the network."""
    import transformers

    small: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
    configs: dict[str, tuple[Any, dict[str, Any]]] = {
        "resnet": (transformers.ResNetConfig, small),
        "convnext": (transformers.ConvNextConfig, {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4}),
        "vit": (
            transformers.ViTConfig,
            {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
             "image_size": 48, "patch_size": 16},
        ),
    }  # fmt: skip
    make, settings = configs[kind]
    config = make(**settings, id2label={0: "cat", 1: "dog", 2: "eel"})
    net = randomised(transformers.AutoModelForImageClassification.from_config(config))
    net.save_pretrained(folder)
    write(
        folder,
        preprocessor_config={"image_mean": MEAN, "image_std": STD, "size": {"height": 48, "width": 48}},
    )
    return net


@pytest.mark.parametrize("kind", ["resnet", "convnext", "vit"])
def test_transformers(tmp_path: Path, kind: str) -> None:
    """Scores, window, preprocessing and labels are those of the folder."""
    net = transformers_folder(tmp_path / "net", kind)
    classifier = read_source(tmp_path / "net", arch=None, window=None)
    check_scores(classifier, net, tmp_path)
    assert classifier.window == (48, 48)
    assert classifier.preprocess == EXPECTED
    assert classifier.labels == ("cat", "dog", "eel")


def test_the_folder_may_be_named_by_arch(tmp_path: Path) -> None:
    """`--arch hf:` stands for the folder of the source; `--arch hf:FOLDER` names another."""
    net = transformers_folder(tmp_path / "net", "resnet")
    for arch in ("hf:", f"hf:{tmp_path / 'net'}"):
        check_scores(read_source(tmp_path / "net" / "model.safetensors", arch=arch, window=None), net, tmp_path)


def test_weights_elsewhere_take_the_place_of_the_folders(tmp_path: Path) -> None:
    """A file of weights with `--arch hf:FOLDER` is the network of the folder with these weights."""
    import torch
    from safetensors.torch import save_file

    net = transformers_folder(tmp_path / "net", "resnet")
    with torch.no_grad():
        net.classifier[1].weight.mul_(3)
    save_file(net.state_dict(), tmp_path / "tuned.safetensors", {"format": "pt"})
    classifier = read_source(tmp_path / "tuned.safetensors", arch=f"hf:{tmp_path / 'net'}", window=None)
    check_scores(classifier, net, tmp_path)
    with pytest.raises(ConversionError, match="arch: expected none for the folder"):
        read_source(tmp_path / "net", arch="torchvision:resnet18", window=None)


@pytest.mark.parametrize("field", ["do_flip_channel_order", "rescale_offset", "include_top"])
def test_other_treatment_of_pixels_is_refused(tmp_path: Path, field: str) -> None:
    """Settings that change the pixels in a way that the converter does not know are not ignored."""
    transformers_folder(tmp_path / "net", "resnet")
    file = tmp_path / "net" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: True}))
    with pytest.raises(ConversionError, match=f"expected scaling and normalisation only, got {field}"):
        read_source(tmp_path / "net", arch=None, window=None)


def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    """A folder without a tensor of the network is refused, because transformers would fill it with random numbers."""
    from safetensors.torch import save_file

    net = transformers_folder(tmp_path / "net", "resnet")
    state = net.state_dict()
    del state["classifier.1.weight"]
    save_file(state, tmp_path / "net" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConversionError, match=r"but it lacks classifier\.1\.weight"):
        read_source(tmp_path / "net", arch=None, window=None)


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    """A folder whose network is its own code is refused."""
    transformers_folder(tmp_path / "net", "resnet")
    (tmp_path / "net" / "evil.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\n")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    for kind in ("resnet", "unheard_of"):
        auto = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Net"}
        write(tmp_path / "net", config=config | {"model_type": kind, "auto_map": auto})
        if kind == "resnet":  # transformers has this network itself
            read_source(tmp_path / "net", arch=None, window=None)
        else:
            with pytest.raises(ConversionError, match="cannot load it"):
                read_source(tmp_path / "net", arch=None, window=None)
    assert not (tmp_path / "touched").exists()


def test_timm(tmp_path: Path) -> None:
    """A folder of timm; the whole conversion keeps its labels."""
    import timm
    from safetensors.torch import save_file

    net = randomised(timm.create_model("test_resnet", num_classes=3))
    settings = {"input_size": [3, 64, 64], "mean": MEAN, "std": STD, "label_names": ["x", "y", "z"]}
    pretrained = settings | {"classifier": "fc", "first_conv": "conv1.0"}
    write(tmp_path / "net", config={"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": pretrained})
    save_file(net.state_dict(), tmp_path / "net" / "model.safetensors")
    classifier = read_source(tmp_path / "net", arch=None, window=None)
    check_scores(classifier, net, tmp_path)
    assert (classifier.window, classifier.preprocess, classifier.labels) == ((64, 64), EXPECTED, ("x", "y", "z"))
    convert_checkpoint(tmp_path / "net", tmp_path / "models" / "net" / "1", verify=4)
    assert (tmp_path / "models" / "net" / "1" / "labels.txt").read_text() == "x\ny\nz\n"


HUGE: dict[str, dict[str, object]] = {
    "depths": {"model_type": "resnet", "depths": [1, 1 << 62], "hidden_sizes": [4, 8], "embedding_size": 4},
    "sizes": {"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [4, 1 << 20], "embedding_size": 4},
    "timm's layers": {"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1 << 40]}},
    "timm's classes": {"architecture": "resnet18", "model_args": {"num_classes": 1 << 32}},
}


@pytest.mark.parametrize("config", HUGE.values(), ids=HUGE)
def test_networks_far_larger_than_their_weights(config: dict[str, object], tmp_path: Path) -> None:
    """A wrong number in the settings does not make millions of layers, or parameters beyond all memory."""
    from safetensors.numpy import save_file

    write(tmp_path / "net", config=config | {"image_size": 32})
    save_file({"fc.weight": np.zeros((3, 512), np.float32)}, tmp_path / "net" / "model.safetensors")
    with pytest.raises(
        ConversionError, match=r"expected at most \d+ (modules|parameters) for weights with this number of tensors: 1"
    ):
        read_source(tmp_path / "net", arch=None, window=None)


def test_wsinfer(tmp_path: Path) -> None:
    """Patches that are resized to the window have a larger spacing; class names become labels."""
    import torch
    from torch import nn

    layers = nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    net = randomised(nn.Sequential(*layers))
    transform = [
        {"name": "Resize", "arguments": {"size": 50}},
        {"name": "ToTensor"},
        {"name": "Normalize", "arguments": {"mean": MEAN, "std": STD}},
    ]
    config = {"spec_version": "1.0", "architecture": "small", "num_classes": 2, "class_names": ["none", "tumor"]}
    write(tmp_path / "net", config=config | {"patch_size_pixels": 100, "spacing_um_px": 0.25, "transform": transform})
    torch.jit.script(net).save(tmp_path / "net" / "torchscript_model.pt")
    classifier = read_source(tmp_path / "net", arch=None, window=None)
    check_scores(classifier, net, tmp_path)
    assert (classifier.window, classifier.preprocess) == ((50, 50), EXPECTED)
    assert (classifier.labels, classifier.microns_per_pixel) == (("none", "tumor"), 0.5)


CONFIGS: dict[str, tuple[object, str]] = {
    "list": ([1], "expected settings by name, got list"),
    "unknown": ({"a": 1}, r"expected the settings of timm \(architecture\), transformers"),
    "no weights": ({"architecture": "test_resnet"}, r"expected model\.safetensors or pytorch_model\.bin"),
    "a spacing of nothing": (
        {"architecture": "x", "patch_size_pixels": 3, "transform": [], "spacing_um_px": 0, "class_names": []},
        "spacing_um_px: expected micrometres above 0",
    ),
    "a size of one number": (
        {"architecture": "test_resnet", "input_size": [3]},
        r"expected model\.safetensors or pytorch_model\.bin",
    ),
    "no transform": ({"architecture": "x", "patch_size_pixels": 3}, "expected the settings of a classifier"),
}


@pytest.mark.parametrize(("config", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_wrong_settings_are_refused(tmp_path: Path, config: Any, expected: str) -> None:  # noqa: ANN401 (any JSON)
    """The refusal is one line that names the file and what was expected."""
    write(tmp_path / "net", config=config)
    with pytest.raises(ConversionError, match=expected) as caught:
        read_source(tmp_path / "net", arch=None, window=None)
    assert "\n" not in str(caught.value)


def test_a_folder_without_settings(tmp_path: Path) -> None:
    """A folder of something else is refused, and so is a file that is not JSON."""
    with pytest.raises(ConversionError, match=r"got no such file; check the path"):
        read_source(tmp_path, arch=None, window=None)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConversionError, match=r"config\.json: not valid JSON"):
        read_source(tmp_path, arch=None, window=None)
