"""Stores that have folders and whose URLs name a host, as SFTP has: places, whole files, connections of threads."""

from pathlib import Path
from threading import get_ident
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from support.jobs import batch, last_line, rows, written

from fullconv import ImageError
from service.batch import lease
from service.batch.listing import list_images
from service.batch.stores import RemoteStore


class HostFileSystem(LocalFileSystem):  # type: ignore[misc] # fsspec has no types
    """The files of this machine behind a host, whose name paths lack. A connection serves one thread."""

    protocol = "ssh"
    cut_off = ""
    """Part of the names of files that are written half, by a connection that then fails."""

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(**options)
        self.host, self.thread = host, get_ident()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("://")[2].partition("/")[2].strip("/") if "://" in path else path

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return {"host": path.partition("://")[2].partition("/")[0]}

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        """Write a file."""
        assert self.thread == get_ident()
        half = bool(self.cut_off) and self.cut_off in path
        super().pipe_file(path, value[: len(value) // 2] if half else value, **options)
        if half:
            raise PermissionError("connection lost")

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        """Rename a file, but never in place of another one."""
        if self.exists(path2):
            raise OSError("Failure")
        super().mv(path1, path2, **options)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of the current directory on a host."""
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.01)
    fsspec.register_implementation("ssh", HostFileSystem, clobber=True)
    return f"ssh://host{tmp_path}"


@pytest.mark.parametrize("pattern", ["", "/", "/*.*", "/*/*.jpg", "/below/broken.jpg"])
def test_urls_of_images_keep_the_host(pattern: str, host: str, images: Path) -> None:
    """The rows name the images as they can be read again."""
    batch(f"{host}/images{pattern}")
    found = [row["path"] for row in rows()]
    assert found
    for url in found:
        place = Path(url.removeprefix(f"{host}/"))
        assert place.is_relative_to(images)
        assert place.exists()


def test_a_host_gives_the_results_of_folders(host: str, images: Path) -> None:
    """Images and results on a host give the same grids and rows as in folders; a second run finds all of them."""
    batch(images, "--grids", "npz")
    for _ in range(2):
        assert batch(f"{host}/images", "--grids", "npz", out=f"{host}/there").exit_code == 3
    local, remote = written(), written(Path("there"))
    listed = {name for name in (*local, *remote) if name.startswith("inputs/")}  # named after their content: the paths
    assert local.keys() - listed == remote.keys() - listed
    assert {name: data for name, data in local.items() if name.startswith("grids/")} == {
        name: data for name, data in remote.items() if name.startswith("grids/")
    }
    assert [row["average"] for row in rows(Path("there"))] == [row["average"] for row in rows()]


@pytest.mark.usefixtures("images")
def test_the_same_place_on_another_host_has_images(host: str) -> None:
    """Results on another host do not hide the images that have the same path on this host."""
    images = f"{host}/images"
    assert len(list_images([images], out=images.replace("//host", "//other")).paths) == 10
    with pytest.raises(ImageError, match="expected at least one image, got 0 other files"):
        list_images([images], out=images)


def test_no_file_is_seen_half_written(host: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose connection fails while a part is written shows no part, and the next run writes the same bytes."""
    batch(f"{host}/images", out=f"{host}/expected")
    monkeypatch.setattr(HostFileSystem, "cut_off", "results/.part-000001")
    result = batch(f"{host}/images", out=f"{host}/there")
    assert result.exit_code == 3
    assert f"{host}/there/results/part-000001.parquet: cannot be written: connection lost" in last_line(result)
    assert not (Path("there") / "results" / "part-000001.parquet").exists()
    monkeypatch.setattr(HostFileSystem, "cut_off", "")
    assert batch(f"{host}/images", out=f"{host}/there").exit_code == 3
    assert written(Path("there")) == written(Path("expected"))
    assert images.exists()


def test_parts_of_killed_runs_have_no_names(host: str, tmp_path: Path) -> None:
    """A file that a killed run has left is not taken for a result, and a file replaces another one."""
    store = RemoteStore(f"{host}/out")
    store.write("results/part", b"first")
    (tmp_path / "out" / "results" / ".part.partial").write_bytes(b"sec")
    assert store.names("results") == {"part"}
    store.write("results/part", b"second")
    assert [path.name for path in (tmp_path / "out" / "results").iterdir()] == ["part"]
    assert store.read("results/part") == b"second"
    assert not store.create("results/part", b"third")
    assert store.read("results/part") == b"second"


def test_passwords_are_refused(images: Path) -> None:
    """A URL with a password is refused wherever it is given, without showing the password."""
    url = "sftp://user:secret@host/folder"
    Path("list.csv").write_text(f"path\n{url}/image.png\n", "utf-8")
    for result in (batch(url), batch(images, out=url), batch("--list", "list.csv")):
        assert result.exit_code != 0
        assert "sftp://user:…@host/folder" in last_line(result)
        assert "expected a URL without a password, which the results would show" in last_line(result)
        assert "FSSPEC_SFTP_PASSWORD" in last_line(result)
        assert "secret" not in result.output
