"""The wheel's classifiers, once they have random weights, can tell windows apart."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support import light

SMALL = ["densenet121", "inception_v1", "inception_v2", "shufflenet", "squeezenet"]


def test_the_wheel_holds_nine_classifiers() -> None:
    """All that the converter is to be tried on are there."""
    assert sorted([*SMALL, "bvlc_alexnet", "resnet50", "vgg19", "zfnet512"]) == light.NAMES


@pytest.mark.parametrize("name", SMALL)
def test_windows_and_their_mirror_images_score_differently(name: str, tmp_path: Path) -> None:
    """Scores depend on what is where in the window, and no class takes it all."""
    path = light.make_light(name, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"ConstantOfShape"})
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns of initializers that are inputs
    session = ort.InferenceSession(path, options)
    (image,) = session.get_inputs()
    (window,) = light.windows(1, seed=1)
    scores, mirrored = (
        session.run(None, {image.name: picture[None]})[0].ravel() for picture in (window, window[..., ::-1].copy())
    )
    assert np.abs(scores - mirrored).max() > 0.1 * np.abs(scores).max()
    assert np.abs(scores).max() < 0.1 * np.abs(scores).sum()


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    """A failure can be looked at again."""
    (tmp_path / "again").mkdir()
    first, second = (light.make_light("squeezenet", folder) for folder in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()
