"""Large images in sections: the division of the bands, and the merging to the same bytes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pictures import encode, noise, png
from support.scoring import Scoring, plan_image
from support.views import MODES, Models, make_models

from fullconv.protos import scoring_pb2
from service import encode as messages
from service.batch.section_file import section_bytes, section_of
from service.dense.axis import AxisGeometry, AxisLattice
from service.dense.tiles import Network, plan_tiles
from service.images.encoded import open_bytes
from service.limits import Tuning
from service.scoring import sections
from service.scoring.execution import Execution
from service.scoring.outcome import Scored, Timing
from service.scoring.plan import View
from service.scoring.planned import PlannedImage
from service.scoring.scorer import Scorer
from service.scoring.sections import MergedSections, SectionScores, divide, sections_of, why_whole

PIXELS = noise(700, 60, 3)
TILED = encode(PIXELS, ".tif", tile=True, tile_width=32, tile_height=16)
RING = [0.0, 10, 50, 20, 58, 410, 3, 600, 0, 10]
MASK = encode(np.pad(np.full((400, 50), 255, np.uint8), ((250, 50), (2, 8))), ".tif", tile=True)
OPTIONS: dict[str, dict[str, Any]] = {
    "dense": {},
    "crops": {"mode": MODES["crops"]},
    "finer stride": {"stride": 2},
    "coarser stride": {"stride": 8},
    "anchored windows": {"border": "BORDER_ANCHOR"},
    "flip": {"flip": True},
    "region": {"region": scoring_pb2.Region(x=5, y=75, width=50, height=590)},
    "smaller": {"scales": [scoring_pb2.Scale(factor=0.63)]},
    "larger": {"scales": [scoring_pb2.Scale(factor=1.37)]},
    "probabilities": {"average": "AVERAGE_OF_PROBABILITIES"},
    "highest classes": {"grid_as": "GRID_AS_TOP", "grid_top": 2},
    "half precision": {"grid_as": "GRID_AS_FLOAT16"},
    "no grid": {"grid": False},
    "mask": {"mask_image": scoring_pb2.Image(encoded=MASK)},
    "areas": {
        "mask_areas": scoring_pb2.Areas(
            polygons=[
                scoring_pb2.Polygon(name="left", rings=[scoring_pb2.Ring(coordinates=RING)]),
                scoring_pb2.Polygon(
                    name="top", rings=[scoring_pb2.Ring(coordinates=[0, 0, 60, 0, 60, 130, 0, 130, 0, 0])]
                ),
            ]
        )
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return an unpadded and a padded network."""
    return make_models(tmp_path_factory.mktemp("sections"))


def plan(models: Models, image: bytes = TILED, name: str = "padded", **options: Any) -> Scoring:
    """Plan an image in strips of 100 rows, and therefore in many bands."""
    request = scoring_pb2.ScoreRequest(model=name, options=scoring_pb2.ScoreOptions(**{"grid": True} | options))
    return plan_image(
        Scorer(models.folder, tuning=Tuning(strip_bytes=100 * 60 * 3)), open_bytes(image, name="i"), request
    )


def merged(planned: PlannedImage, ends: Sequence[int]) -> tuple[list[tuple[Any, ...]], bytes]:
    """Score sections that end at some bands, from the last to the first, and merge what their files hold."""
    files = []
    for bands in reversed([slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]):
        execution = Execution(planned, bands=bands)
        files.append(section_bytes(SectionScores.of(execution.rows(), execution)))
    return content(planned, MergedSections(planned, map(section_of, reversed(files))))


def content(planned: PlannedImage, execution: Execution | MergedSections) -> tuple[list[tuple[Any, ...]], bytes]:
    """Return the bytes of the rows of an execution, part by part, and those of its answer without the time."""
    rows = [
        (part.first, *(None if each is None else each.tobytes() for each in (part.scores, part.positions)))
        for part in execution.rows()
    ]
    result = replace(execution.result(), timing=Timing())
    return rows, messages.summary(Scored(planned, (), result)).SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("network", ["unpadded", "padded"])
def test_merged_sections_have_the_bytes_of_the_whole(models: Models, network: str, name: str) -> None:
    """Sections that are scored apart, in any order, give the same rows and averages, to the last bit."""
    planned = plan(models, name=network, **OPTIONS[name]).planned
    count = len(planned.plan.views[0].tile_plan.bands)
    assert count >= 4
    expected = content(planned, Execution(planned))
    assert merged(planned, range(1, count + 1)) == expected
    assert merged(planned, [2, 3, count]) == expected


def test_windows_outside_of_every_section_are_an_error(models: Models) -> None:
    """A mask without a window gives the same error after merging."""
    mask = scoring_pb2.Image(encoded=encode(np.zeros((700, 60), np.uint8), ".tif", tile=True))
    planned = plan(models, mask_image=mask).planned
    with pytest.raises(Exception, match="mask: expected at least one window to score, got none"):
        merged(planned, [1, len(planned.plan.views[0].tile_plan.bands)])


WHOLE: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "divided": (TILED, {}, ""),
    "strips": (encode(PIXELS, ".tif"), {}, ""),
    "png": (png(PIXELS), {}, "its file can only be decoded from the top"),
    "scales": (TILED, {"scales": [scoring_pb2.Scale(factor=each) for each in (1, 2)]}, "it is scored at several sizes"),
    "scaled": (TILED, {"scales": [scoring_pb2.Scale(factor=0.8)]}, ""),
    "otsu": (TILED, {"mask_otsu": True}, "its foreground is found on the whole image"),
    "png mask": (
        TILED,
        {"mask_image": scoring_pb2.Image(encoded=png(np.ones((700, 60), np.uint8)))},
        "its mask can only be decoded from the top",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_images_that_are_scored_as_a_whole(models: Models, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image is divided only if its sections can be decoded apart and do not depend on each other."""
    monkeypatch.setattr(sections, "SECTION_PIXELS", 1)
    image, options, reason = WHOLE[name]
    planned = plan(models, image, **options).planned
    assert why_whole(planned) == reason
    assert (len(sections_of(planned)) > 1) == (not reason)


def test_levels_that_a_decoder_scales_are_scored_as_a_whole(models: Models) -> None:
    """OpenSlide's reduced levels are not divided: their pixels depend on where reading begins."""
    planned = plan(models).planned
    assert why_whole(replace(planned, picture=replace(planned.picture, resampled=True))) == (
        "its decoder scales the level that is scored"
    )


def test_small_images_are_scored_as_a_whole(models: Models) -> None:
    """An image with fewer pixels than four sections have is one section with all bands."""
    planned = plan(models).planned
    assert sections_of(planned) == (slice(0, len(planned.plan.views[0].tile_plan.bands)),)


@given(st.integers(100, 40_000), st.integers(100, 2000), st.integers(0, 1 << 22), st.integers(1, 1 << 24))
def test_sections_have_every_band_once(height: int, width: int, row_bytes: int, pixels: int) -> None:
    """Sections follow each other, and each but the last becomes large enough with its last band."""
    axis = AxisGeometry(window=70, stride=8, receptive_field=70, padding_before=0, padding_after=0)
    lattices = AxisLattice(height, 70, 8), AxisLattice(width, 70, 8)
    tiles = plan_tiles(*lattices, Network(axis, axis, (8, 8)), pixels=1 << 16)
    view = View(height, width, tiles, 1, 2, 0.0, 0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "SECTION_PIXELS", pixels)
        divided = divide(view, row_bytes)
    assert [band for section in divided for band in range(len(tiles.bands))[section]] == [*range(len(tiles.bands))]

    def size(bands: slice) -> float:
        read = sum((band.pixels[1] - band.pixels[0]) * width for band in tiles.bands[bands])
        rows = sum(band.stop - band.first for band in tiles.bands[bands])
        return read / max(pixels, height * width / sections.MOST) + rows * row_bytes / sections.SECTION_BYTES

    for section in divided[:-1]:
        assert size(section) >= 1
        assert size(slice(section.start, section.stop - 1)) < 2
