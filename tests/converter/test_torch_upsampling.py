"""timm's HRNet, whose branches meet by nearest neighbours at 2, 4 and 8 times their size, slides over larger images."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from support.torch_networks import randomised

from converter.convert import convert_checkpoint
from fullconv import Scorer

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # of PyTorch's exporter

WINDOW = 64
STRIDE = 32


def test_hrnet(tmp_path: Path) -> None:
    """A part of an image has the image's scores away from its borders, and mode exact has those of single windows."""
    import timm
    import torch

    torch.manual_seed(0)
    net = randomised(timm.create_model("hrnet_w18_small", pretrained=False, num_classes=7))
    spec = convert_checkpoint(net, tmp_path / "net" / "1", window=WINDOW, preprocess="unit", verify=2).spec
    axis = spec.vertical
    assert (axis.stride, axis.padding_before, axis.receptive_field) == (STRIDE, 291, 615)
    before = -(-axis.padding_before // STRIDE)
    after = -(-(axis.receptive_field - axis.padding_before - WINDOW) // STRIDE)
    side = WINDOW + (before + after + 2) * STRIDE
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    session = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")

    def scores(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        grid: NDArray[np.float32] = session.run(None, {"image": image[None]})[0][0]
        return grid

    whole, part = scores(pixels), scores(pixels[STRIDE:, STRIDE:])
    interior = slice(before, before + 2)
    expected = whole[:, 1:, 1:][:, interior, interior]
    assert_allclose(part[:, interior, interior], expected, rtol=0, atol=1e-5 * np.abs(whole).max())

    small = pixels[: WINDOW + STRIDE, : WINDOW + STRIDE]
    with Scorer(tmp_path) as scorer:
        grid = scorer.score(small, model="net", mode="exact", grid=True).grid
    assert grid is not None
    for row, col in np.ndindex(2, 2):
        crop = small[row * STRIDE : row * STRIDE + WINDOW, col * STRIDE : col * STRIDE + WINDOW]
        with torch.no_grad():
            (own,) = net(torch.from_numpy(np.moveaxis(crop / np.float32(255), -1, 0).copy())[None]).numpy()
        assert_allclose(grid[row, col], own, rtol=0, atol=1e-5 * np.abs(own).max())
