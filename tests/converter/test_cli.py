"""The command `fullconv-convert`, as a process."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import json_format
from support.networks import PADDED, UNPADDED, Network, make_network
from typer.testing import CliRunner

from converter.cli import app
from fullconv.protos import model_pb2

COMMAND = [sys.executable, "-c", "from converter.cli import main; main()"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def convert(network: Network, target: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return run(network.checkpoint, "--arch", network.toml, "-o", target, "--verify", 8, *options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_conversion_writes_the_version(tmp_path: Path) -> None:
    """The command writes the four files, and prints the rewritten layers and the certificate in words."""
    target = tmp_path / "models" / "net" / "1"
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nç d\n小\ne\n", "utf-8")
    result = convert(make_network(tmp_path, UNPADDED), target, "--labels", labels)
    assert result.returncode == 0, result.stderr
    assert list(contents(target)) == ["labels.txt", "model.onnx", "report.json", "weights.data"]
    assert "Gemm 160→16 → Conv 4×5, 8→16" in result.stdout
    assert "exact: dense equals crops up to rounding" in result.stdout.replace("\n", " ")
    assert labels.read_bytes() == (target / "labels.txt").read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_json_is_the_report_and_the_metadata(tmp_path: Path) -> None:
    """--json prints report.json and nothing else; the ONNX file holds the same ModelSpec."""
    target = tmp_path / "models" / "net" / "1"
    result = convert(make_network(tmp_path, PADDED), target, "--json")
    document = json.loads(result.stdout)
    assert json.loads((target / "report.json").read_text("utf-8")) == document
    assert "dense differs from crops" in document["verdict"]
    (entry,) = onnx.load(target / "model.onnx", load_external_data=False).metadata_props
    spec = json_format.Parse(entry.value, model_pb2.ModelSpec())
    assert spec == json_format.ParseDict(
        {key: value for key, value in document.items() if key not in ("verdict", "notes", "rewritten")},
        model_pb2.ModelSpec(),
    )
    assert (spec.spec_version, spec.name, spec.output.kind, list(spec.modes)) == (
        1,
        "net",
        "logits-softmax",
        ["dense", "shared", "crops"],
    )
    assert spec.parity[0].interior.windows + spec.parity[0].border.windows == 8
    assert not spec.parity[0].exact


def test_same_source_gives_same_bytes(tmp_path: Path) -> None:
    """Converting twice gives the same files at every stride, and no files beside the documented ones."""
    network = make_network(tmp_path, PADDED)
    targets = [tmp_path / name / "net" / "1" for name in ("first", "second")]
    for target in targets:
        assert convert(network, target, "--strides", "4,16").returncode == 0
    assert contents(targets[0]) == contents(targets[1])
    files = {
        "model.onnx",
        "model.stride4.onnx",
        "model.stride16.onnx",
        "model.shared4.onnx",
        "weights.data",
        "report.json",
    }
    assert {path.name for path in targets[0].iterdir()} == files


@pytest.mark.parametrize("preprocess", ["imagenet", "caffe", "unit", "none", "file"])
def test_model_files_contract(tmp_path: Path, preprocess: str) -> None:
    """The input is uint8 N,H,W,C `image`, or the source's own; `scores` are float32; all image sizes are open."""
    custom = tmp_path / "custom.json"
    custom.write_text(json.dumps({"scale": 0.01, "mean": [1, 2, 3], "std": [0.5, 1, 2], "order": "BGR"}))
    target = tmp_path / "models" / "net" / "1"
    choice = custom if preprocess == "file" else preprocess
    result = convert(make_network(tmp_path, UNPADDED), target, "--preprocess", choice)
    assert result.returncode == 0, result.stderr
    proto = onnx.load(target / "model.onnx", load_external_data=False)
    assert proto.opset_import[0].version >= 19
    session = ort.InferenceSession(target / "model.onnx")
    (image,), (scores,) = session.get_inputs(), session.get_outputs()
    if preprocess == "none":
        assert (image.name, image.type, image.shape) == ("input", "tensor(float)", ["N", 3, "H", "W"])
        batch = np.zeros((3, 3, 30, 38), np.float32)
    else:
        assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", "H", "W", 3])
        batch = np.zeros((3, 30, 38, 3), np.uint8)
    assert (scores.name, scores.type, scores.shape) == ("scores", "tensor(float)", ["N", 5, "rows", "cols"])
    assert session.run(None, {image.name: batch})[0].shape == (3, 5, 3, 4)


def test_help_explains_presets_and_defaults() -> None:
    """The help states the formula of each preset, the default of --strides once, and how to print the version."""
    shown = " ".join(CliRunner().invoke(app, ["--help"]).stdout.replace("│", " ").split())
    assert "imagenet: RGB, (x/255 − mean)/std; caffe: BGR, x − mean; unit: x/255" in shown
    assert "fullconv-convert --version prints the version." in shown
    strides = shown.partition("--strides")[2].partition("--crops-only ")[0]
    assert strides.count("Default:") == 1


def test_existing_versions_are_kept_unless_forced(tmp_path: Path) -> None:
    """An existing version is kept with exit status 3; --force replaces it, but never a folder that is not a model."""
    network, target = make_network(tmp_path, UNPADDED), tmp_path / "models" / "net" / "1"
    assert convert(network, target).returncode == 0
    before = contents(target)
    again = convert(network, target, "--preprocess", "none")
    assert (again.returncode, contents(target)) == (3, before)
    assert "got an existing version" in again.stderr
    assert convert(network, target, "--preprocess", "none", "--force").returncode == 0
    assert contents(target) != before
    other = tmp_path / "models" / "net" / "2"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    assert convert(network, other, "--force").returncode == 3
    assert list(contents(other)) == ["precious.txt"]


FILES = {
    "two": '{"mean": [1, 2]}',
    "text": '{"scale": "0.5"}',
    "name": '{"sclae": 1}',
    "negative": '{"std": [-1, 1, 1]}',
    "lengths": '{"mean": [1, 2, 3], "std": [1, 1]}',
}
"""Files for --preprocess that are refused."""


@pytest.mark.parametrize(
    ("options", "status", "expected_message"),
    [
        (["--labels", "{folder}/three.txt"], 3, "expected 5, one for each class, got 3"),
        (["--labels", "{folder}/none.txt"], 3, "labels: {folder}/none.txt"),
        (["--preprocess", "vgg"], 3, "expected imagenet, caffe, unit, none or a JSON file, got 'vgg'"),
        (["--preprocess", "{folder}/bad.json"], 3, "bad.json: mean.1"),
        (["--labels", "{folder}/no.txt"], 3, "no.txt: expected 5, one for each class, got 0"),
        (["--labels", "{folder}/none.txt"], 3, "none.txt: expected a UTF-8 text file: No such file or directory"),
        (["--labels", "{folder}/colours.txt"], 3, "expected a label and a colour like #c01040, got 'b #12'; correct"),
        (["--preprocess", "{folder}/text.json"], 3, "text.json: scale: expected a valid number, got '0.5'"),
        (["--preprocess", "{folder}/name.json"], 3, "sclae: expected one of the fields scale, mean, std, order, dtype"),
        (["--preprocess", "{folder}/negative.json"], 3, "expected a scale other than 0 and std above 0, got 1 and (-1"),
        (["--preprocess", "{folder}/lengths.json"], 3, "expected mean and std of one length, got 3 and 2"),
        (["--preprocess", "{folder}/three.txt"], 3, "three.txt: file: expected JSON, got an error: expected value at"),
        (["--preprocess", "{folder}/two.json"], 3, "expected mean for 3 channels, got 2"),
        (["--images", "{folder}/empty"], 3, "expected JPEG, PNG, WebP, TIFF or .npy files, got none"),
        (["--window", "32x32"], 3, "c.weight: expected shape"),
        (["--window", "0"], 2, "expected pixels"),
        (["--window", "-5"], 2, "expected pixels"),
        (["--activation", "relu"], 2, "relu"),
        (["--verify", "0"], 2, "--verify"),
        (["--strides", "8,"], 2, "expected pixels from 1 to 99999"),
        (["--strides", "3"], 3, "expected a divisor (1, 2, 4) or a multiple of the native stride of 4 pixels, got 3"),
        (["--crops-only", "--strides", "8,4"], 2, "expected one with --crops-only"),
        (["--tile", "8"], 2, "No such option"),
    ],
)
def test_unusable_options_are_refused(tmp_path: Path, options: list[str], status: int, expected_message: str) -> None:
    """A refusal is one line with the field and the expected value, and exit status 2 or 3; nothing is written."""
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    (tmp_path / "bad.json").write_text('{"mean": [1, "x", 3]}')
    (tmp_path / "no.txt").write_text("")
    (tmp_path / "colours.txt").write_text("a #c01040\nb #12\nc\nd\ne\n")
    for name, text in FILES.items():
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / "empty").mkdir()
    target = tmp_path / "models" / "net" / "1"
    filled = [option.replace("{folder}", str(tmp_path)) for option in options]
    network = make_network(tmp_path, UNPADDED)
    arguments = [network.checkpoint, "--arch", network.toml, "-o", target, "--verify", 8, *filled]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == status, result.stderr
    assert expected_message.replace("{folder}", str(tmp_path)) in " ".join(result.stderr.split())
    assert not (tmp_path / "models").exists()
    if status == 3:
        assert len([line for line in result.stderr.splitlines() if "…" not in line]) == 1


def test_full_disks_leave_nothing(tmp_path: Path) -> None:
    """A full disk ends the command with one line and exit status 3, and no file is left."""
    network, target = make_network(tmp_path, PADDED), tmp_path / "models" / "net" / "1"
    limited = "ulimit -f 4; trap '' XFSZ; exec \"$@\""
    result = subprocess.run(
        ["bash", "-c", limited, "-", *COMMAND, network.checkpoint, "--arch", network.toml, "-o", target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    assert len([line for line in result.stderr.splitlines() if "…" not in line]) == 1, result.stderr
    assert not (tmp_path / "models").exists()


def test_one_class_means_sigmoid(tmp_path: Path) -> None:
    """A network with one output is declared sigmoid; softmax is refused, because the probability would always be 1."""
    network = make_network(tmp_path, UNPADDED, classes=1)
    result = convert(network, tmp_path / "models" / "net" / "1", "--json")
    assert json.loads(result.stdout)["output"]["kind"] == "logits-sigmoid"
    assert "scores: 1 class, logits-sigmoid" in convert(network, tmp_path / "models" / "net" / "3").stdout
    refused = convert(network, tmp_path / "models" / "net" / "2", "--activation", "softmax")
    assert (refused.returncode, "always 1" in refused.stderr) == (3, True)


@pytest.mark.parametrize("target", ["net", "net/one", "n e t/1", "net/0"])
def test_invalid_targets_are_refused(tmp_path: Path, target: str) -> None:
    """A target that does not end in NAME/VERSION, where the service finds models, is refused with exit status 2."""
    network = make_network(tmp_path, UNPADDED)
    arguments = [network.checkpoint, "--arch", network.toml, "-o", tmp_path / target]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 2
    assert "NAME/VERSION" in result.stderr


def test_unwritable_targets_are_refused(tmp_path: Path) -> None:
    """A target below a file is refused with exit status 3 before the work begins."""
    (tmp_path / "file").write_text("")
    result = convert(make_network(tmp_path, UNPADDED), tmp_path / "file" / "net" / "1")
    assert result.returncode == 3
    assert f"expected a folder for the version, got the file {tmp_path / 'file'}; choose another -o" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C or a termination signal ends a conversion with status 1, and no file is left."""
    network, target = make_network(tmp_path, PADDED), tmp_path / "models" / "net" / "1"
    command: list[str | Path] = [
        *COMMAND,
        network.checkpoint,
        "--arch",
        network.toml,
        "-o",
        target,
        "--verify",
        "10000",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if "comparing" in line:
                break
        time.sleep(0.2)
        process.send_signal(number)
        try:
            assert process.wait(60) == 1
        finally:
            process.kill()
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_sources_are_not_replaced(tmp_path: Path) -> None:
    """With or without --force, a target that holds the source, or a file that is not the converter's, is kept."""
    network, target = make_network(tmp_path, UNPADDED), tmp_path / "models" / "net" / "1"
    assert convert(network, target).returncode == 0
    before = contents(target)
    result = run(target / "model.onnx", "-o", target, "--force")
    assert result.returncode == 3
    assert "lies in it and would be lost; choose another -o" in result.stderr
    assert contents(target) == before
    (target / "notes.txt").write_text("mine")
    result = convert(network, target, "--force")
    assert result.returncode == 3
    assert "got 'notes.txt', which --force would delete" in result.stderr
    (target / "report.json").unlink()
    result = convert(network, target, "--force")
    assert result.returncode == 3
    assert "expected a converted model to replace, got something else" in result.stderr


@pytest.mark.parametrize("option", ["--arch", "--labels", "--images", "--preprocess"])
def test_files_that_the_command_reads_are_not_replaced(tmp_path: Path, option: str) -> None:
    """A file or folder that an option names is kept if it lies in the version that --force would replace."""
    network, target = make_network(tmp_path, UNPADDED), tmp_path / "models" / "net" / "1"
    assert convert(network, target).returncode == 0
    before = contents(target)
    named = {"--images": target, "--labels": target / "labels.txt", "--preprocess": target / "report.json"}
    path = named.get(option, target / "weights.data")
    if option == "--labels":
        path.write_text("a\nb\nc\nd\ne\n")
        before = contents(target)
    result = convert(network, target, "--force", option, path)
    assert result.returncode == 3
    assert f"{option} {path} lies in it and would be lost; choose another -o" in result.stderr
    assert contents(target) == before


def test_interruption_while_importing() -> None:
    """Ctrl-C while libraries are imported ends the command with one line and status 1."""
    script = "import signal, sys; from converter.__main__ import main; sys.modules['converter.cli'] = None; main()"
    started = "import os; os.kill(os.getpid(), 2)"
    code = f"import builtins; own = builtins.__import__\n{HOOK.format(started)}\n{script}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "fullconv-convert: interrupted\n")


HOOK = """
def signalling(name, *rest):
    if name == "converter.cli":
        {}
    return own(name, *rest)
builtins.__import__ = signalling
"""


def test_preprocessing_is_reported(tmp_path: Path) -> None:
    """The report and the terminal state the preprocessing inside the graph, or that the graph has no preprocessing."""
    network = make_network(tmp_path, UNPADDED)
    result = convert(network, tmp_path / "imagenet" / "1", "--preprocess", "imagenet")
    assert "RGB times 0.003922; mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225" in " ".join(result.stdout.split())
    document = json.loads((tmp_path / "imagenet" / "1" / "report.json").read_text("utf-8"))
    assert document["input"]["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    result = convert(network, tmp_path / "none" / "1", "--preprocess", "none")
    assert "none: the network gets pixel values 0 to 255" in " ".join(result.stdout.split())


def test_help_names_every_option() -> None:
    """--help names every option of the command."""
    text = run("--help").stdout
    options = {
        "-o",
        "--force",
        "--arch",
        "--window",
        "--preprocess",
        "--activation",
        "--labels",
        "--verify",
        "--images",
        "--strides",
        "--crops-only",
        "--precision",
        "--min-agreement",
    }
    for option in options | {"--json"}:
        assert option in text
    words = " ".join(text.replace("│", " ").split())
    assert "Default: softmax; with one class, sigmoid. With one class, softmax is refused, because the" in words
