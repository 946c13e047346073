"""`convert_checkpoint` has the same options, defaults, files and refusals as the command."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import reference
from support.networks import UNPADDED, make_network
from support.pictures import noise, png

from converter import cli
from converter.convert import Progress, convert_checkpoint
from converter.errors import ConversionError, OptionError, SourceError
from converter.sources.architecture import load_architecture

TEXT_OPTIONS = {"window", "strides"}
"""Options that the command line gives as text, and Python as numbers."""


def test_options_are_those_of_the_command() -> None:
    """Each option has the same name, and the same default unless the command line writes it as text."""
    command, function = (inspect.signature(each).parameters for each in (cli.convert, convert_checkpoint))
    options = {name: each.default for name, each in command.items() if name not in ("source", "output", "as_json")}
    own = {name: each.default for name, each in function.items() if name not in ("source", "target", "progress")}
    assert own.keys() == options.keys()
    for name in own.keys() - TEXT_OPTIONS:
        assert own[name] == options[name], name
    assert (own["window"], own["strides"]) == (None, ())


def test_the_function_writes_what_the_command_writes(tmp_path: Path) -> None:
    """Paths may be strings; every file is bytewise equal to the command's, and the report equals report.json."""
    network = make_network(tmp_path, UNPADDED)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png(noise(40, 50, 3)))
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    targets = [tmp_path / name / "net" / "1" for name in ("command", "function")]
    options: dict[str, Any] = {
        "arch": str(network.toml),
        "images": str(tmp_path / "images"),
        "labels": str(tmp_path / "labels.txt"),
        "preprocess": "imagenet",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    flags += ["--window", "22x26", "--strides", "2,8", "--verify", "8"]
    cli.app([str(network.checkpoint), "-o", str(targets[0]), *flags], standalone_mode=False)
    report = convert_checkpoint(
        str(network.checkpoint), str(targets[1]), window=(22, 26), strides=[2, 8], verify=8, **options
    )
    files = [{path.name: path.read_bytes() for path in target.iterdir()} for target in targets]
    assert files[0] == files[1]
    assert [entry.stride.height for entry in report.spec.strides] == [4, 2, 8]
    assert repr(report).splitlines() == [*report.verdicts(), report.closing()]


def test_progress_is_reported(tmp_path: Path) -> None:
    """Every step is announced with its number of windows, and every window advances the progress."""
    network, steps, windows = make_network(tmp_path, UNPADDED), [], []
    progress = Progress(step=lambda name, count: steps.append((name, count)), advance=lambda: windows.append(1))
    convert_checkpoint(network.checkpoint, tmp_path / "net" / "1", arch=network.toml, verify=8, progress=progress)
    assert [name for name, _ in steps] == [
        "reading the source",
        "rewriting the network",
        "comparing stride 4 with the source",
        "writing",
    ]
    assert sum(count for _, count in steps) == len(windows)


WRONG = {
    "target": ({"target": "net"}, "target: expected a path that ends in NAME/VERSION"),
    "window": ({"window": 0}, "window: expected pixels from 1 to 9999"),
    "windows": ({"verify": 0}, "verify: expected from 1 to 10000 windows, got 0"),
    "strides": ({"strides": [8, 0]}, "strides: expected pixels from 1 to 99999, like 32,16,8, got '8,0'"),
    "crops": ({"strides": [8, 4], "crops_only": True}, "strides: expected one with --crops-only, got '8,4'"),
    "precision": ({"precision": "int4"}, "precision: expected fp32, fp16, int8, got 'int4'"),
    "activation": ({"activation": "relu"}, "activation: expected softmax, sigmoid, none, got 'relu'"),
    "calibration": ({"precision": "int8"}, "precision: int8 is calibrated on images"),
    "agreement": ({"min_agreement": 0.5}, "min_agreement: expected with --precision fp16 or int8 only"),
    "share": ({"min_agreement": 99.0, "precision": "fp16"}, "min_agreement: expected a share from 0 to 1, got 99.0"),
}


@pytest.mark.parametrize(("options", "expected_message"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], expected_message: str) -> None:
    """The error names the option, before anything is read; nothing is written."""
    arguments = {"target": tmp_path / "net" / "1"} | options
    with pytest.raises(OptionError) as caught:
        convert_checkpoint(tmp_path / "missing.onnx", **arguments)
    assert expected_message in str(caught.value)
    assert isinstance(caught.value, ConversionError)
    assert not (tmp_path / "net").exists()


ASSUMED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no options": (
        {},
        ("the window (32×32 pixels), the preprocessing and the activation are the defaults of cifar10_80sec",),
    ),
    "window": ({"window": 32}, ("the preprocessing and the activation are the defaults of cifar10_80sec",)),
    "pixels": (
        {"preprocess": "unit", "activation": "softmax"},
        ("the window (32×32 pixels) is the default of cifar10_80sec",),
    ),
    "all": ({"window": 32, "preprocess": "unit", "activation": "softmax"}, ()),
}


@pytest.mark.parametrize(("options", "expected_notes"), ASSUMED.values(), ids=ASSUMED)
def test_defaults_of_a_recognised_network_are_noted(
    tmp_path: Path, options: dict[str, Any], expected_notes: tuple[str, ...]
) -> None:
    """The report names the fields that come from the recognised network because no option states them."""
    tensors = reference.random_tensors(load_architecture("cifar10_80sec"), 7, np.random.default_rng(0))
    save_file(tensors, tmp_path / "net.safetensors")
    report = convert_checkpoint(tmp_path / "net.safetensors", tmp_path / "net" / "1", verify=4, **options)
    assert report.notes == ("recognised as cifar10_80sec by its tensors", *expected_notes)


def test_an_empty_preprocessing_is_no_default(tmp_path: Path) -> None:
    """An empty name, as of an unset variable in a script, is refused like every wrong name."""
    network = make_network(tmp_path, UNPADDED)
    with pytest.raises(SourceError, match=r"preprocess: expected imagenet, caffe, unit, none or a JSON file, got ''"):
        convert_checkpoint(network.checkpoint, tmp_path / "net" / "1", arch=network.toml, preprocess="")


def test_other_sources_are_refused(tmp_path: Path) -> None:
    """A source is a path or a module; an object that is neither is refused by its type."""
    with pytest.raises(SourceError, match=r"source: expected a path, a torch\.nn\.Module or a Keras model, got dict"):
        convert_checkpoint({"weight": [1.0]}, tmp_path / "net" / "1")
