"""Temporary files and folders of processes that were killed are removed, those of living processes are not."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fullconv.common.files import OutputError, atomic_write, scratch_folder
from fullconv.common.temporary import LEFTOVER, hidden_path, remove_leftovers, temporary

HOLD = """
import sys
from pathlib import Path
from fullconv.common.files import atomic_write
from fullconv.common.temporary import temporary

with temporary(Path(sys.argv[1]) / "1", Path.mkdir) as folder, atomic_write(Path(sys.argv[1]) / "out.npz") as file:
    (folder / "weights.data").write_bytes(b"half")
    file.write(b"half")
    print(folder.name, flush=True)
    sys.stdin.read()
"""
"""Makes a temporary folder and a temporary file in a directory, and waits."""
SCRATCH = """
import os, signal
from fullconv.common.files import scratch_folder

with scratch_folder() as folder:
    (folder / "copy.tif").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Makes a folder among the temporary files, and is killed."""


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """While a process lives, another process leaves its temporary files alone; after SIGKILL it removes them."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        held = sorted(tmp_path.iterdir())
        assert len(held) == 2
        remove_leftovers(tmp_path)
        assert sorted(tmp_path.iterdir()) == held
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    assert sorted(tmp_path.iterdir()) == held
    with atomic_write(tmp_path / "other.npz") as file:
        file.write(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.npz"]


def test_scratch_folders_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder among the temporary files is gone at the end of its block, and so is that of a killed process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", SCRATCH], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    with scratch_folder() as folder:
        assert [*tmp_path.iterdir()] == [folder] != [leftover]
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not [*tmp_path.iterdir()]


def test_scratch_folders_need_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder of temporary files has gone, the error names it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"gone: cannot be written: No such file or directory"), scratch_folder():
        pass


def test_other_hidden_files_stay(tmp_path: Path) -> None:
    """Only names that fullconv gives are leftovers, and a link with such a name is not followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    others = [folder / name for name in (".1.0123abcd", ".1.0123abcd.partial", "1.0123abcd.fullconv.new", ".git")]
    for other in others:
        other.mkdir()
    link = hidden_path(folder / "1", "new")
    link.symlink_to(outside)
    hidden_path(folder / "2", "new").mkdir()
    remove_leftovers(folder)
    assert sorted(folder.iterdir()) == sorted([*others, link])


@pytest.mark.parametrize("content", ["new", "old"], ids=["replaced", "not replaced"])
def test_an_old_version_is_never_lost(tmp_path: Path, content: str) -> None:
    """What an output was before is removed if the output exists, and else gets its name back."""
    old, target = hidden_path(tmp_path / "1", "old"), tmp_path / "1"
    old.mkdir()
    (old / "model.onnx").write_text("old")
    if content == "new":
        target.mkdir()
        (target / "model.onnx").write_text("new")
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "model.onnx").read_text() == content


def test_what_is_taken_for_a_leftover_is_made_again(tmp_path: Path) -> None:
    """If another process removes a new folder before its lock is held, another folder is made."""
    made: list[Path] = []

    def make(path: Path) -> None:
        path.mkdir()
        made.append(path)
        if len(made) < 3:
            remove_leftovers(tmp_path)

    with temporary(tmp_path / "1", make) as folder:
        assert made[2:] == [folder]
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where locks are not possible, outputs are written, and nothing is taken for a leftover."""

    def refuse(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with temporary(tmp_path / "1", Path.mkdir) as folder:
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a" * 251 + ".npz", "ü" * 125 + ".npz"], ids=["ascii", "two bytes"])
def test_long_names_of_outputs(tmp_path: Path, name: str) -> None:
    """An output may have the longest name of the file system: that of its temporary file is cut."""
    with atomic_write(tmp_path / name) as file:
        file.write(b"whole")
        (temporary_name,) = (path.name for path in tmp_path.iterdir())
        assert LEFTOVER.fullmatch(temporary_name)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"whole")]
