"""What the engine for Ray does without a cluster."""

import pickle
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from support.jobs import batch, make_images

from service.batch.job import Job
from service.batch.listing import OWN, Listing
from service.batch.ray_engine import detached


def test_without_ray_the_job_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Ray is not installed, one line says what to install, and nothing is written."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images", 1)
    result = batch("images", "--engine", "ray", out="none")
    assert result.exit_code == 3
    assert result.stderr == (
        "fullconv-batch: engine: expected the package ray for --engine ray, got none; pip install ray\n"
    )
    assert not Path("none").exists()


def test_a_part_is_sent_without_the_rest_of_the_job() -> None:
    """What an actor gets of a part does not grow with the number of images of the job."""
    names, sizes = [f"images/{number:06d}.png" for number in range(100_000)], [100] * 100_000
    table = pa.table([names, sizes, names, names], schema=OWN)
    part = Job(Listing(table), ((500, 628),)).part(0)
    sent = pickle.dumps(detached(part))
    assert len(sent) < 20_000
    assert pickle.loads(sent).images.table == part.images.table  # noqa: S301 (our own)
