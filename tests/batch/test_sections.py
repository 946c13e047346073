"""Large images of jobs in sections, which a worker of this process scores."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.jobs import OUT, batch, rows, written
from support.paths import ROOT
from support.pictures import encode, noise
from typer.testing import Result

from service.batch import program
from service.batch.engines import local_transport
from service.batch.job import Job
from service.batch.section_scorer import SECTIONS
from service.batch.worker import Observe, PartReport, SectionReport, Worker, with_sections
from service.scoring import sections

SECTION_COUNT = 4


def tiled(*, seed: int = 0, compression: str = "none") -> bytes:
    """Return a tiled TIFF file of 4200×700 pixels."""
    pixels = noise(4200, 700, 1, seed=seed)
    return encode(pixels, ".tif", tile=True, tile_width=128, tile_height=128, compression=compression)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a small image and two large tiled images, one of them damaged. Few pixels are large here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sections, "SECTION_PIXELS", 200_000)
    folder = Path("images")
    folder.mkdir()
    (folder / "large.tif").write_bytes(tiled())
    damaged = bytearray(tiled(compression="deflate"))
    damaged[len(damaged) // 2 : len(damaged) // 2 + 1000] = bytes(1000)
    (folder / "damaged.tif").write_bytes(damaged)
    (folder / "small.png").write_bytes(encode(noise(200, 300, 1), ".png"))
    return folder


class DividingEngine:
    """Scores the sections of large images from the last to the first, as workers of a cluster may."""

    def __init__(self, limit: int = 1000) -> None:
        """Score at most `limit` sections, and then fail."""
        self.scored: list[SectionReport] = []
        self._limit, self._transport = limit, local_transport(ROOT / "models")

    def __call__(
        self, worker: Worker, job: Job, numbers: list[int], observe: Observe, **_: object
    ) -> Iterator[PartReport | SectionReport]:
        """Score parts, as `run_here` does."""
        worker = with_sections(worker, self._transport)
        for part in map(job.part, numbers):
            begun = worker.begin(part)
            tasks = [(at, section, count) for at, count in begun.sections.items() for section in range(count)]
            reports = {}
            for at, section, count in reversed(tasks):
                reports[at, section] = worker.score_section(part, at, section, count)
                yield reports[at, section]
                self.scored.append(reports[at, section])
                if len(self.scored) == self._limit:
                    raise KeyboardInterrupt
            scored = {at: [reports[at, each].scored for each in range(count)] for at, count in begun.sections.items()}
            report = worker.finish(part, begun, scored)
            for image in report.images_done:
                observe(image)
            yield report


def divided(monkeypatch: pytest.MonkeyPatch, engine: DividingEngine, *options: object, out: Path = OUT) -> Result:
    """Run a job with the engine."""
    with monkeypatch.context() as patch:
        patch.setattr(program, "run_here", engine)
        return batch("images", *options, out=out)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("options", [["--grids", "npz"], ["--grids", "geotiff", "--flip"], []], ids=" ".join)
def test_sections_give_the_bytes_of_the_whole(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, grids and the error of a damaged file are the same as without sections, and no section is left."""
    batch("images", *options, out=Path("whole"))
    engine = DividingEngine()
    result = divided(monkeypatch, engine, *options)
    assert result.exit_code == 3
    assert {each.path for each in engine.scored} == {"images/large.tif", "images/damaged.tif"}
    assert {each.sections for each in engine.scored} == {SECTION_COUNT}
    assert sum(row["error"] is None for row in rows()) == 2
    assert written() == written(Path("whole"))
    assert not (OUT / SECTIONS).exists()


def results_of(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the rows and grids of a job, without its listing, which states the times of the images."""
    return {name: data for name, data in files.items() if name.startswith(("results/", "grids/"))}


@pytest.mark.usefixtures("images")
def test_finished_sections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is ended between two sections scores only the others when it continues, with the same bytes."""
    batch("images", "--grids", "npz", out=Path("whole"))
    divided(monkeypatch, DividingEngine(limit=7), "--grids", "npz")
    kept = {path: path.stat().st_mtime_ns for path in (OUT / SECTIONS).rglob("*.npz")}
    assert kept
    engine = DividingEngine()
    divided(monkeypatch, engine, "--grids", "npz")
    assert sum(each.scored.times.compute == 0 for each in engine.scored if not each.scored.failure) == len(kept)
    assert written() == written(Path("whole"))


@pytest.mark.usefixtures("images")
def test_sections_of_a_replaced_file_are_scored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file has changed since a section was scored, no section of the old file is used."""
    divided(monkeypatch, DividingEngine(limit=7), "--grids", "npz")
    large = Path("images/large.tif")
    other = tiled(seed=1)
    assert len(other) == large.stat().st_size
    large.write_bytes(other)
    os.utime(large, ns=(1, 1))
    divided(monkeypatch, DividingEngine(), "--grids", "npz")
    batch("images", "--grids", "npz", out=Path("whole"))
    found, expected = (results_of(written(out)) for out in (OUT, Path("whole")))
    assert found == expected


@pytest.mark.usefixtures("images")
def test_events_name_sections_and_the_reason_for_a_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json, each section is an event; so is a large image that cannot be divided."""
    Path("images/large.png").write_bytes(encode(noise(1400, 700, 1), ".png"))
    result = divided(monkeypatch, DividingEngine(), "--json")
    events: list[dict[str, Any]] = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    found = [(each["section"], each["sections"]) for each in events if each.get("path") == "images/large.tif"]
    assert found == [(number, SECTION_COUNT) for number in reversed(range(SECTION_COUNT))]
    (whole,) = (each for each in events if each["event"] == "whole")
    assert (whole["path"], whole["reason"]) == ("images/large.png", "its file can only be decoded from the top")


def test_files_in_buckets_are_scored_as_a_whole(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that each section would have to copy is not divided, and an event states the reason."""
    url = f"file://{(images / 'large.tif').absolute()}"
    with monkeypatch.context() as patch:
        patch.setattr(program, "run_here", DividingEngine())
        result = batch(url, "--json")
    (whole,) = (each for each in map(json.loads, result.stderr.splitlines()) if each["event"] == "whole")
    assert whole["reason"] == "each section would have to copy its file, or to read it again"
    assert [row["error"] for row in rows()] == [None]
