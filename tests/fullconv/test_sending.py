"""Which images the command sends in one message, and which in parts."""

from pathlib import Path

import pytest
from support.paths import ROOT

from fullconv import Scorer
from fullconv.command.sending import fits_message, goes_in_parts
from fullconv.description import ModelDescription
from fullconv.options import Options


@pytest.fixture(scope="module")
def model() -> ModelDescription:
    """Return the description of the shipped model."""
    with Scorer(ROOT / "models") as scorer:
        return scorer.model("digits")


CASES: dict[str, tuple[Options, bool]] = {
    "no scale": ({"stride": 4, "grid": True}, False),
    "a small factor": ({"stride": 4, "grid": True, "scales": ["2x"]}, False),
    "a large factor": ({"stride": 4, "grid": True, "scales": ["1x", "40x"]}, True),
    "few pixels": ({"stride": 4, "grid": True, "scales": ["180"]}, False),
    "many pixels": ({"stride": 4, "grid": True, "scales": ["1x", "3600"]}, True),
    "many pixels without a grid": ({"scales": ["9000"]}, True),
    "a resolution": ({"mpp": 0.5}, True),
    "a magnification": ({"magnification": 20.0}, True),
    "a level": ({"level": 1}, False),
}


@pytest.mark.parametrize(("options", "expected"), CASES.values(), ids=CASES)
def test_enlarged_images_are_sent_in_parts(
    image: Path,
    model: ModelDescription,
    options: Options,
    expected: bool,  # noqa: FBT001 (of the table)
) -> None:
    """An image of 90×111 pixels is sent in parts if its scales, by factors or in pixels, make the answer large."""
    assert goes_in_parts(image, options, lambda: model) is expected
    assert fits_message(image, options, lambda: model) is not expected
