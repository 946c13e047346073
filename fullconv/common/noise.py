"""Images of noise with the spectrum of photographs, on which the scores of networks are compared."""

import numpy as np
from numpy.typing import NDArray

from fullconv.protos import model_pb2

OWN_SHARE = 0.3
"""Amplitude of the noise of each channel, relative to the noise that all channels share."""
MEAN, DEVIATION = 128, 55
"""Mean and standard deviation of pixels from 0 to 255."""


def noise_image(
    size: tuple[int, int], channels: int, preprocessing: model_pb2.Preprocessing | None, rng: np.random.Generator
) -> NDArray[np.generic]:
    """Return noise whose amplitude falls with the frequency and whose channels mostly agree, as in photographs.

    `size` is (height, width) in pixels; the result is (height, width, channels), of uint8 without preprocessing, else
    of `preprocessing.dtype`. For an image's own values, the noise has mean 0 and standard deviation 1 after
    preprocessing or, if the preprocessing has no mean, the range from 0 to 1.
    """
    common = _pink(size, rng)[..., None]
    own = np.stack([_pink(size, rng) for _ in range(channels)], axis=-1)
    deviations = common + OWN_SHARE * own
    pixels = np.clip(np.rint(MEAN + DEVIATION * deviations), 0, 255)
    if preprocessing is None or preprocessing.dtype in ("", "uint8"):
        return pixels.astype(np.uint8)
    std = np.asarray(preprocessing.std or 1.0)
    factor = (preprocessing.scale / std).astype(np.float32)
    offset = (-np.asarray(preprocessing.mean or 0.0) / std).astype(np.float32)
    values = ((deviations if preprocessing.mean else pixels / 255) - offset) / factor
    values = np.clip(np.rint(values), 0, 65535) if preprocessing.dtype == "uint16" else values
    own_values: NDArray[np.generic] = values.astype(preprocessing.dtype)
    return own_values


def _pink(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return 1/f noise with mean 0 and standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(size)) / frequency
    noise: NDArray[np.float64] = np.fft.irfft2(spectrum, size)
    noise /= noise.std()
    return noise
