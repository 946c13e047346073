"""Makes `pytorch/`: small classifiers as PyTorch's two exporters write them, of many heads, trunks and ways to export.

    pip install torch torchvision onnx onnxscript onnxruntime
    python tests/data/make_pytorch.py [NAME ...]

Weights are random. NAME.npz holds a window, and the scores that PyTorch itself answers to it.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from make_exports import dynamo
from pytorch_case import Case
from pytorch_heads import HEADS
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "pytorch"
CASES: dict[str, Case] = {**HEADS}

OPEN = {0: "batch", 2: "height", 3: "width"}
SIZES = dict.fromkeys(OPEN, torch.export.Dim.DYNAMIC)
IMAGE = {"input_names": ["image"]}

VARIANTS: dict[str, dict[str, object]] = {
    "torchscript": {},
    "torchscript_batch": {"dynamic_axes": {"image": {0: "batch"}}, **IMAGE},
    "torchscript_open": {"dynamic_axes": {"image": OPEN}, **IMAGE},
    "dynamo": {},
    "dynamo_batch": {"dynamic_shapes": ({0: torch.export.Dim("batch")},)},
    "dynamo_open": {"dynamic_shapes": (SIZES,)},
}


def make(build: Callable[[], nn.Module], window: Tensor) -> tuple[nn.Module, Tensor]:
    """A network and its scores of the window; of the first random weights with which the mirrored window differs."""
    for seed in range(100):
        net = randomise(build, seed)
        with torch.no_grad():
            scores, mirrored = first(net(window)), first(net(window.flip(-1)))
        if not scores.is_floating_point() or (scores - mirrored).abs().max() > 0.01 * scores.abs().max():
            return net, scores
    raise RuntimeError("expected scores that depend on the window, got none in 100 networks")


def first(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The scores, which every network here has as its first output."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def randomise(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network with random weights, and normalisation that does something."""
    torch.manual_seed(seed)
    net = build().eval()
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


def windows(shape: tuple[int, ...]) -> Tensor:
    """Random pixels of 0 to 255 in steps that compress well, divided by 255."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 52, shape, generator=generator) * 5 / 255


def export(path: Path, net: nn.Module, window: Tensor, variant: str, options: dict[str, object]) -> None:
    """Write one file."""
    options = VARIANTS[variant] | options
    if variant.startswith("torchscript"):
        torch.onnx.export(net, (window,), path, dynamo=False, **options)
        return
    batch = window.repeat(2, 1, 1, 1) if "dynamic_shapes" in options else window  # a traced batch of 1 stays 1
    dynamo(path, net, batch, **options)


def main(names: list[str]) -> None:
    """Make what is named, or everything."""
    warnings.simplefilter("ignore")
    for name in names or CASES:
        case, window = CASES[name], windows(CASES[name].shape)
        net, scores = make(case.build, window)
        np.savez_compressed(FOLDER / f"{name}.npz", window=window.numpy(), scores=scores.numpy())
        for variant in case.variants:
            export(FOLDER / f"{name}.{variant}.onnx", net, window, variant, dict(case.options))


if __name__ == "__main__":
    main(sys.argv[1:])
