"""Jobs whose images servers score."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.jobs import batch, last_line, rows, written
from support.paths import ROOT
from support.servers import running

from fullconv import Client
from fullconv.answer import Answer
from fullconv.errors import UnavailableError
from service.batch import retries
from service.batch.records import Records, Row

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


def test_servers_that_are_away_for_a_moment(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image whose servers do not answer is sent again after a wait; after some tries it has an error."""
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.001)
    score, failures = Client.score, Counter({"image0001.png": 2, "image0003.jpg": 1000})

    def away(client: Client, image: Any, **options: Any) -> Answer:  # noqa: ANN401 (those of the client)
        assert image.read()
        image.seek(0)
        failures[image.name] -= 1
        if failures[image.name] >= 0:
            image.read()
            raise UnavailableError("no server answers")
        return score(client, image, **options)

    monkeypatch.setattr(Client, "score", away)
    with running(ROOT / "models") as server:
        batch(images, "--include", "*000[13].*", "--server", server.address, models=SERVER)
    assert [(row["path"], row["error_kind"]) for row in rows()] == [
        ("images/image0001.png", None), ("images/image0003.jpg", "unavailable"),
    ]  # fmt: skip


def test_a_bug_that_one_image_causes_does_not_end_the_job(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that causes an unexpected exception has a row that states it; the others have scores."""
    row_of = Records.row_of

    def broken(records: Records, answer: Answer) -> Row:
        if answer.image.name == "image0003.jpg":
            raise KeyError("surprise")
        return row_of(records, answer)

    monkeypatch.setattr(Records, "row_of", broken)
    batch(images)
    (row,) = [row for row in rows() if row["error_kind"] == "bug"]
    assert row["error"] == "a bug in fullconv: KeyError('surprise')"
