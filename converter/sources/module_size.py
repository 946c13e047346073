"""Ends the construction of a PyTorch network that is far larger than the weights that it is made for.

The settings in a config.json determine the size of the network; one wrong number may stand for millions of layers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from converter.errors import SourceError

if TYPE_CHECKING:
    import torch

MODULES, MODULES_PER_TENSOR = 10_000, 20
"""Number of modules that a network may have, and how many more for each tensor of its weights."""
PARAMETERS, PARAMETERS_PER_ELEMENT = 10_000_000, 4
"""Number of parameters that a network may have, and how many more for each number of its weights."""


@contextmanager
def limited_size(tensors: Mapping[str, NDArray[np.generic]]) -> Iterator[None]:
    """Limit the networks that are made inside this context by the size of their weights; raises SourceError."""
    from torch.nn.modules import module as torch_module  # noqa: PLC0415 (optional)

    most_modules = MODULES + MODULES_PER_TENSOR * len(tensors)
    most_parameters = PARAMETERS + PARAMETERS_PER_ELEMENT * sum(tensor.size for tensor in tensors.values())
    modules = parameters = 0

    def count_module(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > most_modules:
            raise _too_large("modules", most_modules, len(tensors))

    def count_parameter(_: object, __: str, parameter: "torch.nn.Parameter | None") -> None:
        nonlocal parameters
        parameters += 0 if parameter is None else parameter.numel()
        if parameters > most_parameters:
            raise _too_large("parameters", most_parameters, len(tensors))

    handles = (
        torch_module.register_module_module_registration_hook(count_module),
        torch_module.register_module_parameter_registration_hook(count_parameter),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _too_large(what: str, most: int, tensors: int) -> SourceError:
    return SourceError(
        f"config.json: expected at most {most} {what} for weights with this number of tensors: {tensors}, got a larger "
        "network; correct the settings, or give the weights of this network"
    )
