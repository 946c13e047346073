"""Image files of this machine, by whichever library reads them: libvips, or for slides and rasters an extra's.

What comes from others is never opened here, but by `encoded`, whose loaders are few.
"""

from importlib.util import find_spec
from pathlib import Path

from service.errors import ImageError
from service.images.encoded import open_file, readable
from service.images.picture import FIRST_PAGE, PageSelection, Picture

SLIDES = {".bif", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu"}
RASTERS = {".img", ".jp2", ".ntf"}
WAYS_OUT = {"openslide": (SLIDES, "openslide-bin openslide-python"), "rasterio": (RASTERS, "rasterio")}
"""By the module that reads files of some suffixes: the packages to install."""


def open_path(path: Path, selection: PageSelection = FIRST_PAGE) -> Picture:
    """Open an image file; raises ImageError, which says what to install where that would help."""
    name = readable(path.name)
    if path.is_file() and find_spec("openslide"):
        from service.images.slides import open_slide  # noqa: PLC0415 (an extra)

        slide = open_slide(path, name, selection)
        if slide is not None:
            return slide
    if path.is_file() and find_spec("rasterio"):
        from service.images.rasters import open_raster  # noqa: PLC0415 (an extra)

        raster = open_raster(path, name, selection)
        if raster is not None:
            return raster
    try:
        return open_file(path, selection)
    except ImageError as error:
        for module, (suffixes, packages) in WAYS_OUT.items():
            if path.suffix.lower() in suffixes and not find_spec(module):
                raise ImageError(f"{error}; {path.suffix} files need pip install {packages}") from None
        raise
