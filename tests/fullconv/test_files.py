"""Output files that appear complete or not at all."""

import os
from pathlib import Path

import pytest

from fullconv.common.files import OutputError, atomic_write


def test_a_file_takes_its_name_at_the_end(tmp_path: Path) -> None:
    """The file appears under its name when the block ends, and no other file is left."""
    path = tmp_path / "out.bin"
    with atomic_write(path) as file:
        file.write(b"12")
        file.seek(0)
        file.write(b"3")
        assert not path.exists()
    assert path.read_bytes() == b"32"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.bin"]


def fill(path: Path, data: bytes, error: Exception | None = None) -> None:
    """Write an output, and raise an error before it is complete."""
    with atomic_write(path) as file:
        file.write(data)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file", "image.png"), OSError("odd"), ValueError("odd")], ids=repr
)
def test_errors_of_the_block_pass_unchanged(tmp_path: Path, error: Exception) -> None:
    """An exception of the block passes unchanged, and no file is left."""
    with pytest.raises(type(error)) as caught:
        fill(tmp_path / "out.bin", b"12", error)
    assert caught.value is error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [10, 100_000], ids=["as it is closed", "as it is written"])
def test_a_full_device_is_an_output_error(tmp_path: Path, size: int) -> None:
    """A full device is an OutputError that names the output and the reason, and no file is left."""
    (tmp_path / f".out.bin.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"out\.bin: cannot be written: No space left on device"):
        fill(tmp_path / "out.bin", b"x" * size)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "why"), [("none/out.bin", "No such file"), ("folder", "Is a directory")])
def test_invalid_places_are_output_errors(tmp_path: Path, name: str, why: str) -> None:
    """An output in a missing directory, or in place of a directory, is an OutputError."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=f"{name}: cannot be written: {why}"):
        fill(tmp_path / name, b"12")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
