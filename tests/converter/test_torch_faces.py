"""R-Net and O-Net with their trained weights: pools that read beyond the window, with mode shared still exact."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from converter.convert import convert_checkpoint
from fullconv import Scorer

if TYPE_CHECKING:
    from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # of PyTorch's exporter
PIXELS = {"scale": 1, "mean": [127.5] * 3, "std": [128] * 3, "order": "RGB"}
"""The preprocessing of their training."""


def face_network(name: str) -> "nn.Module":
    """Return a network of facenet-pytorch with the probability of a face as its only output."""
    from facenet_pytorch.models import mtcnn
    from torch import Tensor, nn

    class Probabilities(nn.Module):
        """The network without its boxes and landmarks."""

        def __init__(self) -> None:
            super().__init__()
            self.net = getattr(mtcnn, name)().eval()

        def forward(self, pixels: Tensor) -> Tensor:
            probabilities: Tensor = self.net(pixels)[-1]
            return probabilities

    return Probabilities().eval()


@pytest.mark.parametrize(("name", "window", "stride", "side"), [("RNet", 24, 4, 120), ("ONet", 48, 8, 240)])
def test_every_window_of_a_photograph(name: str, window: int, stride: int, side: int, tmp_path: Path) -> None:
    """Mode shared gives the scores of each window by itself, to 1e-5, and finds the astronaut's face."""
    import torch
    from skimage import data

    pixels = np.asarray(Image.fromarray(data.astronaut()).resize((side, side)))
    (tmp_path / "pixels.json").write_text(json.dumps(PIXELS), "utf-8")
    report = convert_checkpoint(
        face_network(name), tmp_path / "faces" / "1", window=window, preprocess=tmp_path / "pixels.json"
    )
    assert "shared" in report.spec.modes
    with Scorer(tmp_path) as scorer:
        answer = scorer.score(pixels, model="faces", mode="shared", grid=True)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (window, window), (0, 1))[::stride, ::stride]
    crops = windows.reshape(-1, 3, window, window).astype(np.float32)
    with torch.no_grad():
        expected = face_network(name)(torch.from_numpy((crops - 127.5) / 128)).numpy()
    grid = np.asarray(answer.grid)
    assert_allclose(grid.reshape(-1, 2), expected, atol=1e-5)
    assert grid[..., 1].max() > 0.9
