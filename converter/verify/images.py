"""Images for measurements: those of files, noise with the spectrum of photographs, scikit-learn's two photographs.

The user's images are measured at their own size; no image is enlarged. Checks and calibration need images of a given
size: they get random crops, which their mirror image continues where an image is smaller.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tifffile
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.messages import one_line
from converter.preprocessing import Preprocessing
from fullconv.common import noise
from fullconv.common.libvips import pyvips

LUMA = [[0.299, 0.587, 0.114]]
"""Weights of red, green and blue by ITU-R BT.601, as the service computes grey for models of one channel."""
YCBCR = 6
"""The value of PhotometricInterpretation in a TIFF file of luma and chroma."""
TYPES = {"uchar": "uint8", "ushort": "uint16"}
"""libvips's names of element types, and numpy's."""
SUFFIXES = {".jpg", ".jpeg", ".npy", ".png", ".webp", ".tif", ".tiff"}

Result = TypeVar("Result")
Pixels = NDArray[Any]
"""Pixels (height, width, channels), as a network takes them before preprocessing."""


@dataclass(frozen=True)
class PixelFormat:
    """The pixels that a network takes: their channels, and the preprocessing; None stands for pixels from 0 to 255."""

    channels: int
    preprocessing: Preprocessing | None = None

    @property
    def dtype(self) -> str:
        """The element type: "uint8" for pixels, "uint16" or "float32" for an image's own values."""
        return self.preprocessing.dtype if self.preprocessing else "uint8"

    @property
    def photographic(self) -> bool:
        """Whether photographs have such pixels."""
        return self.channels in (1, 3) and self.dtype == "uint8"


@dataclass(frozen=True)
class SampleImage:
    """An image for measurements: its `size` (height, width) in pixels, and the function that reads its pixels."""

    size: tuple[int, int]
    read: Callable[[slice, slice], Pixels]


def synthetic_images(
    size: tuple[int, int], pixel_format: PixelFormat, window: tuple[int, int], count: int, rng: np.random.Generator
) -> Iterator[SampleImage]:
    """Yield scikit-learn's photographs that hold a window, if it is installed, then `count` images of noise."""
    if pixel_format.photographic:
        images = (sample_image(file, pixel_format) for file in photographs())
        yield from (image for image in images if holds_window(image, window))
    for _ in range(count):
        yield noise_image(size, pixel_format, rng)


def noise_image(size: tuple[int, int], pixel_format: PixelFormat, rng: np.random.Generator) -> SampleImage:
    """Return an image of noise; `size` is (height, width)."""
    pixels = _noise(size, pixel_format, rng)
    return SampleImage(size, lambda rows, cols: pixels[rows, cols])


def holds_window(image: SampleImage, window: tuple[int, int]) -> bool:
    """Return whether an image is at least as large as a window (height, width)."""
    return all(own >= needed for own, needed in zip(image.size, window, strict=True))


def sample_images(
    size: tuple[int, int], pixel_format: PixelFormat, images: Sequence[SampleImage] | None, rng: np.random.Generator
) -> Iterator[Pixels]:
    """Yield images of one size without end, each (height, width, channels).

    They are random crops of the given images; without given images they are noise, alternating with crops of
    scikit-learn's two photographs if it is installed.
    """
    given = [] if images is not None or not pixel_format.photographic else photographs()
    known = images if images is not None else [sample_image(file, pixel_format) for file in given]
    while True:
        for number in range(len(known)) if images is None else rng.permutation(len(known)):
            yield _random_crop(known[number], size, rng)
            if images is None:
                yield _noise(size, pixel_format, rng)
        if not known:
            yield _noise(size, pixel_format, rng)


def photographs() -> list[Path]:
    """Return the two photographs that scikit-learn contains; an empty list if it is not installed."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        return []
    return sorted((Path(found.origin).parent / "datasets" / "images").glob("*.jpg"))


def image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted; raises SourceError for a folder without images."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise SourceError(f"images: {folder}: {error.strerror}; name a folder of images") from None
    if not files:
        raise SourceError(f"images: {folder}: expected JPEG, PNG, WebP, TIFF or .npy files, got none")
    return files


def sample_image(file: Path, pixel_format: PixelFormat) -> SampleImage:
    """Return an image file, whose pixels are decoded when they are read; raises SourceError, and so does reading."""
    if file.suffix.lower() == ".npy":
        return _array_image(file, pixel_format)
    size = _read(file, pixel_format, lambda image: (image.height, image.width))

    def read(rows: slice, cols: slice) -> Pixels:
        height, width = rows.stop - rows.start, cols.stop - cols.start
        box = cols.start, rows.start, width, height
        pixels: Pixels = _read(file, pixel_format, lambda image: image.crop(*box).numpy())
        return pixels.reshape(height, width, -1)[..., : pixel_format.channels].astype(pixel_format.dtype, copy=False)

    return SampleImage(size, read)


def _array_image(file: Path, pixel_format: PixelFormat) -> SampleImage:
    """Return an array (height, width[, channels]) in a file, which is memory-mapped; raises SourceError."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python code, which may raise any error
        raise SourceError(f"images: {file}: cannot be read: {one_line(error)}") from None
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise SourceError(f"images: {file}: expected (height, width[, channels]), got {array.shape}")
    _check_values(file, pixel_format, pixels.shape[2], pixels.dtype.name)
    return SampleImage(pixels.shape[:2], lambda rows, cols: np.asarray(pixels[rows, cols], pixel_format.dtype))


def _check_values(file: Path, pixel_format: PixelFormat, bands: int, dtype: str) -> None:
    """Raise SourceError unless the network takes `bands` bands of that type without a conversion."""
    types = {"uint8": ("uint8",), "uint16": ("uint8", "uint16")}.get(pixel_format.dtype)
    if bands != pixel_format.channels or (types and dtype not in types):
        expected = f"{pixel_format.channels} bands of {' or '.join(types) if types else 'numbers'}"
        raise SourceError(f"images: {file}: expected {expected}, which the network takes, got {bands} of {dtype}")


def _read(file: Path, pixel_format: PixelFormat, take: Callable[[pyvips.Image], Result]) -> Result:
    """Open an image file and return the result of `take`; raises SourceError."""
    try:
        with file.open("rb") as opened:
            source = pyvips.Source.new_from_descriptor(opened.fileno())
        suffix = file.suffix.lower()
        tiff = suffix in (".tif", ".tiff")
        # of damaged pixels, the decoders of these formats only warn; warnings of the others are about metadata
        strict = tiff or suffix in (".jpg", ".jpeg")
        image = pyvips.Image.new_from_source(source, "", fail_on="warning" if strict else "error").autorot()
        if pixel_format.photographic:
            if tiff:
                _check_tiff(file, image)
            return take(_photograph(file, image, pixel_format.channels))
        _check_values(file, pixel_format, image.bands, TYPES.get(image.format, image.format))
        return take(image)
    except SourceError:
        raise
    except Exception as error:  # tifffile may raise any error for a damaged file
        raise SourceError(f"images: {file}: cannot be read: {one_line(error)}") from None


def _check_tiff(file: Path, image: pyvips.Image) -> None:
    """Raise SourceError for a TIFF file whose colours or alpha libvips would misread."""
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        jpeg, alpha = (
            page.compression == tifffile.COMPRESSION.JPEG,
            [int(extra) in (1, 2) for extra in page.extrasamples],
        )
        known = int(page.photometric) in (0, 1, 2, 3, 5) or (int(page.photometric) == YCBCR and jpeg)
    if page.subfiletype or not known or (image.bands in (2, 4) and image.interpretation != "cmyk" and not any(alpha)):
        raise SourceError(
            f"images: {file}: expected grey, RGB, CMYK or a palette, with alpha declared by ExtraSamples, got "
            f"another kind; save it as RGB or grey"
        )


def _photograph(file: Path, image: pyvips.Image, channels: int) -> pyvips.Image:
    """Return an image as 8-bit luma or RGB; transparent parts are laid over white."""
    if image.format not in TYPES:
        raise SourceError(f"images: {file}: expected unsigned values of 8 or 16 bits, got {image.format}")
    image = image.colourspace("srgb")
    image = image.flatten(background=255) if image.hasalpha() else image
    if channels == 1 and image.bands == 3:
        image = image.recomb(LUMA).rint()
    return image.cast("uchar")


def _random_crop(image: SampleImage, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Return a random part of an image, which its mirror image continues where the image is smaller."""
    taken = [min(own, needed) for own, needed in zip(image.size, size, strict=True)]
    starts = [int(rng.integers(own - part + 1)) for own, part in zip(image.size, taken, strict=True)]
    rows, cols = (slice(start, start + part) for start, part in zip(starts, taken, strict=True))
    missing = [(0, needed - part) for needed, part in zip(size, taken, strict=True)]
    return np.pad(image.read(rows, cols), [*missing, (0, 0)], mode="symmetric")


def _noise(size: tuple[int, int], pixel_format: PixelFormat, rng: np.random.Generator) -> Pixels:
    """Return noise with the spectrum of photographs in a network's pixels."""
    preprocessing = pixel_format.preprocessing
    return noise.noise_image(size, pixel_format.channels, preprocessing.message() if preprocessing else None, rng)
