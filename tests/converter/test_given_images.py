"""Images of --images that cannot be read are named and left out; without a readable image nothing is converted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.networks import UNPADDED, make_network
from support.pictures import noise, png
from typer.testing import CliRunner

from converter.cli import app
from converter.convert import convert_checkpoint
from converter.errors import SourceError
from converter.progress import Progress
from converter.verify import given_images as module
from converter.verify.given_images import given_images
from converter.verify.images import PixelFormat

RGB, WINDOW = PixelFormat(3), (22, 26)


def truncated(content: bytes) -> bytes:
    """Return a file without its last third."""
    return content[: len(content) * 2 // 3]


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "truncated": truncated,
    "empty": lambda _: b"",
    "text": lambda _: b"not an image",
}


def folder_of(path: Path, **files: bytes) -> Path:
    """Return a folder with files of these names, with suffix png."""
    path.mkdir()
    for name, content in files.items():
        (path / f"{name}.png").write_bytes(content)
    return path


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_image_is_left_out(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """The others are used; a warning names the file and says why it cannot be read, before anything is measured."""
    whole = png(noise(40, 50, 3))
    folder = folder_of(tmp_path / "images", a=whole, broken=damage(whole), c=whole)
    happened = list[str]()
    progress = Progress(lambda name, _: happened.append(name), lambda: None, happened.append)
    given = given_images(folder, RGB, WINDOW, progress)
    assert (len(given.readable), len(given.usable), given.smaller) == (2, 2, 0)
    assert happened == ["reading the images", *(f"{reason}; left out" for reason in given.unreadable)]
    assert happened[1].startswith(f"images: {folder / 'broken.png'}: cannot be read: ")


def test_the_report_counts_damaged_images(tmp_path: Path) -> None:
    """The command ends well; standard error has the warning, and the report names the file and counts it."""
    network, whole = make_network(tmp_path, UNPADDED), png(noise(40, 50, 3))
    folder = folder_of(tmp_path / "images", a=whole, broken=truncated(whole))
    target = tmp_path / "net" / "1"
    arguments = [network.checkpoint, "-o", target, "--arch", network.toml, "--verify", 8, "--images", folder]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.stderr
    reason = f"images: {folder / 'broken.png'}: cannot be read: "
    assert f"fullconv-convert: warning: {reason}" in result.stderr
    document = json.loads((target / "report.json").read_text("utf-8"))
    assert document["notes"][-1].startswith(reason)
    assert document["verdict"].endswith("1 image cannot be read and was not measured.")
    assert document["parity"][0]["images"] == 1


@pytest.mark.parametrize(
    ("files", "expected_message"),
    [
        ({"a": b"text"}, r"^images: .*a\.png: cannot be read: "),
        (
            {"a": b"text", "b": b""},
            (
                r"^images: .*/images: expected at least one image that can be read, got 2 that cannot; the first: "
                r".*a\.png: .*; use other images, or leave --images out$"
            ),
        ),
    ],
    ids=["one", "several"],
)
def test_no_readable_image(tmp_path: Path, files: dict[str, bytes], expected_message: str) -> None:
    """Without a readable image the refusal names the first file; nothing is written."""
    network, folder = make_network(tmp_path, UNPADDED), folder_of(tmp_path / "images", **files)
    steps = list[str]()
    progress = Progress(lambda name, _: steps.append(name), lambda: None)
    target = tmp_path / "net" / "1"
    with pytest.raises(SourceError, match=expected_message):
        convert_checkpoint(network.checkpoint, target, arch=network.toml, images=folder, progress=progress)
    assert steps[-1] == "reading the images"
    assert not target.exists()


def test_a_wrong_folder_is_refused_first(tmp_path: Path) -> None:
    """A folder without images is refused before the source is read."""
    steps = list[str]()
    progress = Progress(lambda name, _: steps.append(name), lambda: None)
    with pytest.raises(SourceError, match=r"expected JPEG, PNG, WebP, TIFF or \.npy files, got none"):
        convert_checkpoint(tmp_path / "none.onnx", tmp_path / "net" / "1", images=tmp_path, progress=progress)
    assert steps == []


def test_many_damaged_images(tmp_path: Path) -> None:
    """The first five are named, the others are counted."""
    files = {f"broken{number}": b"" for number in range(9)}
    warnings = list[str]()
    progress = Progress(lambda _, __: None, lambda: None, warnings.append)
    folder = folder_of(tmp_path / "images", whole=png(noise(40, 50, 3)), **files)
    given = given_images(folder, RGB, WINDOW, progress)
    assert len(given.unreadable) == 9
    assert [reason.partition(": cannot")[0] for reason in warnings[:5]] == [
        f"images: {folder / f'broken{number}.png'}" for number in range(5)
    ]
    assert warnings[5:] == ["images: 4 more cannot be read; left out"]


def test_images_of_another_kind_are_left_out(tmp_path: Path) -> None:
    """An image whose values the network does not take is left out like a damaged one; arrays are checked too."""
    four = PixelFormat(4)
    np.save(tmp_path / "a.npy", noise(40, 50, 4))
    np.save(tmp_path / "b.npy", noise(40, 50, 3))
    (tmp_path / "c.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\x01\x00\x0a\x00{'descr': (\n")
    given = given_images(tmp_path, four, WINDOW)
    assert len(given.usable) == 1
    assert [reason.split(":")[1].strip() for reason in given.unreadable] == [
        str(tmp_path / f"{name}.npy") for name in "bcd"
    ]
    assert "expected 4 bands of uint8, which the network takes, got 3" in given.unreadable[0]


def test_large_folders_are_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading ends after enough pixels of images that hold a window, chosen at random; the names keep their order."""
    monkeypatch.setattr(module, "CHECKED_PIXELS", 3 * 40 * 50)
    files = {f"image{number}": png(noise(40, 50 + number, 3)) for number in range(8)}
    folder = folder_of(tmp_path / "images", tiny=png(noise(8, 8, 3)), **files)
    read = list[int]()
    given = given_images(folder, RGB, WINDOW, Progress(lambda _, __: None, lambda: read.append(1)))
    assert len(given.usable) == 3
    assert len(read) == 3 + given.smaller
    widths = [image.size[1] for image in given.usable]
    assert widths == sorted(widths)


@pytest.mark.parametrize("tiled", [False, True], ids=["strips", "tiles"])
def test_large_images_are_read_at_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiled: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """The last row of a large image shows that its file has ended early."""
    monkeypatch.setattr(module, "WHOLE_PIXELS", 1000)
    options = {"tile": (64, 64)} if tiled else {"rowsperstrip": 16}
    tifffile.imwrite(tmp_path / "whole.tif", noise(256, 256, 3), **options)
    (tmp_path / "short.tif").write_bytes(truncated((tmp_path / "whole.tif").read_bytes()))
    given = given_images(tmp_path, RGB, WINDOW)
    assert len(given.usable) == 1
    assert [reason.partition(": cannot")[0] for reason in given.unreadable] == [f"images: {tmp_path / 'short.tif'}"]
