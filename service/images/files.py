"""Image files on this machine, read by libvips and tifffile, or with an extra by OpenSlide or rasterio.

Files that come with requests are opened by `encoded` alone, whose few decoders are hardened against hostile data.
Requests to a server may also name files by path. These files are opened here, because the operator has chosen them.
"""

from importlib.util import find_spec
from pathlib import Path

from fullconv.common.image_suffixes import RASTERS, SLIDES
from fullconv.common.text import encodable
from service.errors import ImageError
from service.images.encoded import open_file
from service.images.picture import FIRST_PAGE, PageSelection, Picture

PACKAGES = {"openslide": (SLIDES, "openslide-bin openslide-python"), "rasterio": (RASTERS, "rasterio")}
"""For each module that reads further formats: their suffixes, and the packages to install."""


def open_path(path: Path, selection: PageSelection = FIRST_PAGE, *, name: str = "", alone: bool = False) -> Picture:
    """Open an image file; raises ImageError, which names the packages to install where these would help.

    Default of `name`: the file's name. `alone`: no other file beside it may be opened.
    """
    name = name or encodable(path.name)
    if path.is_file() and find_spec("openslide"):
        from service.images.slides import open_slide  # noqa: PLC0415 (an extra)

        slide = open_slide(path, name, selection, alone=alone)
        if slide is not None:
            return slide
    if path.is_file() and find_spec("rasterio"):
        from service.images.rasters import open_raster  # noqa: PLC0415 (an extra)

        raster = open_raster(path, name, selection)
        if raster is not None:
            return raster
    try:
        return open_file(path, selection, name=name)
    except ImageError as error:
        for module, (suffixes, packages) in PACKAGES.items():
            suffix = Path(name).suffix
            if suffix.lower() in suffixes and not find_spec(module):
                raise ImageError(f"{error}; {suffix} files need pip install {packages}") from None
        raise
