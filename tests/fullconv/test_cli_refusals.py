"""What the command `fullconv-score` refuses, with which exit status, and that it leaves nothing half-written."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import pyvips
from support.command_line import COMMAND, MODELS, run, score
from support.paths import ROOT
from support.pictures import bomb, encode, noise, png
from typer.testing import CliRunner

from fullconv.command.cli import app

PAGE = ROOT / "models" / "digits" / "page.png"


@pytest.mark.parametrize("option", ["--grid", "--heatmap"])
def test_one_name_for_several_images_is_refused(image: Path, option: str) -> None:
    """Without {stem} in the output's name, several images are exit status 2."""
    result = score(image, image, option, "out")
    assert result.returncode == 2
    assert "{stem}" in result.stderr


def test_outputs_that_would_replace_something_are_refused(image: Path, tmp_path: Path) -> None:
    """Outputs that would replace an image, a directory or another output are exit status 2, and nothing changes."""
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / image.name
    twin.write_bytes(image.read_bytes())
    before = image.read_bytes()
    for arguments in (
        [image, twin, "--grid", tmp_path / "{stem}.npz"],
        [image, "--grid", tmp_path / "out", "--heatmap", tmp_path / "out"],
        [image, "--heatmap", image],
        [image, "--grid", tmp_path],
        [image, "--grid", ""],
    ):
        result = score(*arguments)
        assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert {"image.png", "other"} == {path.name for path in tmp_path.iterdir()}
    assert image.read_bytes() == before


def test_files_beside_rasters_are_outputs_too(image: Path, tmp_path: Path) -> None:
    """The file with the names of classes beside a raster replaces no folder and no image, before anything is scored."""
    raster = tmp_path / "out.tif"
    (tmp_path / "out.tif.aux.xml").mkdir()
    result = score(image, "--grid", raster, "--grid-as", "argmax")
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert "out.tif.aux.xml" in "".join(result.stderr.split())
    result = score(image, "--grid", raster, "--grid", tmp_path / "out.npz")
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert {"image.png", "out.tif.aux.xml"} == {path.name for path in tmp_path.iterdir()}


def bad_images(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return files that cannot be scored, each with a part of its error message."""
    made = {
        "text": (b"not an image", "WebP or TIFF image, got text that begins with 'not an image'"),
        "empty": (b"", "got an empty file; copy the file again"),
        "truncated": (
            encode(noise(200, 200, 3), ".jpg")[:-2000],
            "expected a complete JPEG file, got a truncated file",
        ),
        "small": (
            png(noise(69, 300, 1)),
            "expected at least the model's window of 70×70 pixels (height×width), got 69×300",
        ),
        "bomb": (
            bomb(),
            "60000×60000 pixels (height×width) are 3600 megapixels, expected at most 256",
        ),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='99' height='99'/>", "got text that begins with"),
    }
    result = {"missing": (folder / "none.png", "No such file")}
    for name, (data, expected_message) in made.items():
        path = folder / f"{name}.png"
        path.write_bytes(data)
        result[name] = (path, expected_message)
    return result


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "truncated", "small", "bomb", "svg"])
def test_bad_images(tmp_path: Path, kind: str) -> None:
    """An image that cannot be scored is exit status 3 with one line of error, and leaves no output."""
    path, expected_message = bad_images(tmp_path)[kind]
    out = tmp_path / "out"
    out.mkdir()
    outputs = ["--grid", out / "grid.npz", "--heatmap", out / "heat.png"]
    result = CliRunner().invoke(app, list(map(str, [path, *outputs, *MODELS])))
    assert result.exit_code == 3
    assert expected_message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "expected_message"),
    [
        (["--model", "cats"], 3, "model: no model 'cats'"),
        (["--model", "../digits"], 3, "model: no model '../digits'"),
        (["--model", "digits", "--version", "99"], 3, "version: no version '99' of model 'digits'; available: 1"),
        (["--model", "digits", "--models", "/nowhere"], 3, "expected a directory of models, got /nowhere"),
        (["--model", "digits", "--classes", "cat"], 3, "got 'cat'"),
        (["--model", "digits", "--top", "0"], 2, "--top"),
        (["--model", "digits", "--stride", "0"], 2, "--stride"),
        (["--model", "digits", "--stride", "3", "--mode", "dense"], 3, "expected a divisor or a multiple of 8 pixels"),
        (["--model", "digits", "--mode", "sparse"], 2, "--mode"),
        (["--model", "digits", "--border", "none"], 2, "--border"),
        (["--model", "digits", "--roi", "1,2,3"], 2, "expected x,y,width,height in pixels, got '1,2,3'"),
        (["--model", "digits", "--roi", "0,0,0,9"], 2, "expected x,y,width,height"),
        (
            ["--model", "digits", "--roi", "0,0,400,90"],
            3,
            "roi: expected pixels inside the image of 90×111 (height×width)",
        ),
        (["--model", "digits", "--roi", "0,0,60,90"], 3, "roi: horizontally, expected a region that holds a window"),
        (["--model", "digits", "--scales", "0x"], 2, "expected pixels of the shorter side, 384, or a factor, 0.5x"),
        (["--model", "digits", "--scales", "90,,80"], 2, "expected pixels of the shorter side"),
        (["--model", "digits", "--scales", "0.5x"], 3, "scales: expected at least the model's window of 70×70 pixels"),
        (["--model", "digits", "--mask", "/nowhere.png"], 3, "/nowhere.png: cannot be read"),
        (["--model", "digits", "--tls-cert", "4"], 2, "--tls-cert and --tls-key: expected both or neither"),
        (["--model", "digits", "--server", "localhost"], 2, "--server: expected HOST:PORT"),
        (["--model", "digits", "--token", "/nowhere"], 3, "token: /nowhere cannot be read: No such file or directory"),
        (["--model", "digits", "--grid-top", "3", "--grid", "a.npz"], 2, "expected --grid-as top with it, got none"),
        (["--model", "digits", "--nonsense", "4"], 2, "No such option"),
        (["--model", "digits", "--grid", "/nowhere/grid.npz"], 3, "/nowhere"),
        (["--model", "digits", ""], 2, "expected a file, a folder or a pattern, got an empty name"),
        (["--model", "digits", "--mask", ""], 2, "--mask: expected a file or otsu, got an empty name"),
        (["--model", "digits", "--output-dir", ""], 2, "expected a folder, got an empty name"),
        (["--model", "digits", "--models", ""], 2, "expected a folder, got an empty name"),
        ([], 2, "--model"),
    ],
)
def test_bad_command_lines(
    image: Path, arguments: list[str], status: int, expected_message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit status is 2 for a wrong command line, 3 for wrong input, and the message names the field."""
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, [str(image), *arguments])
    assert result.exit_code == status, result.stderr
    assert expected_message in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_damaged_models_are_exit_3(image: Path, tmp_path: Path) -> None:
    """A model with truncated weights is exit status 3."""
    folder = tmp_path / "models" / "digits" / "1"
    folder.mkdir(parents=True)
    for file in (ROOT / "models" / "digits" / "1").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "weights.data"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = run(image, "--models", tmp_path / "models", "--model", "digits")
    assert result.returncode == 3
    assert "weights.data: expected sha256" in result.stderr


def test_full_disks_leave_nothing(tmp_path: Path) -> None:
    """A grid that does not fit on the disk is exit status 3, and leaves no partial file."""
    limited = f"ulimit -f 100; trap '' XFSZ; exec {sys.executable} -m fullconv \"$@\""
    result = subprocess.run(
        ["bash", "-c", limited, "-", str(PAGE), *MODELS, "--grid", str(tmp_path / "grid.npz")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    assert "grid.npz" in result.stderr
    assert not list(tmp_path.iterdir())


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    """A termination signal during a large image is exit status 1, and leaves no partial file."""
    path = tmp_path / "large.png"
    pyvips.Image.new_from_array(noise(1000, 1000, 1)).replicate(12, 12).pngsave(str(path), compression=1)
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen([*COMMAND, path, *MODELS, "--grid", out / "grid.npz"], stderr=subprocess.PIPE) as process:
        while not list(out.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
    assert not list(out.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interruption_of_the_start(number: signal.Signals) -> None:
    """A signal while the command's modules are loaded ends it with the same message and status as later."""
    code = f"""
import os, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), {number.value})
sys.meta_path.insert(0, Interrupt())
from fullconv.__main__ import main
main()
"""
    result = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "fullconv-score: interrupted\n")


@pytest.mark.parametrize(
    ("options", "expected_message"),
    [
        (["--roi", "0,0,100,90"], "roi: expected pixels inside the image of 80×90"),
        (["--mask", "mask.png"], "mask: expected the image's size, 80×90 pixels"),
        (["--mask", "{stem}-mask.png"], "small-mask.png: cannot be read: No such file"),
    ],
    ids=["region", "mask size", "no mask"],
)
def test_errors_of_options_name_the_image(
    image: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], expected_message: str
) -> None:
    """Of several images, the error of an option's value for one image begins with the name of this image."""
    monkeypatch.chdir(image.parent)
    Path("small.png").write_bytes(png(noise(80, 90, 1)))
    for name in ("mask.png", "image-mask.png"):
        Path(name).write_bytes(png(np.full((90, 111, 1), 255, np.uint8)))
    result = CliRunner().invoke(app, ["image.png", "small.png", *options, *MODELS])
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"fullconv-score: small.png: {expected_message}")
    alone = CliRunner().invoke(app, ["small.png", *options, *MODELS])
    assert alone.stderr.startswith(f"fullconv-score: {expected_message}")
