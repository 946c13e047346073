"""PyTorch's layers that enlarge maps, as its exporters write them: each window equals the network on its crop."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from converter.convert import convert_checkpoint
from converter.errors import UnsupportedError
from fullconv import Scorer

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # of PyTorch's exporter

WINDOW = 32
LAYERS = {
    "nearest": "Upsample(scale_factor=2, mode='nearest')",
    "size": "Upsample(size=(30, 30), mode='nearest')",
    "nearest-exact": "Upsample(scale_factor=2, mode='nearest-exact')",
    "bilinear": "Upsample(scale_factor=2, mode='bilinear')",
    "pixel shuffle": "PixelShuffle(2)",
    "transposed": "ConvTranspose2d(8, 2, 2, stride=2)",
}


def exported(layer: str, file: Path, *, dynamo: bool) -> "torch.nn.Module":  # type: ignore[name-defined]  # noqa: F821
    """Write a network with one enlarging layer as ONNX; returns the network."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    enlarge = eval(layer, vars(nn))  # noqa: S307 (of this file)
    channels = 8 if isinstance(enlarge, nn.Upsample) else 2
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), enlarge, nn.Conv2d(channels, 8, 3, stride=2), nn.ReLU()
    )
    example = torch.zeros(1, 3, WINDOW, WINDOW)
    values = trunk(example).flatten(1).shape[1]
    net = nn.Sequential(trunk, nn.Flatten(), nn.Linear(values, 5)).eval()
    torch.onnx.export(net, (example,), str(file), dynamo=dynamo, verbose=False)
    return net


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", LAYERS)
def test_windows_equal_crops(name: str, dynamo: bool, tmp_path: Path) -> None:  # noqa: FBT001 (of pytest)
    """The converted network has the source's scores for every window of an image, in mode exact."""
    import torch

    if name == "nearest-exact" and not dynamo:
        with pytest.raises(torch.onnx.errors.UnsupportedOperatorError):  # PyTorch cannot write it
            exported(LAYERS[name], tmp_path / "net.onnx", dynamo=False)
        return
    net = exported(LAYERS[name], tmp_path / "net.onnx", dynamo=dynamo)
    convert_checkpoint(tmp_path / "net.onnx", tmp_path / "net" / "1", verify=4, preprocess="unit")
    pixels = np.random.default_rng(0).integers(0, 256, (WINDOW + 8, WINDOW + 12, 3), np.uint8)
    with Scorer(tmp_path) as scorer:
        answer = scorer.score(pixels, model="net", mode="exact", grid=True)
    assert answer.grid is not None
    for row, col in np.ndindex(*answer.grid.shape[:2]):
        top, left = (index * step for index, step in zip((row, col), answer.stride, strict=True))
        crop = pixels[top : top + WINDOW, left : left + WINDOW] / np.float32(255)
        with torch.no_grad():
            (own,) = net(torch.from_numpy(np.moveaxis(crop, -1, 0).copy())[None]).numpy()
        assert_allclose(answer.grid[row, col], own, rtol=0, atol=1e-5 * np.abs(own).max())


def test_positions_that_depend_on_the_map_are_refused(tmp_path: Path) -> None:
    """With align_corners, the places that a cell reads depend on the size of the map; the refusal says so."""
    exported("Upsample(scale_factor=2, mode='bilinear', align_corners=True)", tmp_path / "net.onnx", dynamo=False)
    with pytest.raises(UnsupportedError, match=r"align_corners.*depend on the size of the map"):
        convert_checkpoint(tmp_path / "net.onnx", tmp_path / "net" / "1", verify=4, preprocess="unit")
