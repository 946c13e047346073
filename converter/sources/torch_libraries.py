"""Makes untrained modules of PyTorch: classifiers of torchvision and timm by name, and modules of factory functions.

    torchvision:resnet50        get_model("resnet50"), with the number of classes of the checkpoint
    timm:resnet50d              create_model("resnet50d"), with the number of classes and channels of the checkpoint
    mypackage.nets:build        build(), from a Python module on the path or in the current directory

A factory is the user's own code, and is run.
"""

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.messages import first_cause
from converter.preprocessing import NONE, Preprocessing
from converter.sources.frameworks import PYTORCH, framework

if TYPE_CHECKING:
    import torch

TORCHVISION, TIMM = "torchvision", "timm"
PACKAGES = {TORCHVISION: PYTORCH, TIMM: "pip install torch timm onnxscript"}
"""The command that installs a library with what its networks need."""
MODULE = re.compile(r"(?!\d)[\w.]+:(?!\d)[\w.]+")
INCEPTIONS = ("googlenet", "inception_v3")
AUXILIARY = ("aux1", "aux2", "AuxLogits")
"""Names of their auxiliary heads, which run only in training."""

Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class UntrainedModule:
    """A module, its window (height, width) in pixels, and its preprocessing."""

    network: "torch.nn.Module"
    window: tuple[int, int]
    preprocess: str | Preprocessing


def make_module(arch: str, tensors: Tensors, window: tuple[int, int] | None) -> UntrainedModule:
    """Make the module that `arch` names, with the number of classes of a checkpoint's tensors; raises SourceError."""
    package, name = arch.split(":")
    match package:
        case "torchvision":
            return _torchvision(name, tensors, window)
        case "timm":
            return timm_module(name, tensors, window)
    return _factory(package, name, window)


def library(arch: str) -> ModuleType:
    """Import the library of a network; raises SourceError that says what to install."""
    package, _ = arch.split(":")
    return framework(package, PACKAGES[package], f"--arch {arch}")


def image_size(network: "torch.nn.Module", asked: tuple[int, int] | None, what: str) -> tuple[int, int]:
    """Return the window (height, width) that the user requested, or the module's attribute `window`."""
    window = asked or getattr(network, "window", None)
    if not isinstance(window, tuple) or [type(size) for size in window] != [int, int] or min(window) < 1:
        raise SourceError(
            f"window: expected the attribute `window`, (height, width), of {what}, got {window!r}; give --window "
            "HEIGHTxWIDTH"
        )
    return window


def timm_module(
    name: str,
    tensors: Tensors,
    window: tuple[int, int] | None,
    **settings: Any,
) -> UntrainedModule:
    """Make one of timm's classifiers; `settings` are further arguments of timm's create_model."""
    timm = library(f"{TIMM}:{name}")
    plain = name.split(".", maxsplit=1)[0]
    if plain not in (known := timm.list_models()):
        raise _unknown(TIMM, plain, known, "resnet50d")
    config = timm.models.get_pretrained_cfg(name)
    found = {} if config is None else config.to_dict()
    network = _made(lambda: timm.create_model(name, pretrained=False, **(_counts(found, tensors) | settings)), name)
    config = timm.data.resolve_model_data_config(network)
    size: Any = window or tuple(config["input_size"][1:])
    mean, std = (tuple(float(number) for number in config[part]) for part in ("mean", "std"))
    return UntrainedModule(network, size, Preprocessing(scale=1 / 255, mean=mean, std=std, order=_order(len(mean))))


def _order(channels: int) -> Literal["RGB", "GRAY"] | None:
    return "RGB" if channels == 3 else "GRAY" if channels == 1 else None


def _counts(config: Mapping[str, Any], tensors: Tensors) -> dict[str, int]:
    """Return the numbers of classes and channels of a checkpoint of a network of timm, where they can be seen."""
    counts = {}
    for argument, layer, axis in (("num_classes", "classifier", 0), ("in_chans", "first_conv", 1)):
        names: Any = config.get(layer) or ()
        first = names if isinstance(names, str) else next(iter(names), "")
        shape = _shape(tensors, f"{first}.weight")
        if len(shape) > axis and shape[axis]:
            counts[argument] = shape[axis]
    return counts


def _shape(tensors: Tensors, key: str) -> tuple[int, ...]:
    """Return the shape of the tensor with a key, before which there may be a prefix; () without such a tensor."""
    return next((value.shape for name, value in tensors.items() if f".{name}".endswith(f".{key}")), ())


def _made(make: Callable[[], "torch.nn.Module"], name: str) -> "torch.nn.Module":
    try:
        return make()
    except Exception as error:  # a library may raise any error
        raise SourceError(f"arch: {TIMM} cannot make {name}: {first_cause(error)}") from None


def _unknown(package: str, name: str, known: Iterable[str], example: str) -> SourceError:
    names = list(known)
    near = ", ".join(difflib.get_close_matches(name, names)) or f"{example} or another of {len(names)}"
    return SourceError(f"arch: {package} has no classifier {name!r}; expected {near}")


def _torchvision(name: str, tensors: Tensors, window: tuple[int, int] | None) -> UntrainedModule:
    """Return one of torchvision's classifiers, with the window and preprocessing of torchvision's own weights."""
    models = library(f"{TORCHVISION}:{name}").models
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(TORCHVISION, name, known, "resnet50")
    training = models.get_model_weights(name).DEFAULT.transforms()
    window = window or (training.crop_size[0],) * 2
    options = _options(name, window)
    network = models.get_model(name, weights=None, **options)
    *_, (head, weight) = ((key, value) for key, value in network.state_dict().items() if key.endswith(".weight"))
    classes = _shape(tensors, head)
    if classes != weight.shape and classes[:1] > (0,) and classes[1:] == weight.shape[1:]:
        network = models.get_model(name, weights=None, num_classes=classes[0], **options)
    mean, std = (tuple(float(number) for number in numbers) for numbers in (training.mean, training.std))
    return UntrainedModule(network, window, Preprocessing(scale=1 / 255, mean=mean, std=std, order="RGB"))


def _options(name: str, window: tuple[int, int]) -> dict[str, Any]:
    """Return the options of a network that its keys do not show; for Inception those of torchvision's own weights.

    Auxiliary heads are left out; without_auxiliary removes their tensors.
    """
    if name in INCEPTIONS:
        return {"aux_logits": False, "transform_input": True, "init_weights": False}
    return {"image_size": window[0]} if name.startswith("vit_") else {}


def without_auxiliary(arch: str, tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Return a network's tensors without those of auxiliary heads, and a note on these."""
    package, _, name = arch.partition(":")
    if package != TORCHVISION or name not in INCEPTIONS:
        return tensors, ()
    own = {key: tensor for key, tensor in tensors.items() if key.partition(".")[0] not in AUXILIARY}
    heads = sorted({key.partition(".")[0] for key in tensors} & set(AUXILIARY))
    return own, (f"left out: {', '.join(heads)}, which run only in training",) if heads else ()


def _factory(package: str, name: str, window: tuple[int, int] | None) -> UntrainedModule:
    """Return the module that a factory makes."""
    import torch  # noqa: PLC0415 (optional)

    try:
        network = getattr(importlib.import_module(package), name)()
    except (Exception, SystemExit) as error:  # the user's code may raise any error
        reason = f"arch: {package}:{name} fails: {type(error).__name__}: {first_cause(error)}"
        near = difflib.get_close_matches(package, PACKAGES) if isinstance(error, ModuleNotFoundError) else []
        raise SourceError(f"{reason}; nearest: {near[0]}:{name}" if near else reason) from None
    if not isinstance(network, torch.nn.Module):
        raise SourceError(f"arch: {package}:{name}: expected a torch.nn.Module, got {type(network).__name__}")
    return UntrainedModule(network, image_size(network, window, f"the module that {package}:{name} returns"), NONE)
