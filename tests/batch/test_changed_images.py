"""Images that are replaced, repaired, copied or moved while their job continues."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.jobs import OUT, batch, last_line, make_images, rows, written
from support.pictures import noise, png

from service.batch import changes, reading
from service.batch.budget import Budget
from service.batch.item import Divided, ItemScorer, Scored
from service.batch.stop import Stop


def processed(*arguments: object, out: object = OUT) -> int:
    """Run the command; returns the number of images that were scored."""
    count: int = json.loads(batch(*arguments, "--json", out=out).stdout)["images"]["processed"]
    return count


def replace(path: Path, data: bytes) -> None:
    """Replace a file, whose time is a second later than before, so that the system's clock does not matter."""
    time = path.stat().st_mtime_ns + 10**9
    path.write_bytes(data)
    os.utime(path, ns=(time, time))


def test_images_of_another_size_are_refused(images: Path) -> None:
    """An image of another size than when it was scored is refused, also with --update, and the line names it."""
    batch(images)
    before = written()
    replace(images / "image0001.png", png(noise(90, 90, 1)))
    result = batch(images, "--update")
    assert result.exit_code == 3
    assert "got 'images/image0001.png' in another size" in last_line(result)
    assert written() == before


def test_images_of_the_same_size_and_other_content_are_refused(images: Path) -> None:
    """An image that was replaced by another one of the same size is refused; the line states both times."""
    path = images / "image0001.png"
    batch(images)
    replace(path, path.read_bytes()[:-1] + b"?")
    result = batch(images)
    assert result.exit_code == 3
    assert "got 'images/image0001.png' with other content (20" in last_line(result)
    assert "Z, recorded 20" in last_line(result)


def test_copies_of_the_images_continue(images: Path) -> None:
    """Files with other times and the same content are the images of the job; a line says that they are compared."""
    batch(images)
    before = written()
    for path in images.rglob("*.*"):
        replace(path, path.read_bytes())
    result = batch(images)
    assert "0 processed now, 10 in earlier runs" in result.stdout
    assert "10 images may have changed: comparing the content with the results" in result.stderr
    event, *_ = map(json.loads, batch(images, "--json").stderr.splitlines())
    assert event["event"] == "compare"
    assert event["reason"] == "10 images may have changed: comparing the content with the results"
    assert written() == before


def test_images_that_are_not_scored_yet_may_change(images: Path) -> None:
    """An image of an unfinished part is scored as it is now; the other rows stay."""
    batch(images)
    before = rows()
    (OUT / "results" / "part-000001.parquet").unlink()
    path = images / "image0003.jpg"
    replace(path, png(noise(90, 91, 1)))
    assert processed(images) == 4
    after = rows()
    assert [row["path"] for row in after if row not in before] == ["images/image0003.jpg"]
    assert next(row for row in after if row not in before)["bytes"] == path.stat().st_size
    assert processed(images) == 0


@pytest.mark.parametrize("state", ["finished", "pending"])
def test_other_images_of_the_same_names_are_refused(state: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of the same paths, sizes and times in another folder are refused, but not the same images there."""
    other = Path("other").absolute()
    shutil.copytree(images, other / images)
    out = OUT.absolute()
    batch(images, out=out)
    before = written(out)
    monkeypatch.chdir(other)
    assert processed(images, out=out) == 0
    if state == "pending":
        (out / "results" / "part-000001.parquet").unlink()
    path = images / "below" / "image0000.jpg"
    times = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    result = batch(images, out=out)
    assert result.exit_code == 3
    assert "got 'images/below/image0000.jpg' with other content: " in last_line(result)
    assert written(out).items() <= before.items()


def test_files_without_a_hash_need_their_times(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large for a hash continues with its time, and is refused with another; the line says how."""
    for module in (changes, reading):
        monkeypatch.setattr(module, "WHOLE_BYTES", 1)
    path = images / "image0002.tif"
    batch(path)
    assert processed(path) == 0
    replace(path, path.read_bytes())
    result = batch(path)
    assert result.exit_code == 3
    assert "give it the recorded time (rsync -t copies times), otherwise use another OUT" in last_line(result)


def test_added_images_may_come_with_copies(images: Path) -> None:
    """--update compares before anything is written: other content is refused, and job.json stays."""
    batch(images)
    before = written()
    make_images(images / "added", 2)
    path = images / "image0001.png"
    data = path.read_bytes()
    replace(path, data[:-1] + b"?")
    assert batch(images, "--update").exit_code == 3
    assert written() == before
    replace(path, data)
    assert processed(images, "--update") == 2


def test_repaired_images_are_scored_again(images: Path) -> None:
    """An image without scores may be replaced for --retry-failed, which an error names; later runs take it as it is."""
    batch(images)
    before = rows()
    path = images / "below" / "broken.jpg"
    replace(path, (images / "image0000.jpg").read_bytes())
    result = batch(images)
    assert result.exit_code == 3
    assert "score it again with --retry-failed, or use another OUT" in last_line(result)
    assert processed(images, "--retry-failed") == 2
    after = rows()
    assert (after[0]["bytes"], after[0]["error"]) == (path.stat().st_size, None)
    assert after[1:] == before[1:]
    assert processed(images) == 0
    assert rows() == after
    replace(path, b"not an image either")
    assert batch(images, "--retry-failed").exit_code == 3
    assert rows() == after


@pytest.mark.parametrize("most", [1, 32 << 20], ids=["large", "with a hash"])
def test_images_that_change_while_they_are_scored(most: int, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is replaced between its hash and the end of its scoring has a row with an error."""
    monkeypatch.setattr(reading, "WHOLE_BYTES", most)
    path, score = images / "image0002.tif", ItemScorer._score  # noqa: SLF001 (what happens between reads)

    def replacing(self: ItemScorer, attempt: Any) -> Scored | Divided:  # noqa: ANN401 (private)
        replace(path, path.read_bytes())
        return score(self, attempt)

    with monkeypatch.context() as patch:
        patch.setattr(ItemScorer, "_score", replacing)
        assert batch(path).exit_code == 3
    (row,) = rows()
    assert row["error"].startswith("images/image0002.tif: expected the same file until it was scored, got another one")
    assert row["error_kind"] == "read"
    assert processed(path, "--retry-failed") == 1
    assert rows()[0]["error"] is None


def test_files_in_memory_have_a_budget(images: Path) -> None:
    """Files that are read as a whole wait until there is memory for them."""
    memory = Budget(100.0)
    copies = reading.Copies(Stop(), memory=memory)
    path = images / "image0001.png"
    with reading.read_image(str(path), None, copies) as read:
        assert memory.held == read.size == path.stat().st_size
    assert memory.held == 0
