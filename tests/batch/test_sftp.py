"""Jobs on an SFTP server, through fsspec and paramiko."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.config import conf, set_conf_env
from support.jobs import COMMAND, MODELS, batch, last_line, rows, written
from support.servers import wait_until
from support.sftp import SftpServer, sftp_server

from service.batch import lease, retries
from service.batch.reading import Copies, read_image
from service.batch.stop import Stop
from service.batch.stores import RemoteStore

pytestmark = pytest.mark.extras


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SftpServer]:
    """Yield a server that this process reaches by the variables of the environment."""
    (tmp_path / "keys").mkdir()
    with sftp_server(tmp_path / "keys") as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(conf, "sftp", {})
        set_conf_env(conf)  # fsspec reads the variables once
        monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.05)
        monkeypatch.setattr(retries, "FIRST_SECONDS", 0.005)
        yield server
        fsspec.get_filesystem_class("sftp").clear_instance_cache()


@pytest.fixture
def host(server: SftpServer, tmp_path: Path) -> str:
    """Return the URL of the current directory on the server."""
    assert server.process
    return f"sftp://127.0.0.1{tmp_path}"


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_a_server_holds_the_results_of_a_folder(kind: str, host: str, images: Path) -> None:
    """Images and results on a server give the same rows and grids as in folders, apart from the paths."""
    assert batch(images, "--grids", kind).exit_code == 3
    assert batch(f"{host}/images", "--grids", kind, out=f"{host}/there").exit_code == 3
    local, remote = written(), written(Path("there"))
    listed = {name for name in (*local, *remote) if name.startswith("inputs/")}  # named after their content: the paths
    assert local.keys() - listed == remote.keys() - listed
    assert {name: data for name, data in remote.items() if name.startswith("grids/")} == {
        name: data for name, data in local.items() if name.startswith("grids/")
    }
    for row, expected in zip(rows(Path("there")), rows(), strict=True):
        assert row.pop("path") == expected.pop("path").replace("images/", f"{host}/images/")
        error = expected.pop("error")
        assert row.pop("error") == (error and error.replace("images/", f"{host}/images/"))
        assert row == expected


def test_a_killed_job_continues(host: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After kill -9 while parts are written, the same command gives the same bytes."""
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 1.0)
    arguments = (f"{host}/images", "--grids", "npz")
    batch(*arguments, out=f"{host}/expected")
    with subprocess.Popen(
        [*COMMAND, *MODELS, *arguments, "-o", f"{host}/there"], env=os.environ.copy(), stderr=subprocess.DEVNULL
    ) as job:
        wait_until(lambda: any(Path("there", "grids").rglob("*.npz")))
        job.kill()
    assert images.exists()
    assert batch(*arguments, out=f"{host}/there").exit_code == 3
    assert written(Path("there")) == written(Path("expected"))


def test_lost_connections_are_opened_again(server: SftpServer, host: str, images: Path) -> None:
    """Files are read and written also after the server has ended the connection."""
    store, copies = RemoteStore(f"{host}/there"), Copies(Stop())
    for content in (b"first", b"second"):
        store.write("file", content)
        assert store.read("file") == content
        server.end_connections()
        with read_image(f"{host}/{images}/image0001.png", None, copies) as image:
            assert image.data == (images / "image0001.png").read_bytes()
        server.end_connections()


@pytest.mark.parametrize(
    ("login", "port", "reason"), [("nobody-here@", "", "Authentication failed"), ("", "1", "Unable to connect")]
)
def test_servers_that_refuse(
    login: str, port: str, reason: str, host: str, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user or a port that the server does not know ends a job with one line that names the URL."""
    if port:
        monkeypatch.setitem(conf["sftp"], "port", port)
    place = host.replace("sftp://", f"sftp://{login}")
    for result in (batch(f"{place}/images"), batch(images, out=f"{place}/there")):
        assert result.exit_code in (1, 3)
        assert last_line(result).startswith(f"fullconv-batch: {place}/")
        assert "cannot be opened: " in last_line(result)
        assert reason in last_line(result)
    batch("--list", write_list(f"{place}/images/image0001.png"), out="listed")
    (row,) = rows(Path("listed"))
    assert (row["error_kind"], reason in row["error"]) == ("read", True)


def write_list(url: str) -> str:
    """Write a list with one image; returns its name."""
    Path("list.csv").write_text(f"path\n{url}\n", "utf-8")
    return "list.csv"
