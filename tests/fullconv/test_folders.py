"""`fullconv-score` with folders and patterns: the images that are found, and their outputs."""

import json
import os
import pty
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command_line import COMMAND, MODELS
from support.folders import FOUND, PAGES, files_in, one_line, rows_of, score
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import running
from typer.testing import CliRunner

from fullconv.command.cli import app
from fullconv.command.inputs import find_images
from fullconv.command.progress import Progress


def test_folders_are_scored_in_the_order_of_paths(scans: Path) -> None:
    """A folder gives a list of its images and those of its sub-folders; hidden names and other files are left out."""
    result = score(scans, "--json")
    assert result.exit_code == 3
    documents = json.loads(result.stdout)
    assert [document["image"]["path"] for document in documents] == FOUND
    assert [document.get("grid", {}).get("rows") for document in documents] == [None, 1, 2, 3]
    assert documents[0]["image"]["name"] == "broken.jpg"
    assert "expected a JPEG, PNG, WebP or TIFF image, got text that" in documents[0]["error"]
    skipped, error = result.stderr.splitlines()
    assert skipped == "images: 4; skipped: 1 other file"
    assert error.startswith("fullconv-score: scans/a/broken.jpg: expected a JPEG, PNG, WebP or TIFF image, got text")


def test_a_folder_with_one_image_gives_a_list(scans: Path) -> None:
    """The JSON of a folder is a list, whatever the number of images; the table names the image's path."""
    result = score(scans / "b" / "deep", "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)) == 1
    assert "scans/b/deep/seite 図.TIF  70×70" in score(scans / "b" / "deep").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["scans/*.png"], ["scans/page.png"]),
        (["scans/**/*.png"], ["scans/b/page.png", "scans/page.png"]),
        (["scans/[b]"], ["scans/b/deep/seite 図.TIF", "scans/b/page.png"]),
        (["scans/*"], FOUND),
        (["scans/**/*"], FOUND),
        (["scans/.*/*.png"], ["scans/.cache/page.png"]),
        (["scans/page.png", "scans/b", "scans"], ["scans/page.png", *FOUND[1:3], FOUND[0]]),
        (["scans", "scans/b/page.png"], FOUND),
        (["scans", "scans/b/*"], FOUND),
        (["none.png", "scans/a"], ["none.png", "scans/a/broken.jpg"]),
    ],
    ids=[
        "files",
        "recursive",
        "folder",
        "all",
        "all recursive",
        "hidden",
        "mixed",
        "file of a folder",
        "overlapping",
        "missing",
    ],
)
@pytest.mark.usefixtures("scans")
def test_arguments_name_images(arguments: list[str], expected: list[str]) -> None:
    """Files, folders and patterns may be mixed; an image that several of them find is scored once."""
    assert [str(path) for path in find_images(list(map(Path, arguments))).images] == expected


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(scans: Path) -> None:
    """An existing file with wildcards in its name is no pattern."""
    path = scans / "page[1]*.png"
    path.write_bytes(png(noise(70, 70, 1)))
    assert find_images([path]).images == [path]
    assert find_images([path]).folders == {}


@pytest.mark.parametrize("argument", ["scans/a", "scans/none*.png", "scans/**.png"], ids=["folder", "none", "invalid"])
def test_nothing_found_is_exit_3(scans: Path, argument: str) -> None:
    """A folder without images, and a pattern without matches, are exit status 3 with one line; nothing is scored."""
    (scans / "a" / "broken.jpg").rename(scans / "a" / "broken.txt")
    result = score(scans / "page.png", argument)
    assert (result.exit_code, result.stdout) == (3, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"fullconv-score: {argument}: expected ")


def test_links_may_form_loops(scans: Path) -> None:
    """Links to folders are skipped and counted, a broken link is an image that cannot be scored, pipes are skipped."""
    (scans / "b" / "loop").symlink_to(scans.absolute())
    (scans / "self.png").symlink_to("self.png")
    (scans / "linked.png").symlink_to("page.png")
    os.mkfifo(scans / "pipe.png")
    found = find_images([scans])
    assert list(map(str, found.images)) == [*FOUND[:3], "scans/linked.png", "scans/page.png", "scans/self.png"]
    assert found.skipped == "2 other files, 1 link to a folder"
    linked = find_images([scans / "b" / "loop"])
    assert len(linked.images) == len(found.images)
    assert "symbolic links" in score(scans, "--json").stderr


def test_folders_that_cannot_be_read_are_errors(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sub-folder that cannot be read is an entry with its error, and the other images are scored."""
    real = Path.iterdir

    def iterdir(path: Path) -> Any:  # noqa: ANN401 (of pathlib)
        if path == scans / "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    result = score(scans, "--json")
    assert result.exit_code == 3
    documents = json.loads(result.stdout)
    assert [document["image"]["path"] for document in documents] == [FOUND[0], "scans/b", FOUND[3]]
    assert "scans/b: cannot be read" in documents[1]["error"]


def test_names_that_are_not_utf_8(scans: Path) -> None:
    """Names with undecodable bytes and line breaks are scored, and written with question marks."""
    folder = scans / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / os.fsdecode(b"\xfe\n.png")).write_bytes(png(noise(70, 70, 1)))
    (folder / "bad.png").write_bytes(b"")
    result = score(folder, "--json", "--table", "table.csv", "--output-dir", "out", "--grid", "{stem}.npz")
    assert result.exit_code == 3
    assert [row["path"] for row in rows_of("out/table.csv")] == ["scans/?/bad.png", "scans/?/?\n.png"]
    assert files_in(Path("out")) == {os.fsdecode(b"\xfe\n.npz"), "table.csv"}


def test_outputs_keep_the_sub_folders(scans: Path) -> None:
    """Outputs without a folder go below --output-dir, into the images' sub-folders; others go where their names say."""
    result = score(scans / "b", "--output-dir", "out/new", "--grid", "{stem}.npz", "--heatmap", "./{stem}.png")
    assert result.exit_code == 0
    assert files_in(Path("out")) == {"new/deep/seite 図.npz", "new/page.npz"}
    assert {"seite 図.png", "page.png"} <= {path.name for path in Path().iterdir()}
    for argument in (scans, "scans/**/*.*"):
        result = score(argument, "--output-dir", "all", "--grid", "{stem}.npz", "--table", "table.csv")
        assert result.exit_code == 3
        assert files_in(Path("all")) == {"b/deep/seite 図.npz", "b/page.npz", "page.npz", "table.csv"}
    with np.load("all/page.npz") as one, np.load("all/b/page.npz") as other:
        assert (one["scores"].shape, other["scores"].shape) == ((3, 6, 11), (2, 3, 11))


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        (["scans", "--grid", "{stem}.npz"], *PAGES),
        (["scans", "scans/b", "--output-dir", "out", "--heatmap", "x/{stem}.png", "--grid", "{stem}.npz"], *PAGES),
        (["scans/b/page.png", "scans/page.png", "--output-dir", "out", "--grid", "{stem}.npz"], *PAGES),
        (["scans/page.png", "--grid", "out.csv", "--table", "out.csv"], "--table", "scans/page.png"),
    ],
    ids=["sub-folders", "folder in the name", "files", "table"],
)
@pytest.mark.usefixtures("scans")
def test_outputs_of_the_same_path_are_refused(arguments: list[str], first: str, second: str) -> None:
    """Two outputs of the same path are exit status 2; the message names both images, and nothing is written."""
    before = files_in(Path())
    result = score(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"for {first} and for {second};" in one_line(result.stderr)
    assert files_in(Path()) == before
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "all.npz", "--output-dir", "out"], "expected {stem} in the name, since there are 4 images"),
        (["--table", "table.npz"], "--table: expected a file name that ends in .csv or .parquet, got 'table.npz'"),
        (["--table", "scans"], "--table: expected a file name that ends in .csv"),
        (["--output-dir", "out"], "--output-dir: expected --grid, --heatmap, --boxes, --html or --table with it"),
        (
            ["--output-dir", "out", "--grid", "x/{stem}.npz"],
            "--output-dir: expected --grid, --heatmap, --boxes, --html or --table with",
        ),
        (["--output-dir", "scans/page.png", "--table", "table.csv"], "expected a folder, got the file"),
    ],
)
def test_wrong_options_are_exit_2(scans: Path, options: list[str], message: str) -> None:
    """Options that cannot be meant are exit status 2, and nothing is written."""
    before = files_in(Path())
    result = score(scans, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in one_line(result.stderr.replace("│", ""))
    assert files_in(Path()) == before


def test_earlier_outputs_are_not_scored(scans: Path) -> None:
    """An output folder inside the folder of images is left out when the command runs again."""
    arguments = [scans, "--json", "--output-dir", scans / "out", "--heatmap", "{stem}.png", "--table", "table.csv"]
    first, second = (json.loads(score(*arguments).stdout) for _ in range(2))
    assert [document["image"]["path"] for document in first] == FOUND
    assert [document["image"]["path"] for document in second] == FOUND
    assert list(map(str, find_images([Path("scans/**/*")], Path("scans/out")).images)) == FOUND
    assert len(find_images([scans / "out"], scans).images) == 3
    result = score(scans, "--heatmap", "scans/out/{stem}.png")
    assert result.exit_code == 2


@pytest.mark.extras
def test_zarr_arrays_in_folders_are_images(scans: Path) -> None:
    """A Zarr array is one image; a grid of an earlier run is skipped; the files inside of both are not searched."""
    import zarr  # noqa: PLC0415 (an extra)

    zarr.create_array(scans / "array.zarr", data=noise(90, 80, 1), chunks=(32, 32, 1))
    (scans / "array.zarr" / "thumbnail.png").write_bytes(b"")
    assert score(scans / "page.png", "--grid", scans / "grid.zarr").exit_code == 0
    found = find_images([scans])
    assert [path.name for path in found.images] == ["broken.jpg", "array.zarr", "seite 図.TIF", "page.png", "page.png"]
    (document,) = json.loads(score("scans/*.zarr", "--json").stdout)
    assert document["grid"]["rows"] == 3
    assert find_images([scans / "array.zarr"]).folders == {}


def test_servers_give_the_same_list(scans: Path) -> None:
    """A server scores the images of a folder in one call; the list and the table have the order of the images."""
    arguments = [str(scans), "--json", "--table", "table.csv"]
    here = json.loads(score(*arguments).stdout)
    rows = rows_of("table.csv")
    with running(ROOT / "models") as server:
        result = CliRunner().invoke(app, [*arguments, "--model", "digits", "--server", server.address])
    assert result.exit_code == 3
    there = json.loads(result.stdout)
    for document in (*here, *there):
        document.pop("timing_ms", None)
    assert [document["image"] for document in there] == [document["image"] for document in here]
    assert [row["path"] for row in rows_of("table.csv")] == [row["path"] for row in rows]
    assert there[0]["error"].startswith("broken.jpg: expected a JPEG, PNG, WebP or TIFF image, got text that")


def test_progress_counts_images() -> None:
    """The progress of several images is that of all: the finished images and the part of the current image."""
    drawn: list[tuple[str, str, float, float]] = []
    progress = Progress(3, lambda *drawing: drawn.append(drawing))
    for name in ("a", "b", "c"):
        for done in (1, 2):
            progress.show(name, "scoring", done, 2)
        progress.finish_image()
    assert [text for _, text, _, _ in drawn[:3]] == ["1 of 3: a: scoring"] * 2 + ["1 of 3 finished"]
    assert drawn[4][1:] == ("2 of 3: b: scoring", 2.0, 3)
    assert {activity for activity, _, _, _ in drawn} == {"images"}
    amounts = [done for _, _, done, _ in drawn]
    assert all(one <= other for one, other in pairwise(amounts))
    assert amounts[-1] == 3


@pytest.mark.slow
def test_terminals_show_the_number_of_images(scans: Path) -> None:
    """On a terminal, a bar on standard error shows how many of the images are done."""
    terminal, far = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    command = [*COMMAND, str(scans), *MODELS, "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=far, env=environment) as run:
        os.close(far)
        shown = b""
        try:
            while part := os.read(terminal, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
        assert run.wait(60) == 3
    os.close(terminal)
    assert b"4 of 4 finished" in shown


@pytest.mark.slow
def test_ten_thousand_files(tmp_path: Path) -> None:
    """All images of a large folder are found, in the order of their paths."""
    for number in range(10_000):
        folder = tmp_path / f"{number % 100:02}"
        if number < 100:
            folder.mkdir()
        (folder / f"{number:04}.png").touch()
    images = find_images([tmp_path]).images
    assert len(images) == 10_000
    assert images == sorted(images)
