"""Masks whose size differs from the image's, as tissue segmentation tools write them."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support.paths import ROOT
from support.pictures import noise, png
from support.scoring import plan_image

from fullconv.protos import scoring_pb2
from service.errors import ImageError
from service.images.encoded import open_bytes
from service.scoring.scorer import Scorer

IMAGE = png(noise(240, 320, 1))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(ROOT / "models")


def grid(scorer: Scorer, mask: np.ndarray) -> np.ndarray:
    """Return whether each window of the image is scored."""
    options = scoring_pb2.ScoreOptions(grid=True, stride=16, mask_image=scoring_pb2.Image(encoded=png(mask)))
    run = plan_image(scorer, open_bytes(IMAGE, name="i"), scoring_pb2.ScoreRequest(model="digits", options=options))
    scored: np.ndarray = np.isfinite(np.concatenate([rows.scores for rows in run.rows()])[..., 0])
    return scored


@pytest.mark.parametrize("factor", [2, 8, 20])
def test_a_smaller_mask_is_enlarged(scorer: Scorer, factor: int) -> None:
    """Each pixel of a smaller mask stands for a block of the image's pixels."""
    small = np.full((240 // factor, 320 // factor), 255, np.uint8)
    small[: len(small) // 4] = small[:, small.shape[1] // 2] = 0
    scored = grid(scorer, small)
    assert_array_equal(scored, grid(scorer, small.repeat(factor, 0).repeat(factor, 1)))
    assert 0 < scored.sum() < scored.size


def test_all_pixels_of_a_larger_mask_count(scorer: Scorer) -> None:
    """In a mask three times the image's size, a single pixel of 0 excludes the windows that contain it."""
    large = np.full((720, 960), 255, np.uint8)
    large[300, 450] = 0
    single = np.full((240, 320), 255, np.uint8)
    single[100, 150] = 0
    assert_array_equal(grid(scorer, large), grid(scorer, single))


@pytest.mark.parametrize("size", [(79, 107), (80, 107), (27, 35), (241, 320), (1440, 1906)], ids=str)
def test_rounded_mask_sizes_are_accepted(scorer: Scorer, size: tuple[int, int]) -> None:
    """A mask is accepted if each side is the scaled side of the image, rounded up or down, or nearly so."""
    assert grid(scorer, np.full(size, 255, np.uint8)).all()


@pytest.mark.parametrize("size", [(320, 240), (240, 300), (80, 100), (60, 90), (1440, 1890)], ids=str)
def test_other_ratios_are_refused(scorer: Scorer, size: tuple[int, int]) -> None:
    """A mask of another aspect ratio is refused."""
    with pytest.raises(
        ImageError, match=r"mask: expected the image's size, 240×320 pixels \(height×width\), or another size"
    ):
        grid(scorer, np.full(size, 255, np.uint8))
