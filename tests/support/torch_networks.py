"""Networks of PyTorch with random weights whose scores of different windows differ. Import it in tests marked torch."""

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import nn

Network = TypeVar("Network", bound="nn.Module")


def randomised(net: Network) -> Network:
    """Give a network random statistics of batch normalisation, and weights that tell windows apart; for eval()."""
    import torch

    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 2)
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    net.eval()
    return net
