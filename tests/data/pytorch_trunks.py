"""The trunks that `make_pytorch.py` exports: operations between two convolutions, and small whole architectures."""

from collections.abc import Callable
from functools import partial, reduce

import torch
from pytorch_case import BOTH, FIXED, ONE, Case, through
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import BasicBlock
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.squeezenet import Fire
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

MAP = (6, 10, 12)
"""Shape of the maps that `through` passes to its module in the middle."""


class Apply(nn.Module):
    """A function of a map, and the modules that it uses."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, image: Tensor) -> Tensor:
        """The function's value."""
        return self.function(image, *self.parts)


class GlobalResponseNorm(nn.Module):
    """ConvNeXt v2's normalisation, of channels-last maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, image: Tensor) -> Tensor:
        """Return the channels, each scaled by its norm over the whole map relative to the mean of all norms."""
        norm = torch.norm(image, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (image * (norm / (norm.mean(-1, keepdim=True) + 1e-6))) + self.beta + image


class LocallyConnected(nn.Module):
    """Every 2×2 pixels with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(30, 2, 24))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 2, 5, 6)."""
        columns = F.unfold(image, 2, stride=2).transpose(1, 2)
        return torch.einsum("nlk,lok->nol", columns, self.weight).reshape(-1, 2, 5, 6)


class Positions(nn.Module):
    """A constant for every position of the map."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, *shape))

    def forward(self, image: Tensor) -> Tensor:
        """The map with the table added."""
        return image + self.table


def shuffle(image: Tensor, groups: int = 3) -> Tensor:
    """ShuffleNet's order of channels."""
    batch, channels, height, width = image.shape
    return image.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(image.shape)


def excite(image: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
    """Squeeze and excite with fully connected layers."""
    gates = torch.sigmoid(up(torch.relu(down(image.mean((2, 3))))))
    return image * gates.view(gates.size(0), -1, 1, 1)


def focus(image: Tensor) -> Tensor:
    """Every second pixel, four times: YOLOv5's first layer."""
    return torch.cat([image[..., row::2, col::2] for col in (0, 1) for row in (0, 1)], 1)


def channels_last(norm: nn.Module) -> nn.Module:
    """Wrap a module for channels-last maps, so that it takes channels-first maps."""
    return Apply(lambda x, norm: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm)


def unit(image: Tensor, branch: nn.Module) -> Tensor:
    """A ShuffleNet v2 unit: half of the channels go through the branch."""
    kept, changed = image.chunk(2, 1)
    return shuffle(torch.cat([kept, branch(changed)], 1), 2)


def cropped_residual(image: Tensor, branch: nn.Module) -> Tensor:
    """A residual block without padding."""
    return image[:, :, 1:-1, 1:-1] + branch(image)


def dense(image: Tensor, branch: nn.Module) -> Tensor:
    """An unpadded layer's channels beside the cropped map's."""
    return torch.cat([image[..., 1:-1, 1:-1], branch(image)], 1)


def total(image: Tensor, *parts: nn.Module) -> Tensor:
    """The sum of the outputs of the parts for the map."""
    return reduce(torch.add, [part(image) for part in parts])


ACTIVATIONS = (
    *(nn.Hardswish, nn.SiLU, nn.GELU, partial(nn.PReLU, 6), nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish, nn.ReLU6),
    *(nn.Hardsigmoid, nn.Softplus, nn.CELU, nn.Hardtanh, nn.Softsign, nn.Tanh, partial(nn.GELU, "tanh")),
)

MIDDLES: dict[str, Case] = {
    "local_response_norm": through(lambda: nn.LocalResponseNorm(5, alpha=0.5), variants=BOTH),
    "cross_channel_softmax": through(lambda: nn.Softmax(1)),
    "channel_shuffle": through(lambda: Apply(shuffle), variants=BOTH),
    "shuffle_unit": through(lambda: Apply(unit, nn.Conv2d(3, 3, 1)), variants=(*BOTH, "torchscript_batch")),
    "layer_norm_pixel": through(lambda: channels_last(nn.LayerNorm(6)), variants=BOTH),
    "squeeze_excite": through(lambda: SqueezeExcitation(6, 5), variants=BOTH),
    "squeeze_excite_linear": through(
        lambda: Apply(excite, nn.Linear(6, 5), nn.Linear(5, 6)), variants=("torchscript",)
    ),
    "global_response_norm": through(lambda: channels_last(GlobalResponseNorm(6)), variants=BOTH),
    "group_norm": through(lambda: nn.GroupNorm(2, 6)),
    "instance_norm": through(lambda: nn.InstanceNorm2d(6, affine=True), variants=("dynamo_batch",)),
    "layer_norm_map": through(lambda: nn.LayerNorm(MAP)),
    "spatial_softmax": through(
        lambda: Apply(lambda x: torch.softmax(x.flatten(2), 2).view(x.shape) * 50), variants=("dynamo_batch",)
    ),
    "positions": through(lambda: Positions(*MAP)),
    "channel_constants": through(lambda: Positions(6, 1, 1)),
    "locally_connected": through(LocallyConnected, channels=2),
    "transposed": through(lambda: nn.ConvTranspose2d(6, 6, 2, stride=2)),
    "upsample": through(lambda: nn.Upsample(scale_factor=2)),
    "resize_to": through(lambda: Apply(lambda x: F.interpolate(x, (9, 9), mode="bilinear"))),
    "dilated": through(lambda: nn.Conv2d(6, 6, 3, dilation=2)),
    "grouped": through(lambda: nn.Sequential(nn.Conv2d(6, 12, 3, groups=3), nn.Conv2d(12, 6, 3, groups=6))),
    "strided": through(lambda: nn.Conv2d(6, 6, 3, stride=(2, 1))),
    "lp_pool": through(lambda: nn.LPPool2d(2, 2), variants=BOTH),
    "ceil_pool": through(lambda: nn.MaxPool2d(3, 2, ceil_mode=True)),
    "dilated_pool": through(lambda: nn.MaxPool2d(2, 1, dilation=2)),
    "average_pool_pad": through(lambda: nn.AvgPool2d(3, 1, 1)),
    "hardswish": through(nn.Hardswish),
    "activations": through(lambda: Apply(total, *(kind() for kind in ACTIVATIONS)), variants=BOTH),
    "clamp": through(lambda: Apply(lambda x: (x * 2 - 0.1).clamp(-0.5, 1.5).abs().sqrt())),
    "batchnorm_trunk": through(lambda: nn.BatchNorm2d(6)),
    "reflect_pad": through(lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), variants=("dynamo_batch",)),
    "replicate_pad": through(
        lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="replicate"), variants=("dynamo_batch",)
    ),
    "same_pad": through(lambda: nn.Conv2d(6, 6, (4, 3), padding="same")),
    "uneven_pad": through(
        lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(6, 6, 3, stride=2)), variants=BOTH
    ),
    "basic_block": through(lambda: BasicBlock(6, 6)),
    "cropped_residual": through(lambda: Apply(cropped_residual, nn.Conv2d(6, 6, 3))),
    "dense": through(lambda: Apply(dense, nn.Conv2d(6, 6, 3)), channels=12),
    "fire": through(lambda: Fire(6, 2, 3, 3)),
    "focus": through(lambda: Apply(focus), channels=24),
    "pixel_unshuffle": through(lambda: nn.PixelUnshuffle(2), channels=24),
    "depthwise_separable": through(
        lambda: nn.Sequential(Conv2dNormActivation(6, 6, groups=6, padding=0), nn.Conv2d(6, 6, 1, bias=False))
    ),
}


def squeezenet() -> nn.Module:
    """A small SqueezeNet: pools that round up, and a classifier that is a convolution before the average."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(6, 2, 4, 4), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 2, 4, 4)),
        *(nn.Dropout(), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()),
    )


def convnext() -> nn.Module:
    """Two stages of one block each."""
    return ConvNeXt([CNBlockConfig(4, 8, 1), CNBlockConfig(8, None, 1)], layer_scale=0.5, num_classes=5)


def swin() -> nn.Module:
    """One plain and one shifted window."""
    return SwinTransformer([2, 2], embed_dim=4, depths=[2], num_heads=[2], window_size=[2, 2], num_classes=5)


def vit() -> nn.Module:
    """One layer, with a class token."""
    return VisionTransformer(16, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=5)


ARCHITECTURES: dict[str, Case] = {
    "squeezenet": Case(squeezenet, (1, 3, 41, 45)),
    "convnext": Case(convnext, (1, 3, 32, 40)),
    "densenet": Case(lambda: DenseNet(4, (1, 2), 4, bn_size=1, num_classes=5), (1, 3, 32, 40), ONE),
    "shufflenet": Case(
        lambda: ShuffleNetV2([1, 1, 1], [4, 4, 4, 4, 8], num_classes=5), (1, 3, 40, 48), ("dynamo_batch",)
    ),
    "swin": Case(swin, (1, 3, 8, 8), ("dynamo",)),
    "vit": Case(vit, (1, 3, 16, 16), ("dynamo_batch",)),
    "mlp": Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 6), nn.ReLU(), nn.Linear(6, 5)), (1, 3, 8, 6)),
    "grey": Case(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)),
        (1, 1, 16, 16),
        ONE,
    ),
    "four_bands": Case(
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
        (1, 4, 9, 9),
        ONE,
    ),
    "conv1d": Case(
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14, 5)), (1, 3, 16), FIXED
    ),
    "conv3d": Case(
        lambda: nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 5)),
        (1, 3, 6, 8, 8),
        FIXED,
    ),
}

TRUNKS = MIDDLES | ARCHITECTURES
