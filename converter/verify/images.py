"""Images to measure on: the user's own, or noise with the spectrum of natural images and what photographs there are."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.runtime import one_line

pyvips.block_untrusted_set(True)

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}


def sample_images(
    size: tuple[int, int], channels: int, folder: Path | None, rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """Yield images without end, each (height, width, channels) uint8.

    Cuttings of a folder's images; without one, noise and, where scikit-learn is installed, its two photographs in turn.
    """
    if folder and channels not in (1, 3):
        raise SourceError(f"images: expected a network of 1 or 3 channels, got {channels}; leave --images out")
    files = image_files(folder) if folder else photographs() if channels in (1, 3) else []
    while True:
        for file in rng.permutation(np.array(files, object)) if folder else files:
            yield _cutting(file, size, channels, rng)
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


def _cutting(file: Path, size: tuple[int, int], channels: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random part of an image, which is enlarged first if it is too small."""
    height, width = size
    try:
        with file.open("rb") as opened:
            source = pyvips.Source.new_from_descriptor(opened.fileno())
        image = pyvips.Image.new_from_source(source, "", fail_on="error").autorot()
        image = image.colourspace("srgb" if channels == 3 else "b-w")
        image = image.flatten(background=255) if image.hasalpha() else image
        scale = max(1.0, height / image.height, width / image.width)
        image = image.resize(scale) if scale > 1 else image
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        pixels: NDArray[np.uint8] = image.crop(left, top, width, height).cast("uchar").numpy()
    except (OSError, pyvips.Error) as error:
        raise SourceError(f"images: {file}: cannot be read: {one_line(error)}") from None
    return pixels.reshape(height, width, -1)[..., :channels]


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
