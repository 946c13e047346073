"""The image as a pyramid of tiles (Deep Zoom): inside the page if it is small, otherwise in a folder beside the page.

The folder OUT_files holds image.dzi and image_files/LEVEL/X_Y.jpg, which other viewers of Deep Zoom open too.
"""

import io
import os
import zipfile
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from fullconv.common.files import OutputError, atomic_folder, errors_of, spool_file
from fullconv.common.libvips import pyvips, reason_of
from fullconv.common.temporary import remove
from fullconv.errors import ImageError
from fullconv.grid import ImageInfo
from fullconv.images import Region, ScoredPixels
from fullconv.page.picture import colour_picture

INLINE_PIXELS = 1 << 22
"""Largest number of pixels of an image that is inside the page."""
NAME = "image"
FORMAT: dict[str, Any] = {"suffix": ".jpg[Q=80]", "tile_size": 510, "overlap": 1, "keep": "none"}


@dataclass(frozen=True)
class Tiles:
    """A pyramid of tiles; its last level has the full resolution."""

    width: int
    height: int
    folder: str = ""
    """The address of the tiles relative to the page; empty if the page has them."""
    inside: Mapping[str, str] = field(default_factory=dict)
    """The address of each tile LEVEL/X_Y that is inside the page."""

    def document(self) -> dict[str, Any]:
        """Return what the page needs to know about the tiles."""
        return {
            "width": self.width,
            "height": self.height,
            "size": FORMAT["tile_size"],
            "overlap": FORMAT["overlap"],
            "folder": self.folder,
        }


def folder_beside(page: Path) -> Path:
    """Return the folder of a page's tiles."""
    return page.with_name(f"{page.stem}_files")


def check_folder(page: Path, region: Region) -> None:
    """Raise OutputError if the region needs a folder of tiles whose name something else has, or if it is unreadable."""
    folder = folder_beside(page)
    with errors_of(page):
        is_taken = (folder.exists() or folder.is_symlink()) and not _is_page_folder(folder)
    if is_taken and region.width * region.height > INLINE_PIXELS:
        raise OutputError(
            f"{page}: cannot be written: expected {folder.name} to be absent or the folder of an earlier page, got "
            "something else; choose another name"
        )


def remove_folder(page: Path) -> None:
    """Remove the folder of tiles of an earlier page, if there is one."""
    folder = folder_beside(page)
    if not folder.is_symlink() and _is_page_folder(folder):
        remove(folder)


def _is_page_folder(folder: Path) -> bool:
    """Return whether a folder holds nothing but what a page has beside it."""
    return folder.is_dir() and {path.name for path in folder.iterdir()} == {f"{NAME}.dzi", f"{NAME}_files"}


@contextmanager
def tiles_of(page: Path, pixels: ScoredPixels, image: ImageInfo) -> Iterator[Tiles | ImageError]:
    """Yield the tiles of an image, or the error if it cannot be read again; a folder appears when the block ends.

    Raises OutputError if the tiles cannot be written.
    """
    with ExitStack() as stack:
        spool = stack.enter_context(spool_file(page))
        try:
            picture = colour_picture(pixels, image, spool)
            is_small = picture.width * picture.height <= INLINE_PIXELS
            tiles = _inside(picture) if is_small else stack.enter_context(_beside(page, picture))
        except ImageError as error:
            yield error
        except pyvips.Error as error:
            if _is_readable(pixels, image, spool):
                raise OutputError(f"{page}: its tiles cannot be written: {reason_of(error)}") from None
            yield ImageError(f"{pixels.source.name or 'image'}: cannot be read again")
        else:
            yield tiles


def _inside(picture: pyvips.Image) -> Tiles:
    """Return tiles that are inside the page."""
    data = picture.dzsave_buffer(basename=NAME, **FORMAT)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        tiles = {
            name.removeprefix(f"{NAME}_files/").removesuffix(".jpg"): b64encode(archive.read(name)).decode()
            for name in archive.namelist()
            if name.endswith(".jpg")
        }
    addresses = {name: f"data:image/jpeg;base64,{tile}" for name, tile in tiles.items()}
    return Tiles(picture.width, picture.height, inside=addresses)


@contextmanager
def _beside(page: Path, picture: pyvips.Image) -> Iterator[Tiles]:
    """Write tiles into the folder beside the page, which appears when the block ends."""
    target = folder_beside(page)
    with atomic_folder(target) as folder:
        picture.dzsave(str(folder / NAME), **FORMAT)
        tiles = folder / f"{NAME}_files"
        (tiles / "vips-properties.xml").unlink(missing_ok=True)  # metadata of the image, which no viewer needs
        yield Tiles(picture.width, picture.height, quote(os.fsencode(f"{target.name}/{tiles.name}")))


def _is_readable(pixels: ScoredPixels, image: ImageInfo, spool: IO[bytes]) -> bool:
    """Return whether all pixels of an image can be read, so that an error came from writing."""
    try:
        colour_picture(pixels, image, spool).avg()
    except (ImageError, pyvips.Error):
        return False
    return True
