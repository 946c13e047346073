"""Conversion from Python."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise

from converter.errors import ConversionError
from fullconv import Scorer, convert

DIGITS = ROOT / "models" / "digits"


def test_a_converted_checkpoint_is_scored_with(tmp_path: Path) -> None:
    """The version that `convert` writes scores like the shipped version, and the report equals its report.json."""
    target = tmp_path / "digits" / "1"
    report = convert(DIGITS / "digits.safetensors", target, arch=DIGITS / "digits.toml", verify=16)
    assert report.document() == json.loads((target / "report.json").read_text("utf-8"))
    assert report.verdicts()[0] in report.document()["verdict"]
    image = noise(90, 100, 1)
    shipped, converted = (Scorer(models).score(image, model="digits") for models in (DIGITS.parent, tmp_path))
    np.testing.assert_allclose(shipped.average, converted.average, rtol=1e-6, atol=1e-6)


def test_conversion_errors_are_those_of_the_converter(tmp_path: Path) -> None:
    """A missing source and an unknown option raise an error, and nothing is written."""
    with pytest.raises(ConversionError):
        convert(tmp_path / "missing.safetensors", tmp_path / "net" / "1")
    with pytest.raises(TypeError, match="stride"):
        convert(DIGITS / "digits.safetensors", tmp_path / "net" / "1", stride=8)
    assert not list(tmp_path.iterdir())
