"""Otsu's threshold, compared with that of scikit-image."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from service.images.otsu import otsu_threshold


def groups(seed: int, share: float) -> NDArray[np.float32]:
    """Return an image of two groups of tones that overlap; `share` of the pixels are dark."""
    rng = np.random.default_rng(seed)
    dark = rng.random((180, 256)) < share
    tones = np.where(dark, rng.normal(70, 30, dark.shape), rng.normal(170, 30, dark.shape))
    return np.round(tones.clip(0, 255)).astype(np.float32)


IMAGES = {
    "two groups": groups(1, 0.5),
    "few dark pixels": groups(2, 0.03),
    "thirds of tones": groups(3, 0.3) / np.float32(3),
    "uint16": groups(4, 0.4) * np.float32(257),
    "negative": groups(5, 0.6) - np.float32(128),
    "noise": np.random.default_rng(6).random((90, 70), np.float32),
    "two tones": np.tile(np.array([5, 200], np.float32), (20, 1)),
    "one tone": np.full((3, 4), 9, np.float32),
    "one pixel": np.full((1, 1), 3, np.float32),
}


@pytest.mark.parametrize("grey", IMAGES.values(), ids=IMAGES)
def test_the_threshold_is_that_of_scikit_image(grey: NDArray[np.float32]) -> None:
    """The threshold is the same number, and divides the pixels into the same groups."""
    expected = threshold_otsu(grey)
    assert otsu_threshold(grey) == expected
    assert_array_equal(grey > otsu_threshold(grey), grey > expected)


def test_the_threshold_of_a_known_histogram() -> None:
    """Of two equal groups of tones, 0 and 255, the threshold is the middle of the lowest tone of the histogram."""
    assert otsu_threshold(np.array([[0, 255], [255, 0]], np.float32)) == 255 / 256 / 2
