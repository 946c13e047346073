"""The heads that `make_pytorch.py` exports: ways to get from the last map to the scores."""

from typing import Any

import torch
from make_exports import Net, mlp
from pytorch_case import BOTH, ONE, Case, head
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

ALL = (*BOTH, "torchscript_batch", "dynamo")
"""Both exporters, with a fixed and with an open batch: they write Reshapes differently."""


def flat(net: Net, image: Tensor) -> Tensor:
    """Flatten, then the two fully connected layers."""
    return mlp(net, torch.flatten(image, 1))


def concat_pools(net: Net, image: Tensor) -> Tensor:
    """The head of fastai: both pools side by side, normalised."""
    pools = torch.cat([F.adaptive_max_pool2d(image, 1), F.adaptive_avg_pool2d(image, 1)], 1)
    return net.d(net.n(torch.relu(net.c(net.dropout(net.part(torch.flatten(pools, 1)))))))


def pyramid(net: Net, image: Tensor) -> Tensor:
    """Spatial pyramid pooling: the map pooled to 1×1 and to 2×3, side by side."""
    return mlp(net, torch.cat([F.adaptive_avg_pool2d(image, size).flatten(1) for size in (1, (2, 3))], 1))


def gem(net: Net, image: Tensor) -> Tensor:
    """Generalised mean pooling."""
    return mlp(net, F.avg_pool2d(image.clamp(min=1e-6).pow(3), image.shape[2:]).pow(1 / 3).flatten(1))


def attention(net: Net, image: Tensor) -> Tensor:
    """The mean of all positions, weighted by a softmax over them."""
    weights = torch.softmax(net.part(image).flatten(2), 2)
    return mlp(net, (image.flatten(2) * weights).sum(2))


def recurrent(net: Net, image: Tensor) -> Tensor:
    """An LSTM along the columns, as text readers have it."""
    columns, _ = net.part(image.mean(2).permute(0, 2, 1))
    return net.d(columns[:, -1])


def cosine(net: Net, image: Tensor) -> Tensor:
    """A vector of length 1 times the directions of the classes."""
    return 10 * F.linear(F.normalize(net.c(torch.flatten(image, 1)), dim=1), net.d.weight)


def layer_norm_2d(net: Net, image: Tensor) -> Tensor:
    """ConvNeXt's head: normalised over the channels, which are transposed to the last axis and back."""
    pooled = F.adaptive_avg_pool2d(image, 1).permute(0, 2, 3, 1)
    return mlp(net, torch.flatten(net.part(pooled).permute(0, 3, 1, 2), 1))


MEAN: dict[str, Any] = {"features": 6}
PYRAMID: dict[str, Any] = {"window": (22, 30), "features": 6 * 7}

HEADS: dict[str, Case] = {
    "open_size": head(flat, pool=nn.AdaptiveAvgPool2d((4, 5)), variants=("dynamo_open",)),
    "open_size_mean": head(
        lambda net, x: mlp(net, x.mean((2, 3)).view(x.size(0), -1)),
        **MEAN,
        variants=("torchscript_open", "dynamo_open"),
    ),
    "open_size_flatten": head(flat, variants=("torchscript_open",)),
    "adaptive_even": head(flat, pool=nn.AdaptiveAvgPool2d((2, 3)), window=(22, 30), variants=ALL),
    "adaptive_uneven": head(flat, pool=nn.AdaptiveAvgPool2d((3, 4)), window=(26, 30), variants=("dynamo_batch",)),
    "adaptive_max": head(flat, pool=nn.AdaptiveMaxPool2d(1)),
    "adaptive_max_even": head(flat, pool=nn.AdaptiveMaxPool2d((2, 3)), window=(22, 30), variants=ONE),
    "avg_pool4": head(lambda net, x: mlp(net, F.avg_pool2d(x, 4).view(-1, 6)), **MEAN, window=(22, 22), variants=ALL),
    "avg_pool_floor": head(lambda net, x: mlp(net, F.avg_pool2d(x, 4).view(x.size(0), -1)), **MEAN),
    "avg_pool2_flatten": head(flat, pool=nn.AvgPool2d(2), window=(22, 30), variants=ONE),
    "concat_pools": head(concat_pools, features=12, part=nn.BatchNorm1d(12), variants=ALL),
    "pyramid": head(pyramid, **PYRAMID),
    "gem": head(gem, **MEAN),
    "permute_flatten": head(lambda net, x: flat(net, x.permute(0, 2, 3, 1)), variants=ALL),
    "permute_mean": head(lambda net, x: mlp(net, x.permute(0, 2, 3, 1).mean((1, 2))), **MEAN),
    "permute_width_first": head(lambda net, x: flat(net, x.permute(0, 1, 3, 2)), variants=ONE),
    "batchnorm_flat": head(
        lambda net, x: mlp(net, net.part(torch.flatten(x, 1))), part=nn.BatchNorm1d(120), variants=ONE
    ),
    "batchnorm_unsqueezed": head(
        lambda net, x: net.d(torch.relu(net.n(net.c(torch.flatten(x, 1)).unsqueeze(2)).squeeze(2)))
    ),
    "scaled_flat": head(
        lambda net, x: mlp(net, torch.flatten(x, 1) * torch.linspace(0.5, 2, 120) - torch.linspace(0, 1, 120)),
        variants=ONE,
    ),
    "flat_relu": head(lambda net, x: mlp(net, torch.relu(torch.flatten(x, 1) - 0.3)), variants=ONE),
    "amax": head(lambda net, x: mlp(net, x.amax((2, 3))), **MEAN),
    "mean_keepdim": head(lambda net, x: mlp(net, x.mean((2, 3), keepdim=True).flatten(1)), **MEAN),
    "mean_negative": head(lambda net, x: mlp(net, x.mean([-1, -2])), **MEAN),
    "mean_twice": head(lambda net, x: mlp(net, x.mean(3).mean(2)), **MEAN, variants=ONE),
    "mean_of_flat": head(lambda net, x: mlp(net, x.flatten(2).mean(-1)), **MEAN, variants=ALL),
    "mean_of_tokens": head(lambda net, x: mlp(net, x.flatten(2).transpose(1, 2).mean(1)), **MEAN),
    "max_of_view": head(lambda net, x: mlp(net, x.view(x.size(0), 6, -1).max(2).values), **MEAN),
    "sum": head(lambda net, x: mlp(net, x.sum((2, 3)) / 20), **MEAN),
    "layer_norm_2d": head(layer_norm_2d, **MEAN, part=nn.LayerNorm(6)),
    "layer_norm_pooled": head(
        lambda net, x: mlp(net, net.part(x.mean((2, 3)))), **MEAN, part=nn.LayerNorm(6), variants=ONE
    ),
    "layer_norm_hidden": head(
        lambda net, x: net.d(F.gelu(net.part(net.c(x.flatten(1))))), part=nn.LayerNorm(4), variants=ONE
    ),
    "layer_norm_flat": head(lambda net, x: mlp(net, net.part(x.flatten(1))), part=nn.LayerNorm(120), variants=ONE),
    "conv_head": head(
        lambda net, x: torch.flatten(net.part(x), 1),
        part=nn.Sequential(nn.Conv2d(6, 4, (4, 5)), nn.ReLU(), nn.Conv2d(4, 5, 1)),
        features=1,
        variants=ONE,
    ),
    "conv_then_pool": head(
        lambda net, x: torch.flatten(net.part(x), 1),
        part=nn.Sequential(nn.Dropout(), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        features=1,
        variants=ONE,
    ),
    "cosine": head(cosine),
    "residual_fc": head(
        lambda net, x: net.d(net.c(x.flatten(1)) + torch.tanh(net.part(net.c(x.flatten(1))))),
        part=nn.Linear(4, 4),
        variants=ONE,
    ),
    "flat_plus_mean": head(lambda net, x: flat(net, x) + net.part(x.mean((2, 3))), part=nn.Linear(6, 5), variants=ONE),
    "glu": head(lambda net, x: net.part(F.glu(net.c(torch.flatten(x, 1)), 1)), part=nn.Linear(2, 5), variants=ONE),
    "log_softmax": head(lambda net, x: F.log_softmax(flat(net, x), 1), variants=ONE),
    "sigmoid": head(
        lambda net, x: torch.sigmoid(net.part(x.mean((2, 3)))), part=nn.Linear(6, 2), features=1, variants=ONE
    ),
    "sigmoid_one": head(
        lambda net, x: torch.sigmoid(net.part(x.flatten(1))), part=nn.Linear(120, 1), features=1, variants=ONE
    ),
    "sigmoid_squeezed": head(
        lambda net, x: torch.sigmoid(net.part(x.mean((2, 3)))).squeeze(1),
        part=nn.Linear(6, 1),
        features=1,
        variants=ONE,
    ),
    "attention": head(attention, **MEAN, part=nn.Conv2d(6, 1, 1)),
    "lstm": head(recurrent, features=1, part=nn.LSTM(6, 4, batch_first=True), variants=("torchscript",)),
}
