"""Grids of slides as OME-Zarr images."""

from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.slides import MICRONS, pyramid_of, tissue, write_pages

from fullconv import Answer, Scorer


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """Return the scores of a slide at half its resolution."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pages(path, pyramid_of(tissue(300, 400), 2))
    return Scorer(ROOT / "models").score(path, model="digits", grid=True, level=1)


@pytest.mark.extras
def test_an_image_with_a_channel_for_each_class(answer: Answer, tmp_path: Path) -> None:
    """The numbers are those of the grid; the transformation leads to the windows' centres in micrometres."""
    import zarr  # noqa: PLC0415 (an extra)

    answer.save(tmp_path / "grid.zarr", grid_as="probability")
    group = zarr.open_group(tmp_path / "grid.zarr", mode="r")
    image = group["ome/0"]
    assert isinstance(image, zarr.Array)
    np.testing.assert_array_equal(image[:], np.moveaxis(np.asarray(group["probabilities"]), -1, 0))
    metadata = group["ome"].attrs["ome"]
    assert isinstance(metadata, dict)
    assert metadata["version"] == "0.5"
    assert [channel["label"] for channel in metadata["omero"]["channels"]] == answer.labels
    (multiscale,) = metadata["multiscales"]
    assert [axis["type"] for axis in multiscale["axes"]] == ["channel", "space", "space"]
    assert {axis["unit"] for axis in multiscale["axes"][1:]} == {"micrometer"}
    scale, translation = (
        np.array(each[each["type"]]) for each in multiscale["datasets"][0]["coordinateTransformations"]
    )
    for cell in ((0, 0), (2, 5)):
        x, y, width, height = answer.boxes[cell]
        centre = np.array([y + height / 2 - 0.5, x + width / 2 - 0.5]) * MICRONS
        np.testing.assert_allclose((scale * (0, *cell) + translation)[1:], centre)


@pytest.mark.extras
def test_no_image_without_a_size_or_all_classes(answer: Answer, tmp_path: Path) -> None:
    """An image of unknown scale, and the highest classes alone, are no OME-Zarr image."""
    answer.save(tmp_path / "top.zarr", grid_as="argmax")
    plain = Scorer(ROOT / "models").score(tissue(80, 90), model="digits", grid=True)
    plain.save(tmp_path / "plain.zarr")
    assert [(tmp_path / name / "ome").exists() for name in ("top.zarr", "plain.zarr")] == [False, False]
