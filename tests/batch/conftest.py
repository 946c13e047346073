"""Fixtures for the tests of jobs."""

from pathlib import Path

import pytest
from support.jobs import make_images

from service.batch import job


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of ten images, two of which cannot be scored, in the current directory.

    Parts have four images.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "PART_IMAGES", 4)
    folder = Path("images")
    make_images(folder, 8)
    (folder / "below").mkdir()
    (folder / "below" / "broken.jpg").write_bytes(b"not an image")
    make_images(folder / "below", 1, side=40)
    return folder
