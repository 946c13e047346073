"""Arrays in memory and in files, with both clients and in this process."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise
from support.servers import Server, running

from fullconv import Answer, AsyncClient, Client, ImageError, Scorer

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


def test_array_files_that_cannot_be_opened(server: Server, tmp_path: Path) -> None:
    """A .npy file that holds no array is an ImageError before anything is sent."""
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ImageError, match="cannot be read as an array"):
        large(server, tmp_path / "text.npy")
