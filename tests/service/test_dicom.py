"""Whole-slide images in DICOM, which OpenSlide reads from several files."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.conversion import convert_into
from support.dicom import MAGNIFICATION, write_dicom
from support.networks import UNPADDED, make_network
from support.servers import running
from support.slides import MICRONS, pyramid_of, tissue

from fullconv import Scorer
from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from service.errors import ImageError
from service.images.files import open_path
from service.images.optics import Optics

pytestmark = pytest.mark.extras

HEIGHT, WIDTH = 300, 400


@pytest.mark.parametrize(("quality", "tolerance"), [(None, 0), (100, 6)], ids=["uncompressed", "jpeg"])
def test_levels(quality: int | None, tolerance: int, tmp_path: Path) -> None:
    """The levels are the files of a series, with the size of the pixels and the magnification that they state."""
    levels = pyramid_of(tissue(HEIGHT, WIDTH), 3)
    picture = open_path(write_dicom(tmp_path / "slide", levels, quality=quality))
    assert picture.optics == Optics((MICRONS, MICRONS), MAGNIFICATION)
    assert [copy.size for copy in picture.copies] == [(150, 200), (75, 100)]
    for found, level in zip((picture, *picture.copies), levels, strict=True):
        pixels = found.open_samples(lambda: None).read(0, found.height)
        assert_allclose(pixels.astype(int), level.astype(int), rtol=0, atol=tolerance)


def test_scores(tmp_path: Path) -> None:
    """The scores are those of the pixels, and at half of the resolution those of the level."""
    models = convert_into(tmp_path / "models", make_network(tmp_path, UNPADDED))
    levels = pyramid_of(tissue(HEIGHT, WIDTH), 3)
    slide = write_dicom(tmp_path / "slide", levels)
    with Scorer(models) as scorer:
        for mpp, level in ((MICRONS, levels[0]), (2 * MICRONS, levels[1])):
            found = scorer.score(slide, model="unpadded", grid=True, mpp=mpp)
            expected = scorer.score(level, model="unpadded", grid=True)
            assert found.grid is not None
            assert expected.grid is not None
            assert_array_equal(np.asarray(found.grid), np.asarray(expected.grid))


def test_servers_refuse_slides_in_several_files(tmp_path: Path) -> None:
    """A path on a server names one file; a slide in several files is refused, with the way out."""
    models = convert_into(tmp_path / "models", make_network(tmp_path, UNPADDED))
    slide = write_dicom(tmp_path / "slide", pyramid_of(tissue(HEIGHT, WIDTH), 2))
    expected = "expected a slide in one file, got dicom; score it in this process, without --server"
    with pytest.raises(ImageError, match=expected):
        open_path(slide, alone=True)
    request = scoring_pb2.ScoreRequest(model="unpadded", image=scoring_pb2.Image(path="0.dcm"))
    with (
        running(models, "--images", str(slide.parent)) as server,
        grpc.insecure_channel(server.address) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        scoring_pb2_grpc.ScoringStub(channel).Score(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert expected in refused.value.details()
