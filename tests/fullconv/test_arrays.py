"""Arrays in memory and in files, with both clients and in this process."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise
from support.servers import Server, running
from typer.testing import CliRunner

from fullconv import Answer, AsyncClient, Client, ImageError, Scorer
from fullconv.command.cli import app

MODELS = ROOT / "models"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model."""
    with running(MODELS) as server:
        yield server


def large(server: Server, image: str | Path | np.ndarray) -> list[Answer]:
    """Return the answers of `score_large` of both clients."""

    async def main() -> Answer:
        async with AsyncClient(server.address) as client, await client.score_large(image, model="digits") as run:
            return await run.result()

    with Client(server.address) as client, client.score_large(image, model="digits") as run:
        return [run.result(), asyncio.run(main())]


@pytest.mark.parametrize("kind", [Path, str])
def test_large_arrays_by_path(server: Server, tmp_path: Path, kind: type) -> None:
    """The pixels of a .npy file are sent row by row, and the answer has the file's name."""
    pixels = noise(300, 200, 1)
    np.save(tmp_path / "scan.npy", pixels)
    expected = large(server, pixels)[0].average
    for answer in large(server, kind(tmp_path / "scan.npy")):
        np.testing.assert_array_equal(answer.average, expected)
        assert answer.image.name == "scan.npy"


@pytest.mark.extras
def test_large_zarr_arrays_by_path(server: Server, tmp_path: Path) -> None:
    """The pixels of a Zarr array are sent row by row."""
    import zarr  # noqa: PLC0415 (an extra)

    pixels = noise(300, 200, 1)[..., 0]
    array = zarr.create_array(tmp_path / "scan.zarr", shape=pixels.shape, chunks=(64, 64), dtype="uint8")
    array[:] = pixels
    expected = large(server, pixels)[0].average
    for answer in large(server, tmp_path / "scan.zarr"):
        np.testing.assert_array_equal(answer.average, expected)


@pytest.mark.parametrize("shape", [(5, 0, 3), (0, 5, 3), (5, 5, 0), (0, 5)], ids=str)
def test_arrays_without_pixels(server: Server, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """An array without pixels is an ImageError in every call."""
    empty, path = np.zeros(shape, np.uint8), tmp_path / "empty.npy"
    np.save(path, empty)
    with Client(server.address) as client:
        for call in (
            lambda: client.score(empty, model="digits"),
            lambda: client.score(path, model="digits"),
            lambda: client.score(noise(80, 80, 1), model="digits", mask=empty),
            lambda: large(server, empty),
            lambda: large(server, path),
            lambda: Scorer(MODELS).score(path, model="digits"),
            lambda: Scorer(MODELS).score_large(empty, model="digits"),
        ):
            with pytest.raises(ImageError) as caught:
                call()
            assert str(caught.value).endswith(f": expected at least one row, column and channel, got {shape}")
        many = dict(client.score_many([("a", empty), ("b", path)], model="digits"))
    assert {type(answer) for answer in many.values()} == {ImageError}


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"


def npy_file(header: str) -> bytes:
    """Return a .npy file with any text in place of its header, and 100 bytes of pixels."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(100)


DAMAGED = {
    "text": b"no array",
    "empty": b"",
    "npz": b"PK\x03\x04 and more bytes",
    "cut header": npy_file("{'descr': ("),
    "no shape": npy_file("{'descr': '|u1'}"),
    "shape of text": npy_file(HEADER % "'a', 'b'"),
    "huge shape": npy_file(HEADER % f"{10**30}, 10"),
    "negative shape": npy_file(HEADER % "-10, 10"),
    "cut pixels": npy_file(HEADER % "20, 10"),
    "objects": npy_file("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_array_files(tmp_path: Path, kind: str) -> None:
    """A .npy file that holds no complete array is an ImageError with a way out."""
    path = tmp_path / "damaged.npy"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(ImageError) as caught:
        Scorer(MODELS).score(path, model="digits")
    assert str(caught.value).startswith(f"{path}: expected a complete array, got a damaged file: ")
    assert str(caught.value).endswith("; copy the file again from a complete original")


def test_damaged_array_files_are_not_sent(server: Server, tmp_path: Path) -> None:
    """A .npy file that holds no array is an ImageError of the clients before anything is sent."""
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ImageError, match="expected a complete array, got a damaged file"):
        large(server, tmp_path / "text.npy")


@pytest.mark.extras
@pytest.mark.parametrize("metadata", ["[]", "", '{"zarr_format": 3, "node_type": "array"}'], ids=str)
def test_damaged_zarr_arrays(tmp_path: Path, metadata: str) -> None:
    """A Zarr array with damaged metadata is an ImageError."""
    folder = tmp_path / "damaged.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text(metadata)
    with pytest.raises(ImageError, match="expected a complete array, got a damaged file"):
        Scorer(MODELS).score(folder, model="digits")


@pytest.mark.parametrize("remote", [False, True], ids=["here", "server"])
def test_a_damaged_array_file_does_not_stop_a_folder(server: Server, tmp_path: Path, *, remote: bool) -> None:
    """The other images of a folder are scored, and the damaged file has its error."""
    (tmp_path / "a.npy").write_bytes(DAMAGED["huge shape"])
    np.save(tmp_path / "b.npy", noise(80, 90, 1))
    where = ["--server", server.address] if remote else ["--models", str(MODELS)]
    result = CliRunner().invoke(app, [str(tmp_path), "--model", "digits", "--json", *where])
    assert result.exit_code == 3
    damaged, scored = json.loads(result.stdout)
    assert "got a damaged file" in damaged["error"]
    assert scored["image"]["name"] == "b.npy"


def test_array_files_in_upper_case(tmp_path: Path) -> None:
    """A file with the suffix .NPY is an array too, as folders list it."""
    pixels = noise(80, 90, 1)
    with (tmp_path / "scan.NPY").open("wb") as file:
        np.save(file, pixels)
    scorer = Scorer(MODELS)
    expected = scorer.score(pixels, model="digits").average
    np.testing.assert_array_equal(scorer.score(tmp_path / "scan.NPY", model="digits").average, expected)


def test_files_that_are_open_as_text(tmp_path: Path) -> None:
    """A file that is open in text mode is an ImageError, also if its bytes are no text."""
    (tmp_path / "page.png").write_bytes(b"\x89PNG\r\n\xff")
    scorer = Scorer(MODELS)
    with (
        (tmp_path / "page.png").open(encoding="utf-8") as file,
        pytest.raises(ImageError, match="image: expected a file that is open in binary mode, got a file that"),
    ):
        scorer.score(file, model="digits")  # type: ignore[arg-type]


def test_names_with_a_zero_byte() -> None:
    """A name that no file can have is an ImageError."""
    with pytest.raises(ImageError, match=r"^'page\.png.x': cannot be read: embedded null byte$"):
        Scorer(MODELS).score("page.png\0x", model="digits")
