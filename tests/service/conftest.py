"""A model repository, a server of it, and a client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.conversion import convert_into
from support.networks import PADDED, UNPADDED, make_network
from support.paths import ROOT
from support.servers import Server, running

from fullconv import Client


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of three models: the shipped one, an unpadded and a padded one of three channels."""
    folder = tmp_path_factory.mktemp("repository")
    for toml in (UNPADDED, PADDED):
        convert_into(folder / "models", make_network(folder, toml))
    target = folder / "models" / "digits" / "1"
    target.mkdir(parents=True)
    for file in (ROOT / "models" / "digits" / "1").iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return folder / "models"


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    """One server for the tests that leave it running."""
    with running(models) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """Yield a client of that server."""
    with Client(server.address, timeout=240) as client:
        yield client
