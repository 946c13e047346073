"""Image files of this machine, by whichever library reads them: libvips, or for slides and rasters an extra's.

What comes from others is never opened here, but by `picture`, whose loaders are few.
"""

from importlib.util import find_spec
from pathlib import Path

from service.errors import ImageError
from service.images.picture import Picture, open_file, readable

SLIDES = {".bif", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu"}
RASTERS = {".img", ".jp2", ".ntf"}
WAYS_OUT = {"openslide": (SLIDES, "slides"), "rasterio": (RASTERS, "rasters")}


def open_path(path: Path) -> Picture:
    """Open an image file; raises ImageError, which says what to install where that would help."""
    name = readable(path.name)
    if path.is_file() and find_spec("openslide"):
        from service.images.slides import open_slide  # noqa: PLC0415 (an extra)

        slide = open_slide(path, name)
        if slide is not None:
            return slide
    if path.is_file() and find_spec("rasterio"):
        from service.images.rasters import open_raster  # noqa: PLC0415 (an extra)

        raster = open_raster(path, name)
        if raster is not None:
            return raster
    try:
        return open_file(path)
    except ImageError as error:
        for module, (suffixes, extra) in WAYS_OUT.items():
            if path.suffix.lower() in suffixes and not find_spec(module):
                raise ImageError(f"{error}; {path.suffix} files need pip install 'fullconv[{extra}]'") from None
        raise
