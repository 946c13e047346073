"""Images that several tests of the command score."""

from pathlib import Path

import pytest
from support.pictures import encode, noise, png


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a small image of odd size."""
    path = tmp_path / "image.png"
    path.write_bytes(png(noise(90, 111, 1)))
    return path


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with four images, one of them damaged, and with other files, in the current directory."""
    pixels = noise(90, 111, 1)
    files = {
        "page.png": png(pixels),
        "b/page.png": png(pixels[:80, :90]),
        "b/deep/seite 図.TIF": encode(pixels[:70, :70], ".tif"),
        "a/broken.jpg": b"not an image",
        "notes.txt": b"",
        ".hidden.png": png(pixels),
        ".cache/page.png": png(pixels),
    }
    for name, data in files.items():
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return Path("scans")
