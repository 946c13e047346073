"""The wheel's classifiers with random weights distinguish windows."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support import light

SMALL = ["densenet121", "inception_v1", "inception_v2", "shufflenet", "squeezenet"]


def test_the_wheel_holds_nine_classifiers() -> None:
    """The wheel has all classifiers with which the converter is tested."""
    assert sorted([*SMALL, "bvlc_alexnet", "resnet50", "vgg19", "zfnet512"]) == light.NAMES


@pytest.mark.parametrize("name", SMALL)
def test_windows_and_their_mirror_images_score_differently(name: str, tmp_path: Path) -> None:
    """Scores depend on the positions of pixels in the window, and no class always wins."""
    path = light.make_light(name, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"ConstantOfShape"})
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns about initializers that are inputs
    session = ort.InferenceSession(path, options)
    (image,) = session.get_inputs()
    (window,) = light.windows(1, seed=1)
    scores, mirrored = (
        session.run(None, {image.name: picture[None]})[0].ravel() for picture in (window, window[..., ::-1].copy())
    )
    assert np.abs(scores - mirrored).max() > 0.1 * np.abs(scores).max()
    assert np.abs(scores).max() < 0.1 * np.abs(scores).sum()


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    """The weights depend only on the seed, so that a failure can be reproduced."""
    (tmp_path / "again").mkdir()
    first, second = (light.make_light("squeezenet", folder) for folder in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()
