"""Makes `pytorch/`: small classifiers in the formats of PyTorch's two exporters, with many heads, trunks and options.

    pip install torch torchvision onnx onnxscript
    python tests/data/make_pytorch.py [NAME ...]

Weights are random. NAME.npz holds a window and PyTorch's own scores of it.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_exports import dynamo
from pytorch_case import Case
from pytorch_heads import HEADS
from pytorch_trunks import TRUNKS
from pytorch_ways import WAYS
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "pytorch"
CASES: dict[str, Case] = HEADS | TRUNKS | WAYS

OPEN = {0: "batch", 2: "height", 3: "width"}
BATCH: dict[str, Any] = {"dynamic_axes": {"image": {0: "batch"}}, "input_names": ["image"]}
NORMS = nn.BatchNorm1d | nn.BatchNorm2d

VARIANTS: dict[str, dict[str, Any]] = {
    "torchscript": {},
    "torchscript_batch": BATCH,
    "torchscript_open": {"dynamic_axes": {"image": OPEN}, "input_names": ["image"]},
    "torchscript_inputs": {"keep_initializers_as_inputs": True},
    "torchscript_training": {**BATCH, "training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False},
    **{f"torchscript_opset{version}": {"opset_version": version} for version in (7, 9, 11, 13, 17)},
    "dynamo": {},
    "dynamo_batch": {"dynamic_shapes": ({0: torch.export.Dim("batch")},)},
    "dynamo_open": {"dynamic_shapes": (dict.fromkeys(OPEN, torch.export.Dim.DYNAMIC),)},
    "dynamo_raw": {"optimize": False},
    "dynamo_external": {},
    "dynamo_training": {},
    "dynamo_opset24": {"opset_version": 24},
}


def make(case: Case, windows: tuple[Tensor, ...]) -> nn.Module:
    """Return a network with random weights for which the mirrored window scores differently."""
    for seed in range(100):
        net = randomise(case.build, seed)
        with torch.no_grad():
            scores = first(net(*windows))
            mirrored = first(net(windows[0].flip(2), *windows[1:]))
        if not scores.is_floating_point() or (scores - mirrored).abs().max() > 0.01 * scores.abs().max():
            return net
    raise RuntimeError("expected scores that depend on the window, got none in 100 networks")


def first(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the scores, which are the first output of every network."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def randomise(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a network with random weights, and normalisation that has an effect."""
    torch.manual_seed(seed)
    net = build().eval()
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, NORMS):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, NORMS | nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


def windows_of(case: Case) -> tuple[Tensor, ...]:
    """Return random pixels in steps that compress well, from 0 to 1; from 0 to 255 for a network that takes bytes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 6, (case.images, *case.shape), generator=generator) * 51
    return tuple((pixels / (255 if case.dtype.is_floating_point else 1)).to(case.dtype))


def export(path: Path, net: nn.Module, windows: tuple[Tensor, ...], variant: str) -> None:
    """Write one file."""
    options = VARIANTS[variant]
    if options.keys() & {"dynamic_axes", "dynamic_shapes"}:  # a traced batch of 1 stays 1, and cannot train
        windows = tuple(torch.cat([window, window]) for window in windows)
    if variant.startswith("torchscript"):
        torch.onnx.export(net, windows, path, dynamo=False, **options)
        return
    dynamo(path, net.train(variant.endswith("training")), windows, **options)


def main(names: list[str]) -> None:
    """Make the named networks. Default: all networks."""
    warnings.simplefilter("ignore")
    for name in names or CASES:
        case = CASES[name]
        windows = windows_of(case)
        net = make(case, windows)
        for variant in case.variants:
            export(FOLDER / f"{name}.{variant}.onnx", net, windows, variant)
        with (
            torch.no_grad()
        ):  # after the scores, since an export in training mode changes the statistics of batch normalisation
            scores = first(net.eval()(*windows))
        arrays = [array.float() if array.dtype == torch.bfloat16 else array for array in (*windows, scores)]
        keys = ["window", *(f"window{number}" for number in range(2, case.images + 1)), "scores"]
        np.savez_compressed(FOLDER / f"{name}.npz", **dict(zip(keys, arrays, strict=True)))


if __name__ == "__main__":
    main(sys.argv[1:])
