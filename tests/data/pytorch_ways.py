"""Ways to export that `make_pytorch.py` tries: operator sets, batches, precisions, several inputs or outputs."""

from collections.abc import Callable

import torch
from make_exports import WINDOW, Net, mlp
from pytorch_case import FIXED, Case, head
from pytorch_heads import flat
from torch import Tensor, nn


class Outputs(nn.Module):
    """A network that returns another output beside the scores."""

    def __init__(self, *, vector: bool) -> None:
        super().__init__()
        self.net = Net(flat, channels=(4, 6), hidden=4)
        self.vector = vector

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N, 5), and the map (N, 6, 4, 5) or its mean (N, 6)."""
        features = self.net.trunk(image)
        return flat(self.net, features), features.mean((2, 3)) if self.vector else features


class Normalised(nn.Module):
    """ImageNet's normalisation as the network's first step."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return pixels from 0 to 1, normalised."""
        return (image - self.mean) / self.std


class Images(nn.Module):
    """A network of two images, which scores the difference of their maps."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(flat, channels=(4, 6), hidden=4)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        """Scores (N, 5)."""
        return flat(self.net, self.net.trunk(image) - self.net.trunk(other))


class Wrapped(nn.Module):
    """A network with a function that is applied to its input, and a function that is applied to its scores."""

    def __init__(self, before: Callable[[Tensor], Tensor], net: nn.Module, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.net, self.after = before, net, after

    def forward(self, image: Tensor) -> Tensor:
        """Scores (N, 5)."""
        return self.after(self.net(self.before(image)))


def plain() -> Net:
    """Return the network of most cases."""
    return Net(flat, channels=(4, 6), hidden=4)


def between(before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """Return a function that builds the plain network between two functions."""
    return lambda: Wrapped(before, plain(), after)


def with_dropout(net: Net, image: Tensor) -> Tensor:
    """Dropout before both layers."""
    return net.d(net.dropout(torch.relu(net.c(net.dropout(torch.flatten(image, 1))))))


def with_batchnorm(net: Net, image: Tensor) -> Tensor:
    """Batch normalisation after the first layer."""
    return net.d(torch.relu(net.n(net.c(torch.flatten(image, 1)))))


OLD = tuple(f"torchscript_opset{version}" for version in (7, 9, 11, 13, 17))

WAYS: dict[str, Case] = {
    "old_flatten": head(with_batchnorm, variants=OLD),
    "old_view": head(lambda net, x: mlp(net, x.view(x.size(0), -1)), variants=OLD),
    "old_mean": head(lambda net, x: mlp(net, x.mean((2, 3))), features=6, variants=OLD),
    "newest": head(with_batchnorm, variants=("dynamo_opset24",)),
    "not_optimised": head(with_batchnorm, variants=("dynamo_raw",)),
    "initializers_as_inputs": head(flat, variants=("torchscript_inputs",)),
    "external": head(flat, variants=("dynamo_external",)),
    "batch10": Case(plain, (10, 3, *WINDOW), FIXED),
    "dropout_training": head(with_dropout, variants=("torchscript_training", "dynamo_training")),
    "batchnorm_training": head(with_batchnorm, variants=("torchscript_training",)),
    "two_outputs": Case(lambda: Outputs(vector=False)),
    "two_vectors": Case(lambda: Outputs(vector=True)),
    "two_inputs": Case(Images, variants=("torchscript",), images=2),
    "normalised": Case(between(Normalised(), nn.Identity())),
    "tempered": Case(between(nn.Identity(), lambda scores: scores / 0.7 - 1)),
    "channels_last_input": Case(between(lambda x: x.permute(0, 3, 1, 2), nn.Identity()), (1, *WINDOW, 3)),
    "half": Case(lambda: plain().half(), variants=FIXED, dtype=torch.float16),
    "bfloat16": Case(lambda: plain().bfloat16(), variants=("torchscript", "dynamo_opset24"), dtype=torch.bfloat16),
    "half_inside": Case(lambda: Wrapped(Tensor.half, plain().half(), Tensor.float)),
    "bytes_input": Case(between(lambda x: x.float() / 255, nn.Identity()), variants=FIXED, dtype=torch.uint8),
}
