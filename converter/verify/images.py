"""Images to measure on: the user's own, or noise with the spectrum of natural images and what photographs there are.

The user's images are measured at their own size: none is ever enlarged. What needs images of a certain size, as a check
that a network was converted rightly does, gets cuttings, mirrored at their edges where an image is smaller.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import tifffile
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.messages import one_line
from converter.preprocessing import Preprocessing

pyvips.block_untrusted_set(True)

LUMA = [[0.299, 0.587, 0.114]]
"""ITU-R BT.601, as models of one channel are served."""
YCBCR = 6
TYPES = {"uchar": "uint8", "ushort": "uint16"}
"""libvips's names of element types."""
SUFFIXES = {".jpg", ".jpeg", ".npy", ".png", ".webp", ".tif", ".tiff"}

Pixels = NDArray[Any]
"""(height, width, channels), as a network takes them before preprocessing."""


@dataclass(frozen=True)
class Wanted:
    """What a network takes: its channels, and what its preprocessing starts from; None: pixels from 0 to 255."""

    channels: int
    preprocessing: Preprocessing | None = None

    @property
    def dtype(self) -> str:
        """Element type of the pixels, "uint8", or of an image's own values, "uint16" or "float32"."""
        return self.preprocessing.dtype if self.preprocessing else "uint8"

    @property
    def photographic(self) -> bool:
        """Whether a photograph is an image for it."""
        return self.channels in (1, 3) and self.dtype == "uint8"


@dataclass(frozen=True)
class SampleImage:
    """An image to measure on: its (height, width) in pixels, and what reads some rows and columns of it."""

    size: tuple[int, int]
    read: Callable[[slice, slice], Pixels]


def given_images(folder: Path, wanted: Wanted, window: tuple[int, int]) -> tuple[list[SampleImage], int]:
    """Returns the images of a folder that hold a window (height, width), and how many are smaller.

    Raises SourceError if an image cannot be read or none holds a window.
    """
    files = image_files(folder)
    images = [_sample_image(file, wanted) for file in files]
    usable = [image for image in images if holds(image, window)]
    if not usable:
        raise SourceError(
            f"images: {folder}: expected an image of at least {window[1]}×{window[0]} pixels, the window's size, got "
            f"{len(images)} smaller ones; none is enlarged: give larger images, or leave --images out"
        )
    return usable, len(images) - len(usable)


def synthetic_images(
    size: tuple[int, int], wanted: Wanted, window: tuple[int, int], count: int, rng: np.random.Generator
) -> Iterator[SampleImage]:
    """Yield scikit-learn's photographs that hold a window, if it is installed, and noise of a size, `count` images."""
    if wanted.photographic:
        yield from (image for file in photographs() if holds(image := _sample_image(file, wanted), window))
    for _ in range(count):
        pixels = _noise(size, wanted, rng)
        yield SampleImage(size, lambda rows, cols, pixels=pixels: pixels[rows, cols])  # type: ignore[misc]


def holds(image: SampleImage, window: tuple[int, int]) -> bool:
    """Whether an image is at least as large as a window (height, width)."""
    return all(own >= needed for own, needed in zip(image.size, window, strict=True))


def sample_images(
    size: tuple[int, int], wanted: Wanted, folder: Path | None, rng: np.random.Generator
) -> Iterator[Pixels]:
    """Yield images of one size without end, each (height, width, channels).

    Cuttings of a folder's images; without one, noise and, where scikit-learn is installed, its two photographs in turn.
    """
    files = image_files(folder) if folder else photographs() if wanted.photographic else []
    while True:
        for file in rng.permutation(np.array(files, object)) if folder else files:
            yield _cutting(_sample_image(file, wanted), size, rng)
            if not folder:
                yield _noise(size, wanted, rng)
        if not files:
            yield _noise(size, wanted, rng)


def photographs() -> list[Path]:
    """The two that scikit-learn carries, if it is installed; it need not be."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        return []
    return sorted((Path(found.origin).parent / "datasets" / "images").glob("*.jpg"))


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted; raises SourceError if there are none."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise SourceError(f"images: {folder}: {error.strerror}; name a folder of images") from None
    if not files:
        raise SourceError(f"images: {folder}: expected JPEG, PNG, WebP, TIFF or .npy files, got none")
    return files


def _sample_image(file: Path, wanted: Wanted) -> SampleImage:
    """An image file, of which no pixel is decoded before it is read; raises SourceError."""
    if file.suffix.lower() == ".npy":
        return _array_image(file, wanted)
    size: tuple[int, int] = _read(file, wanted, lambda image: (image.height, image.width))

    def read(rows: slice, cols: slice) -> Pixels:
        height, width = rows.stop - rows.start, cols.stop - cols.start
        pixels: Pixels = _read(file, wanted, lambda image: image.crop(cols.start, rows.start, width, height).numpy())
        return pixels.reshape(height, width, -1)[..., : wanted.channels].astype(wanted.dtype, copy=False)

    return SampleImage(size, read)


def _array_image(file: Path, wanted: Wanted) -> SampleImage:
    """An array (height, width[, channels]) in a file, which is mapped; raises SourceError."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"images: {file}: cannot be read: {one_line(error)}") from None
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise SourceError(f"images: {file}: expected (height, width[, channels]), got {array.shape}")
    _check_values(file, wanted, pixels.shape[2], pixels.dtype.name)
    return SampleImage(pixels.shape[:2], lambda rows, cols: np.asarray(pixels[rows, cols], wanted.dtype))


def _check_values(file: Path, wanted: Wanted, bands: int, dtype: str) -> None:
    """Raise SourceError unless bands of a type are values that the network takes, without a change."""
    types = {"uint8": ("uint8",), "uint16": ("uint8", "uint16")}.get(wanted.dtype)
    if bands != wanted.channels or (types and dtype not in types):
        expected = f"{wanted.channels} bands of {' or '.join(types) if types else 'numbers'}"
        raise SourceError(f"images: {file}: expected {expected}, which the network takes, got {bands} of {dtype}")


def _read(file: Path, wanted: Wanted, take: Callable[[pyvips.Image], Any]) -> Any:  # noqa: ANN401 (what `take` returns)
    """What is wanted of an image file; raises SourceError."""
    try:
        with file.open("rb") as opened:
            source = pyvips.Source.new_from_descriptor(opened.fileno())
        tiff = file.suffix.lower() in (".tif", ".tiff")
        image = pyvips.Image.new_from_source(source, "", fail_on="warning" if tiff else "error").autorot()
        if wanted.photographic:
            if tiff:
                _check_tiff(file, image)
            return take(_photograph(file, image, wanted.channels))
        _check_values(file, wanted, image.bands, TYPES.get(image.format, image.format))
        return take(image)
    except (OSError, pyvips.Error) as error:
        raise SourceError(f"images: {file}: cannot be read: {one_line(error)}") from None


def _check_tiff(file: Path, image: pyvips.Image) -> None:
    """Raise SourceError for a TIFF file whose first page libvips gives other colours or another alpha than it has."""
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        jpeg, alpha = (
            page.compression == tifffile.COMPRESSION.JPEG,
            [int(extra) in (1, 2) for extra in page.extrasamples],
        )
        known = int(page.photometric) in (0, 1, 2, 3, 5) or (int(page.photometric) == YCBCR and jpeg)
    if page.subfiletype or not known or (image.bands in (2, 4) and image.interpretation != "cmyk" and not any(alpha)):
        raise SourceError(
            f"images: {file}: expected grey, RGB, CMYK or a palette, and alpha only where ExtraSamples says so, got "
            f"another kind: save it as RGB or grey"
        )


def _photograph(file: Path, image: pyvips.Image, channels: int) -> pyvips.Image:
    """An image as 8-bit grey, by its luma, or RGB, over white where it is transparent."""
    if image.format not in TYPES:
        raise SourceError(f"images: {file}: expected 8 or 16 bits unsigned per channel, got {image.format}")
    image = image.colourspace("srgb")
    image = image.flatten(background=255) if image.hasalpha() else image
    if channels == 1 and image.bands == 3:
        image = image.recomb(LUMA).rint()
    return image.cast("uchar")


def _cutting(image: SampleImage, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """A random part of an image; what an image is smaller, the part goes on as its mirror image."""
    taken = [min(own, wanted) for own, wanted in zip(image.size, size, strict=True)]
    starts = [int(rng.integers(own - part + 1)) for own, part in zip(image.size, taken, strict=True)]
    rows, cols = (slice(start, start + part) for start, part in zip(starts, taken, strict=True))
    missing = [(0, wanted - part) for wanted, part in zip(size, taken, strict=True)]
    return np.pad(image.read(rows, cols), [*missing, (0, 0)], mode="symmetric")


def _noise(size: tuple[int, int], wanted: Wanted, rng: np.random.Generator) -> Pixels:
    """Noise whose amplitude falls with the frequency, as in photographs; the channels mostly agree, as there.

    Of an image's own values it has those that preprocessing brings to where networks are trained: mean 0 and deviation
    1, or without a mean 0 to 1.
    """
    common = _pink(size, rng)[..., None]
    own = np.stack([_pink(size, rng) for _ in range(wanted.channels)], axis=-1)
    deviations, pixels = common + 0.3 * own, np.clip(np.rint(128 + 55 * (common + 0.3 * own)), 0, 255)
    if wanted.preprocessing is None or wanted.dtype == "uint8":
        return pixels.astype(np.uint8)
    factor, offset = wanted.preprocessing.affine(wanted.channels)
    values = ((deviations if wanted.preprocessing.mean else pixels / 255) - offset) / factor
    return (np.clip(np.rint(values), 0, 65535) if wanted.dtype == "uint16" else values).astype(wanted.dtype)


def _pink(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """1/f noise with mean 0 and standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(size)) / frequency
    noise: NDArray[np.float64] = np.fft.irfft2(spectrum, size)
    noise /= noise.std()
    return noise
