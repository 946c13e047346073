"""A version appears complete or not at all, and an old version is never lost."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from converter.errors import OutputError
from converter.writer import staging
from fullconv.common import model_files

FILE = re.compile(r"[a-z.{}]+\.(onnx|data|txt|json)")


def version(folder: Path, content: str) -> Path:
    """Write an old version; returns its folder."""
    target = folder / "net" / "1"
    target.mkdir(parents=True)
    (target / "model.onnx").write_text(content)
    (target / "report.json").write_text("{}")
    return target


def write(target: Path, content: str, *, force: bool = False, during: Callable[[], object] = lambda: None) -> None:
    """Write a version; `during` is called before it is complete."""
    with staging(target, force=force) as folder:
        (folder / "model.onnx").write_text(content)
        during()


def test_concurrent_conversions_do_not_collide(tmp_path: Path) -> None:
    """Of two conversions to one target the second is refused; each writes to its own folder."""
    target = tmp_path / "net" / "1"
    with pytest.raises(OutputError, match="got an existing version"):
        write(target, "second", during=lambda: write(target, "first"))
    assert (target / "model.onnx").read_text() == "first"
    assert [target] == list(target.parent.iterdir())


def test_errors_of_other_files_are_not_the_targets(tmp_path: Path) -> None:
    """An error about an input file is not reported as an error of the target."""
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.bin"):
        write(tmp_path / "net" / "1", "half", during=Path("elsewhere.bin").read_bytes)
    assert not (tmp_path / "net").exists()


def test_empty_directories_are_no_versions(tmp_path: Path) -> None:
    """A directory that a script has made for the version is filled, also without --force."""
    target = tmp_path / "net" / "1"
    target.mkdir(parents=True)
    write(target, "new")
    assert (target / "model.onnx").read_text() == "new"
    assert [target] == list(target.parent.iterdir())


def test_files_are_no_folders_of_versions(tmp_path: Path) -> None:
    """A target below a file is refused by the file's name."""
    (tmp_path / "net").write_text("mine")
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "net" / "1", "new")
    assert str(caught.value) == (
        f"{tmp_path / 'net' / '1'}: expected a folder for the version, got the file {tmp_path / 'net'}; "
        "choose another -o"
    )


def interrupt() -> None:
    raise KeyboardInterrupt


def test_failures_change_nothing(tmp_path: Path) -> None:
    """After an error the old version is unchanged; without an old version no folder is left behind."""
    target = version(tmp_path, "old")
    for place in (target, tmp_path / "new" / "net" / "1"):
        with pytest.raises(KeyboardInterrupt):
            write(place, "half", force=True, during=interrupt)
    assert (target / "model.onnx").read_text() == "old"
    assert [target] == list(target.parent.iterdir())
    assert not (tmp_path / "new").exists()


def test_a_failed_exchange_puts_the_old_version_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the new version cannot be renamed to the target, the old version is restored."""
    target, rename = version(tmp_path, "old"), Path.rename

    def fail(path: Path, to: Path) -> Path:
        if to == target and not path.name.endswith("old"):
            raise OSError(28, "No space left on device")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        write(target, "new", force=True)
    assert (target / "model.onnx").read_text() == "old"
    assert [target] == list(target.parent.iterdir())


def test_a_version_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    """Without --force a version that another conversion wrote in the meantime is not replaced."""
    target = tmp_path / "net" / "1"
    with pytest.raises(OutputError, match="got an existing version"):
        write(target, "second", during=lambda: version(tmp_path, "first"))
    assert (target / "model.onnx").read_text() == "first"
    assert [target] == list(target.parent.iterdir())


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    """If the version is a link to another folder, that folder is replaced."""
    real = version(tmp_path / "real", "old")
    link = tmp_path / "models" / "net" / "1"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    write(link, "new", force=True)
    assert link.is_symlink()
    assert (real / "model.onnx").read_text() == "new"
    assert [real] == list(real.parent.iterdir())


@pytest.mark.parametrize("name", ["notes.txt", "model_best.onnx", "model.stride8b.onnx", "labels.txt.bak", "runs"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_files_of_others_are_not_deleted(tmp_path: Path, name: str, when: str) -> None:
    """With --force a version that holds another file is kept, and the first such file or folder is named."""
    target = version(tmp_path, "old")

    def add() -> None:
        (target / name).mkdir() if name == "runs" else (target / name).write_text("mine")
        (target / "zebra").write_text("mine too")

    if when == "before":
        add()
    with pytest.raises(OutputError, match=rf"got '{re.escape(name)}', which --force would delete; move it elsewhere"):
        write(target, "new", force=True, during=add if when == "during" else lambda: None)
    assert (target / "model.onnx").read_text() == "old"
    assert {path.name for path in target.iterdir()} == {"model.onnx", "report.json", name, "zebra"}
    assert [target] == list(target.parent.iterdir())


def test_everything_that_the_converter_writes_is_replaced(tmp_path: Path) -> None:
    """With --force a version is replaced that has every kind of file that the project names."""
    target = version(tmp_path, "old")
    names = [name.format(8) for name in vars(model_files).values() if isinstance(name, str) and FILE.fullmatch(name)]
    assert {"model.stride8.onnx", "model.margins8.onnx", "labels.txt"} < set(names)
    for name in (*names, "model.shared4x8.onnx"):
        (target / name).write_text("old")
    write(target, "new", force=True)
    assert [path.name for path in target.iterdir()] == ["model.onnx"]
