"""Jobs that are ended and continued, and places for results that belong to another job."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from support.jobs import COMMAND, MODELS, OUT, batch, last_line, make_images, rows, scored_now, written


def test_finished_parts_are_kept(images: Path) -> None:
    """The same command scores only the images of missing parts, and the result has the same bytes."""
    arguments = (images, "--grids", "npz")
    batch(*arguments)
    whole = written()
    (OUT / "results" / "part-000001.parquet").unlink()
    shutil.rmtree(OUT / "grids")
    assert scored_now(arguments) == 4
    again = written()
    assert {name for name in whole if name not in again} == {
        row["grid"] for row in [*rows()[:4], *rows()[8:]] if row["grid"]
    }
    assert {name: whole[name] for name in again} == again
    assert scored_now(arguments) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_jobs_continue(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is killed at random moments gives the same bytes as without; finished parts are not scored again."""
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"), 600)
    arguments = ["images", *MODELS, "--grids", "npz", "--json"]
    subprocess.run([*COMMAND, *arguments, "-o", "whole"], check=True, capture_output=True)
    rng, kills, done = np.random.default_rng(seed), 0, []
    for attempt in range(20):
        with subprocess.Popen(
            [*COMMAND, *arguments, "-o", "out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as run:
            try:
                output, events = run.communicate(timeout=float(rng.uniform(1.0, 3.0)) + attempt)
            except subprocess.TimeoutExpired:
                run.kill()
                _, events = run.communicate()
                kills += 1
        done += [event for line in events.splitlines() if (event := json.loads(line))["event"] == "part"]
        if run.returncode == 0:
            break
    assert kills
    assert json.loads(output)["images"]["failed"] == 0
    assert written() == written(Path("whole"))
    numbers = [event["number"] for event in done]
    assert len(numbers) == len(set(numbers))


OTHERS = {
    "stride": (["--stride", "4"], "options.stride was null and is 4"),
    "grids": (["--grids", "npz"], 'options.grids was "" and is "npz"'),
    "classes": (["--classes", "3"], 'options.classes was [] and is ["3"]'),
    "tiles": (["--tile-mib", "64"], "options.tile_mib was 2048 and is 64"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_options_are_refused(name: str, images: Path) -> None:
    """The results of a job with other options are kept, and the line says what differs."""
    batch(images)
    before = written()
    options, message = OTHERS[name]
    result = batch(images, *options)
    assert result.exit_code == 3
    assert message in last_line(result)
    assert written() == before


def test_lists_of_any_values_continue(images: Path) -> None:
    """A job whose list carries times, dates, NaN and missing values continues; other values are refused."""
    text = "path,at,day,clock,x\n{0}/image0001.png,2024-01-01 10:00:00,2024-01-01,10:00,nan\n{0}/image0002.tif,,,,\n"
    Path("list.csv").write_text(text.format(images))
    assert scored_now(("--list", "list.csv")) == 2
    assert scored_now(("--list", "list.csv")) == 0
    Path("list.csv").write_text(text.format(images).replace("10:00:00", "11:00:00"))
    result = batch("--list", "list.csv")
    assert result.exit_code == 3
    assert "got other values in column 'at'" in last_line(result)


def test_another_model_is_refused(images: Path, tmp_path: Path) -> None:
    """A model with the same name and other weights cannot continue a job."""
    batch(images)
    models = tmp_path / "models"
    shutil.copytree(Path(MODELS[1]) / "digits" / "1", models / "digits" / "2")
    result = batch(images, models=["--models", str(models), "--model", "digits"])
    assert result.exit_code == 3
    assert 'model.version was "1" and is "2"' in last_line(result)


def test_images_that_were_added_need_an_option(images: Path) -> None:
    """Added images are refused, and with --update they become further parts; what was finished is kept."""
    batch(images, "--grids", "npz")
    before = written()
    make_images(images / "added", 3)
    result = batch(images, "--grids", "npz")
    assert result.exit_code == 3
    assert "got 3 others (first: images/added/image0000.jpg), and 0 missing" in last_line(result)
    assert written() == before
    assert scored_now((images, "--grids", "npz", "--update")) == 3
    after = written()
    assert {name: after[name] for name in before if name != "job.json"} == {
        name: data for name, data in before.items() if name != "job.json"
    }
    assert [row["path"] for row in rows()][10:] == [str(path) for path in sorted((images / "added").iterdir())]
    assert scored_now((images, "--grids", "npz")) == 0


def test_images_that_are_missing(images: Path) -> None:
    """A job whose images have gone is refused, and continues with --update; finished rows are kept."""
    batch(images)
    (images / "image0001.png").unlink()
    result = batch(images)
    assert result.exit_code == 3
    assert "got 0 others (first: none), and 1 missing" in last_line(result)
    assert batch(images, "--update").exit_code == 3
    assert [row["path"] for row in rows() if row["error"]] == ["images/below/broken.jpg", "images/below/image0000.jpg"]


def test_two_runs_are_refused(images: Path) -> None:
    """While a run writes into a folder, another run is refused; a run that was killed does not hold the folder."""
    from service.batch.lease import lease  # noqa: PLC0415 (the command under test)
    from service.batch.stores import LocalStore  # noqa: PLC0415

    with lease(LocalStore(OUT)):
        result = batch(images)
        assert result.exit_code == 1
        assert "out: another run of this job is writing here" in last_line(result)
        shard = batch(images, "--shard", "0/2")
        assert "another run of this job is writing here" in last_line(shard)
    assert batch(images).exit_code == 3
    assert len(rows()) == 10


def test_shards_are_one_job(images: Path) -> None:
    """Runs of all shards, in any order, give the same bytes as one run."""
    batch(images, "--grids", "npz")
    counts = [
        json.loads(batch(images, "--grids", "npz", "--shard", f"{number}/2", "--json", out="shards").stdout)["images"]
        for number in (1, 0)
    ]
    assert [count["total"] for count in counts] == [4, 6]
    assert written(Path("shards")) == written()


@pytest.mark.parametrize("name", ["notes.txt", "results.parquet"])
def test_folders_of_other_files_are_refused(name: str, images: Path) -> None:
    """A folder with files of no job is left alone."""
    OUT.mkdir()
    (OUT / name).write_bytes(b"mine")
    result = batch(images)
    assert result.exit_code == 3
    assert f"expected a new or empty folder, or the results of this job, got '{name}' there" in last_line(result)
    assert written() == {name: b"mine"}


@pytest.mark.parametrize("text", ["", "[]", '{"inputs": 1}', '{"inputs": [{"file": "x", "sha256": ""}]}'])
def test_damaged_job_files(text: str, images: Path) -> None:
    """A job.json that cannot be read is one line."""
    OUT.mkdir()
    (OUT / "job.json").write_text(text)
    assert batch(images).exit_code == 3


def test_damaged_parts(images: Path) -> None:
    """A part that was cut off by somebody is one line that names it."""
    batch(images)
    part = OUT / "results" / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    result = batch(images)
    assert result.exit_code == 3
    assert "results/part-000001.parquet: expected a part of the results, got a damaged file" in last_line(result)


def test_failed_images_are_scored_again_on_request(images: Path) -> None:
    """--retry-failed scores only images without scores, and keeps the other rows."""
    batch(images)
    before = rows()
    assert scored_now((images,)) == 0
    assert scored_now((images, "--retry-failed")) == 2
    assert rows() == before
    times = parquet.read_table(OUT / "timing")["path"].to_pylist()
    assert sorted(times) == sorted(row["path"] for row in before)


def test_damaged_times_are_written_again(images: Path) -> None:
    """Times that somebody has cut off are lost; the others are written, and so are the scores."""
    batch(images)
    before, parts = rows(), sorted((OUT / "timing").iterdir())
    for part in parts:
        part.write_bytes(part.read_bytes()[:-9])
    damaged = [part.read_bytes() for part in parts]
    assert scored_now((images, "--retry-failed")) == 2
    assert rows() == before
    written = [part for part, bytes_ in zip(parts, damaged, strict=True) if part.read_bytes() != bytes_]
    assert sum(parquet.read_table(part).num_rows for part in written) == 2


def test_retries_of_unfinished_jobs(images: Path) -> None:
    """--retry-failed also scores the images of parts that are not finished, and those that --update adds."""
    batch(images)
    before = rows()
    (OUT / "results" / "part-000001.parquet").unlink()
    assert scored_now((images, "--retry-failed")) == 6
    assert rows() == before
    make_images(images / "added", 3)
    assert scored_now((images, "--retry-failed", "--update")) == 5
    assert rows()[:10] == before
    assert len(rows()) == 13


def test_images_that_can_be_read_now_have_scores(images: Path) -> None:
    """An image that could not be read when the job began has scores after --retry-failed."""
    path = images / "below" / "broken.jpg"
    path.unlink()
    path.symlink_to("nowhere")
    batch(images, "--grids", "npz")
    assert [row["error_kind"] for row in rows()][:2] == ["read", "image"]
    path.unlink()
    shutil.copyfile(images / "image0000.jpg", path)
    assert scored_now((images, "--retry-failed", "--grids", "npz")) == 2
    assert rows()[0]["average"] is not None
    assert (OUT / "grids" / "below" / "broken.jpg.npz").exists()


@pytest.mark.parametrize("limit", ["1", "2", "10%", "20%"])
def test_too_many_failures_stop_the_job(limit: str, images: Path) -> None:
    """A job stops when more images have failed than may; the parts that have begun are finished."""
    result = batch(images, "--max-failures", limit)
    assert result.exit_code == 3
    stopped = "stopped: images without scores: 2" in last_line(result)
    assert stopped == (limit in ("1", "10%"))


def test_errors_of_all_images_stop_the_job(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends the job with one line; the same command continues it."""

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", full)
        result = batch(images)
        assert result.exit_code in (1, 3)
        assert "No space left on device" in last_line(result)
    batch(images)
    assert len(rows()) == 10


@pytest.mark.parametrize("grids", [[], ["--grids", "npz"]], ids=["averages", "grids"])
def test_a_full_disk_of_a_process(grids: list[str], tmp_path: Path) -> None:
    """A disk that is full is one line and exit status 3, also for the whole process, and no incomplete file is left."""
    make_images(tmp_path / "images", 20)
    limited = ["prlimit", "--fsize=1000", *COMMAND, str(tmp_path / "images"), *MODELS, *grids]
    run = subprocess.run([*limited, "-o", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert run.returncode == 3
    assert "cannot be written: File too large" in run.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").rglob(".*.new"))


@pytest.mark.parametrize("kind", ["job.json", "npz", "part"])
def test_files_are_on_the_disk_before_they_have_names(kind: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system cannot write a file to the disk, no file has its name, and a later run continues the job."""
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if kind in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        result = batch(images, "--grids", "npz")
    assert result.exit_code == 3
    assert "cannot be written: Input/output error" in last_line(result)
    assert not [path for path in OUT.rglob("*") if kind in path.name]
    assert scored_now((images, "--grids", "npz")) == 10


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_file_systems_without_links(number: int, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job begins on a file system that has no links."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert scored_now((images,)) == 10


@pytest.mark.parametrize("attempt", range(5))
def test_the_error_of_one_part_is_stated(attempt: int, images: Path) -> None:
    """If one part cannot be written, the line states this error, and not that other parts were given up."""
    (OUT / "grids").mkdir(parents=True)
    (OUT / "grids" / "below").touch()
    make_images(images / "below", 3 + attempt)
    result = batch(images, "--grids", "npz")
    assert result.exit_code == 3
    assert "out/grids/below" in last_line(result)


def test_read_only_folders(images: Path, tmp_path: Path) -> None:
    """A place that cannot be written is one line."""
    (tmp_path / "file").touch()
    result = batch(images, out=tmp_path / "file" / "out")
    assert result.exit_code == 3
    assert "cannot be written: Not a directory" in last_line(result)
