"""Image files of this machine, by whichever library reads them: libvips, or for slides and rasters an extra's.

What comes from others is never opened here: see `picture`, whose loaders are few.
"""

from pathlib import Path

from service.images.picture import Picture, open_file


def open_path(path: Path) -> Picture:
    """Open an image file; raises ImageError."""
    return open_file(path)
