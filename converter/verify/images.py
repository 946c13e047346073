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
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.runtime import one_line

pyvips.block_untrusted_set(True)

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}

Pixels = NDArray[Any]
"""(height, width, channels), as a network takes them before preprocessing."""


@dataclass(frozen=True)
class SampleImage:
    """An image to measure on: its (height, width) in pixels, and what reads some rows and columns of it."""

    size: tuple[int, int]
    read: Callable[[slice, slice], Pixels]


def given_images(folder: Path, channels: int, window: tuple[int, int]) -> tuple[list[SampleImage], int]:
    """Returns the images of a folder that hold a window (height, width), and how many are smaller.

    Raises SourceError if an image cannot be read or none holds a window.
    """
    files = image_files(folder)
    images = [_sample_image(file, channels) for file in files]
    usable = [image for image in images if holds(image, window)]
    if not usable:
        raise SourceError(
            f"images: {folder}: expected an image of at least {window[1]}×{window[0]} pixels, the window's size, got "
            f"{len(images)} smaller ones; none is enlarged: give larger images, or leave --images out"
        )
    return usable, len(images) - len(usable)


def synthetic_images(
    size: tuple[int, int], channels: int, window: tuple[int, int], count: int, rng: np.random.Generator
) -> Iterator[SampleImage]:
    """Yield scikit-learn's photographs that hold a window, if it is installed, and noise of a size, `count` images."""
    if channels in (1, 3):
        yield from (image for file in photographs() if holds(image := _sample_image(file, channels), window))
    for _ in range(count):
        pixels = _noise(size, channels, rng)
        yield SampleImage(size, lambda rows, cols, pixels=pixels: pixels[rows, cols])  # type: ignore[misc]


def holds(image: SampleImage, window: tuple[int, int]) -> bool:
    """Whether an image is at least as large as a window (height, width)."""
    return all(own >= needed for own, needed in zip(image.size, window, strict=True))


def sample_images(
    size: tuple[int, int], channels: int, folder: Path | None, rng: np.random.Generator
) -> Iterator[Pixels]:
    """Yield images of one size without end, each (height, width, channels).

    Cuttings of a folder's images; without one, noise and, where scikit-learn is installed, its two photographs in turn.
    """
    files = image_files(folder) if folder else photographs() if channels in (1, 3) else []
    while True:
        for file in rng.permutation(np.array(files, object)) if folder else files:
            yield _cutting(_sample_image(file, channels), size, rng)
            if not folder:
                yield _noise(size, channels, rng)
        if not files:
            yield _noise(size, channels, rng)


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
        raise SourceError(f"images: {folder}: expected JPEG, PNG, WebP or TIFF files, got none")
    return files


def _sample_image(file: Path, channels: int) -> SampleImage:
    """An image file, of which no pixel is decoded before it is read."""
    whole = _read(file, channels, lambda image: (image.height, image.width))
    size: tuple[int, int] = whole

    def read(rows: slice, cols: slice) -> Pixels:
        height, width = rows.stop - rows.start, cols.stop - cols.start
        pixels: Pixels = _read(file, channels, lambda image: image.crop(cols.start, rows.start, width, height).numpy())
        return pixels.reshape(height, width, -1)[..., :channels]

    return SampleImage(size, read)


def _read(file: Path, channels: int, take: Callable[[pyvips.Image], Any]) -> Any:  # noqa: ANN401 (what `take` returns)
    """What is wanted of an image file; raises SourceError."""
    if channels not in (1, 3):
        raise SourceError(f"images: expected a network of 1 or 3 channels, got {channels}; leave --images out")
    try:
        with file.open("rb") as opened:
            source = pyvips.Source.new_from_descriptor(opened.fileno())
        image = pyvips.Image.new_from_source(source, "", fail_on="error").autorot()
        image = image.colourspace("srgb" if channels == 3 else "b-w")
        image = image.flatten(background=255) if image.hasalpha() else image
        return take(image.cast("uchar"))
    except (OSError, pyvips.Error) as error:
        raise SourceError(f"images: {file}: cannot be read: {one_line(error)}") from None


def _cutting(image: SampleImage, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """A random part of an image; what an image is smaller, the part goes on as its mirror image."""
    taken = [min(own, wanted) for own, wanted in zip(image.size, size, strict=True)]
    starts = [int(rng.integers(own - part + 1)) for own, part in zip(image.size, taken, strict=True)]
    rows, cols = (slice(start, start + part) for start, part in zip(starts, taken, strict=True))
    missing = [(0, wanted - part) for wanted, part in zip(size, taken, strict=True)]
    return np.pad(image.read(rows, cols), [*missing, (0, 0)], mode="symmetric")


def _noise(size: tuple[int, int], channels: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noise whose amplitude falls with the frequency, as in photographs; the channels mostly agree, as there."""
    common = _pink(size, rng)[..., None]
    own = np.stack([_pink(size, rng) for _ in range(channels)], axis=-1)
    values = 128 + 55 * (common + 0.3 * own)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _pink(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """1/f noise with mean 0 and standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(size)) / frequency
    noise: NDArray[np.float64] = np.fft.irfft2(spectrum, size)
    noise /= noise.std()
    return noise
