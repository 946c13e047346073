"""Jobs that a signal ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.jobs import COMMAND, MODELS, OUT, batch, last_line, rows, scored_now
from support.pictures import noise, png
from support.servers import wait_until

from service.batch import cli
from service.batch.item import Divided, ItemScorer, Scored


def test_a_gentle_stop_finishes_the_parts_that_have_begun(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first signal no further part begins; the exit status is 1, and the same command continues."""
    score = ItemScorer.score

    def stopping(self: ItemScorer, *arguments: object) -> Scored | Divided:
        cli.stop.gently.set()
        return score(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ItemScorer, "score", stopping)
    result = batch(images)
    assert result.exit_code == 1
    assert "interrupted: the same command continues the job" in last_line(result)
    assert len(rows()) == 8
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_a_second_signal_gives_up(number: int, tmp_path: Path) -> None:
    """The second signal ends the command within seconds, and no incomplete file is left."""
    for each in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{each}.png").write_bytes(png(noise(3000, 3000, 1)))
    arguments = [str(tmp_path / "images"), *MODELS, "--stride", "1", "--grids", "npz", "-o", str(tmp_path / "out")]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_until(lambda: list((tmp_path / "out").glob("grids/.*.new")))
        run.send_signal(number)
        time.sleep(3)
        run.send_signal(number)
        _, error = run.communicate(timeout=60)
    assert run.returncode == 1
    assert error.splitlines()[-1] == "fullconv-batch: interrupted: the same command continues the job"
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and not path.name.startswith(".lock")]
    assert sorted(path.name for path in left) == ["job.json", next((tmp_path / "out" / "inputs").iterdir()).name]


BLOCKED = """
import time
from pathlib import Path
from service.batch import cli
cli.GRACE_SECONDS, cli.END_SECONDS = 0.1, 1.0
read = Path.read_bytes
Path.read_bytes = lambda path: read(path) if path.name == "job.json" else time.sleep(1000)
cli.main()
"""
"""The command, whose reads of images never end."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_a_second_signal_ends_blocked_reads(number: int, images: Path) -> None:
    """If reads do not end, the second signal ends the command all the same; the next run removes unfinished files."""
    arguments = [sys.executable, "-c", BLOCKED, str(images), *MODELS, "--grids", "npz", "-o", "out"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        try:
            wait_until((OUT / "job.json").exists)
            run.send_signal(number)
            assert "interrupt again to give them up" in run.stderr.readline()
            time.sleep(0.2)  # the time in which further signals count as the first
            run.send_signal(number)
            _, error = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 1
    assert error.splitlines()[-1] == "fullconv-batch: interrupted: the same command continues the job"
    (OUT / "grids").mkdir()
    (OUT / "grids" / ".image0000.jpg.npz.0123abcd.fullconv.new").touch()
    assert scored_now((images, "--grids", "npz")) == 10
    assert not list(OUT.rglob(".*.new"))
