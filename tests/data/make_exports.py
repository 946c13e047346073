"""Makes files in this folder with PyTorch: checkpoints, and small classifiers in the formats of its two exporters.

    pip install torch onnxscript
    python tests/data/make_exports.py

Every network takes windows of 22×26 pixels, and has random weights. `expected.npz` holds a window and PyTorch's own
scores of it.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

HERE = Path(__file__).parent
WINDOW = (22, 26)

Head = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Two convolutions, two pools and a head; `pad` pads the convolutions, `part` is for the head."""

    def __init__(
        self,
        head: Head,
        *,
        pad: int = 0,
        bias: bool = True,
        pool: nn.Module | None = None,
        window: tuple[int, int] = WINDOW,
        channels: tuple[int, int] = (6, 8),
        features: int | None = None,
        hidden: int = 16,
        part: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, channels[0], 3, padding=pad)
        self.b = nn.Conv2d(*channels, 3, padding=pad)
        self.pool = pool or nn.Identity()
        with torch.no_grad():
            flat = self.trunk(torch.zeros(1, 3, *window)).numel()
        self.c = nn.Linear(features or flat, hidden, bias=bias)
        self.n = nn.BatchNorm1d(hidden)
        self.d = nn.Linear(hidden, 5, bias=bias)
        self.dropout = nn.Dropout()
        self.part = part or nn.Identity()
        self.head = head

    def trunk(self, image: Tensor) -> Tensor:
        """Return the last spatial map."""
        value = torch.max_pool2d(torch.relu(self.a(image)), 2)
        return self.pool(torch.max_pool2d(torch.relu(self.b(value)), 2))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, 5), or the output of another head."""
        return self.head(self, self.trunk(image))


def mlp(net: Net, vector: Tensor) -> Tensor:
    """Return the output of the layers with which most heads end."""
    return net.d(torch.relu(net.c(vector)))


HEADS: dict[str, tuple[Head, dict[str, Any]]] = {
    "flatten": (lambda net, x: mlp(net, torch.flatten(x, 1)), {}),
    "view_size": (lambda net, x: mlp(net, x.view(x.size(0), -1)), {}),
    "view_features": (lambda net, x: mlp(net, x.view(-1, 160)), {}),
    "reshape": (lambda net, x: mlp(net, x.reshape(x.shape[0], 160)), {}),
    "adaptive": (lambda net, x: mlp(net, torch.flatten(x, 1)), {"pool": nn.AdaptiveAvgPool2d((4, 5))}),
    "no_bias": (lambda net, x: mlp(net, torch.flatten(x, 1)), {"bias": False}),
    "dropout": (lambda net, x: net.d(net.dropout(torch.relu(net.c(net.dropout(torch.flatten(x, 1)))))), {}),
    "softmax": (lambda net, x: torch.softmax(mlp(net, torch.flatten(x, 1)), 1), {}),
    "batchnorm": (lambda net, x: net.d(torch.relu(net.n(net.c(torch.flatten(x, 1))))), {}),
    "global_mean": (lambda net, x: mlp(net, x.mean((2, 3))), {"features": 8}),
    "mean_of_pool": (lambda net, x: mlp(net, x.mean((2, 3))), {"pool": nn.AdaptiveAvgPool2d(1)}),
    "global_pool": (lambda net, x: mlp(net, torch.flatten(x, 1)), {"pool": nn.AdaptiveAvgPool2d(1)}),
    "padded": (lambda net, x: mlp(net, torch.flatten(x, 1)), {"pad": 1}),
}


def make(name: str) -> Net:
    """Return a network with random weights and random statistics of batch normalisation."""
    torch.manual_seed(len(name))
    head, options = HEADS[name]
    net: Net = Net(head, **options).eval()
    net.n.running_mean.uniform_(-1, 1)
    net.n.running_var.uniform_(0.5, 2)
    return net


def export(name: str, net: Net, window: Tensor) -> None:
    """Write the network with both exporters, with a fixed and with an open batch."""
    folder = HERE / "exports"
    open_batch = {"dynamic_axes": {"image": {0: "batch"}}, "input_names": ["image"]}
    torch.onnx.export(net, (window,), folder / f"{name}.torchscript.onnx", dynamo=False)
    torch.onnx.export(net, (window,), folder / f"{name}.torchscript_batch.onnx", dynamo=False, **open_batch)
    dynamo(folder / f"{name}.dynamo.onnx", net, window)
    if name != "view_features":  # this head fixes the batch size
        shapes = ({0: torch.export.Dim("batch")},)
        dynamo(folder / f"{name}.dynamo_batch.onnx", net, window.repeat(2, 1, 1, 1), dynamic_shapes=shapes)


def dynamo(path: Path, net: nn.Module, window: Tensor | tuple[Tensor, ...], **options: Any) -> None:
    """Write with the newer exporter, without the source locations that it records for every node."""
    inputs = window if isinstance(window, tuple) else (window,)
    program = torch.onnx.export(net, inputs, dynamo=True, verbose=False, **options)
    ClearMetadataAndDocStringPass()(program.model)
    program.model.graph.metadata_props.clear()
    ir.save(program.model, path, external_data=f"{path.name}.data" if "external" in path.name else None)


def checkpoints(net: Net) -> None:
    """Write one network's weights in all common ways of saving them."""
    folder = HERE / "checkpoints"
    state = {key: value for key, value in net.state_dict().items() if key[0] in "abcd"}
    torch.save(state, folder / "plain.pth")
    torch.save({f"module.{key}": value for key, value in state.items()}, folder / "parallel.pth")
    torch.save({"epoch": 3, "state_dict": state, "loss": 0.1}, folder / "training.pth")
    torch.save({key: nn.Parameter(value) for key, value in state.items()}, folder / "parameters.pth")
    torch.save({key: value.bfloat16() for key, value in state.items()}, folder / "bfloat16.pth")
    columns = {key: value.T.contiguous().T if value.ndim == 2 else value for key, value in state.items()}
    torch.save(columns, folder / "strided.pth")
    torch.save(nn.Linear(3, 2), folder / "module.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)


def main() -> None:
    """Make all files."""
    warnings.simplefilter("ignore")
    window = torch.rand(1, 3, *WINDOW, generator=torch.Generator().manual_seed(0))
    expected = {"window": window.numpy()}
    for name in HEADS:
        net = make(name)
        with torch.no_grad():
            expected[name] = net(window).numpy()
        export(name, net, window)
    checkpoints(make("flatten"))
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    main()
