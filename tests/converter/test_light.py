"""ImageNet's classifiers of full size, as Caffe2 exported them in 2017."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from support import light
from support.conversion import SILENT

from converter import convert as conversion
from converter.sources.read import read_source

GEOMETRY = {
    "bvlc_alexnet": (32, 355, 64),
    "densenet121": (32, 2263, 1021),
    "inception_v1": (32, 875, 327),
    "inception_v2": (32, 891, 343),
    "resnet50": (32, 619, 213),
    "shufflenet": (32, 719, 263),
    "squeezenet": (16, 399, 88),
    "vgg19": (32, 460, 118),
    "zfnet512": (32, 315, 48),
}
"""Stride, receptive field and padding, in pixels."""
QUICK = {"shufflenet", "squeezenet"}
CASES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in light.NAMES]


@pytest.mark.parametrize("name", CASES)
def test_full_size_classifiers_convert(tmp_path: Path, name: str) -> None:
    """The converted network gives the file's scores of windows, and has the geometry of the architecture."""
    source = light.make_light(name, tmp_path)
    request = conversion.Request(tmp_path / "net" / "1", windows=2)
    spec = conversion.convert(read_source(source, arch=None, window=None), request, SILENT).spec
    assert spec.vertical == spec.horizontal
    axis = spec.vertical
    assert (axis.stride, axis.receptive_field, axis.padding_before) == GEOMETRY[name]
    options = ort.SessionOptions()
    options.log_severity_level = 4  # the files hold weights that nothing uses
    converted = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx", options)
    original = ort.InferenceSession(source, options)
    for window in light.windows(2, seed=3):
        (scores,) = converted.run(None, {spec.input.name: window[None]})
        (expected,) = original.run(None, {original.get_inputs()[0].name: window[None]})
        assert scores.shape == (1, 1000, 1, 1)
        assert_allclose(scores.ravel(), expected.ravel(), rtol=0, atol=1e-4 * np.abs(expected).max())
