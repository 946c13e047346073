"""Masks: which windows they select, alone and with regions, flips and scales."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.pictures import noise, png
from support.views import ROUNDING, Models, inside, make_models, stitched

from fullconv.protos import scoring_pb2
from service.errors import ImageError
from service.scoring.execution import Execution


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return an unpadded and a padded network."""
    return make_models(tmp_path_factory.mktemp("views"))


@pytest.mark.parametrize("budget", [1, 2 << 30], ids=["smallest", "ample"])
@pytest.mark.parametrize("border", ["BORDER_LATTICE", "BORDER_ANCHOR"])
@pytest.mark.parametrize("name", ["unpadded", "padded"])
def test_masks_choose_the_windows_inside(models: Models, name: str, border: str, budget: int) -> None:
    """Windows outside are NaN and not averaged, and tiles without a window inside the mask do not run."""
    mask = np.zeros((121, 147), np.uint8)
    mask[3:60, 5:70], mask[70:, 90:] = 1, 255
    whole = models.grid(name, border=border)
    run = models.run(name, border=border, budget=budget, mask_image=scoring_pb2.Image(encoded=png(mask)))
    ran: list[int] = []
    run.execution = Execution(run.planned, progress=lambda done, _: ran.append(done))
    grid, info = stitched(run), run.response.grid
    tops = [*range(0, info.last_y, info.stride.height), info.last_y]
    lefts = [*range(0, info.last_x, info.stride.width), info.last_x]
    wanted = inside(mask, tops, lefts, (info.window.height, info.window.width))
    assert 0 < wanted.sum() < wanted.size
    assert_array_equal(~wanted, np.isnan(grid).all(-1))
    assert_allclose(grid[wanted], whole[wanted], **ROUNDING)
    response = run.answer()
    assert response.scored_cells == wanted.sum()
    assert_allclose(response.average.values, whole[wanted].mean(0), rtol=1e-4, atol=1e-6)
    assert ran[-1] == run.plan.tile_count


def test_masked_tiles_are_not_run(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask over a corner leaves out the tiles of all other corners."""
    mask = np.zeros((121, 147), np.uint8)
    mask[:40, :40] = 1
    run = models.run("unpadded", budget=1, mask_image=scoring_pb2.Image(encoded=png(mask)))
    tiles, compute = [], run.session.score

    def score(pixels: list[np.ndarray]) -> np.ndarray:
        tiles.extend(pixels)
        return compute(pixels)

    monkeypatch.setattr(run.session, "score", score)
    grid = stitched(run)
    assert len(tiles) == np.isfinite(grid[..., 0]).sum() == 5 * 4


def test_otsu_leaves_out_background(models: Models) -> None:
    """Windows that are wholly background are not scored, for light and dark backgrounds; all others are scored."""
    for background, foreground in ((250, 60), (5, 200)):
        image = np.full((400, 400, 3), background, np.uint8)
        image[100:180, 200:300] = foreground
        run = models.run("unpadded", image, mask_otsu=True)
        scored = np.isfinite(stitched(run)).all(-1)
        touching = np.zeros_like(scored)
        for row, col in np.ndindex(*touching.shape):
            touching[row, col] = (image[4 * row : 4 * row + 22, 4 * col : 4 * col + 26] == foreground).any()
        assert_array_equal(touching, scored)


def test_masks_regions_and_flips_at_a_scale(models: Models) -> None:
    """Windows of a scaled image are inside a mask if their pixels in the original image are inside."""
    mask = np.zeros((121, 147), np.uint8)
    mask[:, :80] = 1
    scale = scoring_pb2.Scale(factor=2)
    region = scoring_pb2.Region(x=0, y=20, width=147, height=101)
    options: dict[str, Any] = {"scales": [scale], "flip": True, "region": region}
    whole = models.run("unpadded", **options)
    plain = stitched(whole)
    run = models.run("unpadded", mask_image=scoring_pb2.Image(encoded=png(mask)), **options)
    grid, info = stitched(run), run.response.grid
    assert (info.origin_y, info.origin_x) == (40, 0)
    wanted = [np.rint((4 * col + 26) / 2) <= 80 for col in range(info.cols)]
    assert_array_equal(np.isfinite(grid[..., 0]), np.broadcast_to(wanted, grid.shape[:2]))
    assert_allclose(grid[:, wanted], plain[:, wanted], **ROUNDING)
    assert_allclose(run.answer().average.values, plain[:, wanted].mean((0, 1)), rtol=1e-4, atol=1e-6)


def test_masks_without_a_window_are_refused(models: Models) -> None:
    """A mask without a window inside is refused, because the average would be NaN."""
    run = models.run("padded", mask_image=scoring_pb2.Image(encoded=png(np.zeros((121, 147), np.uint8))))
    assert np.isnan(stitched(run)).all()
    with pytest.raises(ImageError, match="mask: expected at least one window to score, got none"):
        run.answer()
    with pytest.raises(
        ImageError, match="expected a foreground by Otsu's threshold, got an image of uniform brightness"
    ):
        stitched(models.run("padded", np.full((121, 147, 3), 9, np.uint8), mask_otsu=True))


def test_tiny_windows_of_a_scaled_image_are_masked(models: Models) -> None:
    """A window that covers less than a pixel of the original image is inside if that pixel is inside."""
    image, mask = noise(40, 40, 3), np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 1
    scales = [scoring_pb2.Scale(factor=60)]
    options = {"scales": scales, "stride": 48, "region": scoring_pb2.Region(x=18, y=0, width=4, height=2)}
    grid = models.grid("padded", image, mask_image=scoring_pb2.Image(encoded=png(mask)), **options)
    assert np.isnan(grid[:, 0]).all()
    assert np.isfinite(grid[:, -1]).all()
