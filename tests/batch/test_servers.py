"""Jobs whose images servers score."""

from pathlib import Path

import pytest
from support.jobs import batch, last_line, written
from support.paths import ROOT
from support.servers import running

SERVER = ["--model", "digits"]


@pytest.mark.parametrize("grids", [[], ["--grids", "npz"]], ids=["averages", "grids"])
def test_servers_give_the_same_bytes(grids: list[str], images: Path) -> None:
    """Two servers give the same rows and grids as this process."""
    batch(images, *grids)
    with running(ROOT / "models") as first, running(ROOT / "models") as second:
        addresses = f"{first.address},{second.address}"
        assert batch(images, *grids, "--server", addresses, models=SERVER, out="remote").exit_code == 3
    assert written(Path("remote")) == written()


def test_servers_that_are_gone(images: Path) -> None:
    """A server that cannot be reached is one line, exit status 1, and nothing is written."""
    result = batch(images, "--server", "127.0.0.1:1", models=SERVER)
    assert result.exit_code == 1
    assert "127.0.0.1:1" in last_line(result)
    assert not Path("out").exists()
