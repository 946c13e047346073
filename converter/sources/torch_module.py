"""Reads modules of PyTorch, and state_dicts with their module, from torchvision or from a factory function.

    --arch torchvision:resnet50        get_model("resnet50"), with the number of classes of the checkpoint
    --arch mypackage.nets:build        build(), from a Python module on the path or in the current directory

The state_dict is read like every checkpoint, without PyTorch and without running code from it. It must have all tensors
of the module, and no other tensors. A factory is the user's own code, and is run.
"""

import difflib
import hashlib
import importlib
import re
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.messages import first_cause, quiet
from converter.preprocessing import NONE, Preprocessing
from converter.sources.checkpoint import Checkpoint, read_checkpoint
from converter.sources.classifier import Classifier
from converter.sources.frameworks import PYTORCH, framework
from converter.sources.network import BATCHES, check_keys
from converter.sources.prefixes import fitting_prefix, without_prefix
from converter.sources.torch_export import export
from fullconv.protos import model_pb2

if TYPE_CHECKING:
    import torch

TORCHVISION = "torchvision"
MODULE = re.compile(r"(?!\d)[\w.]+:(?!\d)\w+")
INCEPTIONS = ("googlenet", "inception_v3")
AUXILIARY = ("aux1", "AuxLogits")
"""Names of their auxiliary heads."""
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Matches keys of torchvision's first DenseNets, whose checkpoints it still offers: their norm.1 is now norm1."""


@dataclass(frozen=True)
class TrainedModule:
    """A module, its window (height, width) in pixels, and its preprocessing."""

    network: "torch.nn.Module"
    window: tuple[int, int]
    preprocess: str | Preprocessing


def names_module(arch: str) -> bool:
    """Return whether --arch names a module instead of a file."""
    return MODULE.fullmatch(arch) is not None and not Path(arch).exists()


def read_module(path: Path, arch: str, window: tuple[int, int] | None) -> Classifier:
    """Read a checkpoint, load it into the module that `arch` names, and export the module; raises ConversionError."""
    checkpoint = read_checkpoint(path)
    with quiet(), _current_directory():
        torch = framework("torch", PYTORCH, f"--arch {arch}")
        package, name = arch.split(":")
        module = _torchvision(name, checkpoint, window) if package == TORCHVISION else _factory(package, name, window)
        network = module.network.float().eval()
        own, notes = _own(checkpoint, network)
        _load(network, own.tensors, arch)
        image = torch.zeros(1, _channels(network), *module.window)
        classifier = export(network, (image,), f"--arch {arch}")
    source = model_pb2.Source(format=checkpoint.source.format, sha256=checkpoint.source.sha256, producer="pytorch")
    return replace(classifier, preprocess=module.preprocess, source=source, notes=notes)


def export_module(network: object, window: tuple[int, int] | None) -> Classifier:
    """Export a module that the caller has in memory, with its weights; the module itself is not changed.

    `window` is (height, width) in pixels; None stands for the module's attribute `window`. Raises ConversionError.
    """
    torch = sys.modules.get("torch")  # the caller has imported it if `network` is a module
    if torch is None or not isinstance(network, torch.nn.Module):
        raise SourceError(f"source: expected a path or a torch.nn.Module, got {type(network).__name__}")
    name = type(network).__name__
    with quiet():
        copy = deepcopy(network).cpu().float().eval()
        size = _window(copy, window, f"the module {name}")
        classifier = export(copy, (torch.zeros(1, _channels(copy), *size),), f"the module {name}")
    source = model_pb2.Source(format="torch-module", sha256=_digest(copy), producer=f"pytorch {torch.__version__}")
    return replace(classifier, source=source)


def _digest(network: "torch.nn.Module") -> str:
    """Return the SHA-256 of a module's state_dict: each tensor's name and bytes, in order."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _current_directory() -> Iterator[None]:
    """Let modules in the current directory be imported, as `python -m` does."""
    before = sys.path[:]
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _torchvision(name: str, checkpoint: Checkpoint, window: tuple[int, int] | None) -> TrainedModule:
    """Return one of torchvision's classifiers, with the window and preprocessing of torchvision's own weights."""
    models = framework(TORCHVISION, PYTORCH, f"--arch {TORCHVISION}:{name}").models
    known = models.list_models(module=models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known)) or f"resnet50 or another of {len(known)}"
        raise SourceError(f"arch: torchvision has no classifier {name!r}; expected {near}")
    training = models.get_model_weights(name).DEFAULT.transforms()
    window = window or (training.crop_size[0],) * 2
    options = _options(name, checkpoint.tensors, window)
    network = models.get_model(name, weights=None, **options)
    *_, (head, weight) = ((key, value) for key, value in network.state_dict().items() if key.endswith(".weight"))
    own, _ = _own(checkpoint, network)
    classes = own.tensors.get(head, np.empty(0)).shape
    if classes != weight.shape and classes[:1] > (0,) and classes[1:] == weight.shape[1:]:
        network = models.get_model(name, weights=None, num_classes=classes[0], **options)
    mean, std = (tuple(float(number) for number in numbers) for numbers in (training.mean, training.std))
    return TrainedModule(network, window, Preprocessing(scale=1 / 255, mean=mean, std=std, order="RGB"))


def _own(checkpoint: Checkpoint, network: "torch.nn.Module") -> tuple[Checkpoint, tuple[str, ...]]:
    """Return the part of a checkpoint whose keys are most like those of a network, and a note on it."""
    expected = set(network.state_dict())
    prefix = fitting_prefix(checkpoint.tensors, lambda keys: len(expected & keys) / len(expected | keys))
    return without_prefix(checkpoint, prefix)


def _options(name: str, keys: Collection[str], window: tuple[int, int]) -> dict[str, Any]:
    """Return the options of a network that its keys do not show; for Inception those of torchvision's own weights."""
    if name in INCEPTIONS:
        auxiliary = any(word in AUXILIARY for key in keys for word in key.split("."))
        return {"aux_logits": auxiliary, "transform_input": True, "init_weights": False}
    return {"image_size": window[0]} if name.startswith("vit_") else {}


def _factory(package: str, name: str, window: tuple[int, int] | None) -> TrainedModule:
    """Return the module that a factory makes."""
    import torch  # noqa: PLC0415 (optional)

    try:
        network = getattr(importlib.import_module(package), name)()
    except (Exception, SystemExit) as error:  # the user's code may raise any error
        raise SourceError(f"arch: {package}:{name} fails: {type(error).__name__}: {first_cause(error)}") from None
    if not isinstance(network, torch.nn.Module):
        raise SourceError(f"arch: {package}:{name}: expected a torch.nn.Module, got {type(network).__name__}")
    return TrainedModule(network, _window(network, window, f"the module that {package}:{name} returns"), NONE)


def _window(network: "torch.nn.Module", asked: tuple[int, int] | None, what: str) -> tuple[int, int]:
    """Return the window (height, width) that the user requested, or the module's attribute `window`."""
    window = asked or getattr(network, "window", None)
    if not isinstance(window, tuple) or [type(size) for size in window] != [int, int] or min(window) < 1:
        raise SourceError(
            f"window: expected the attribute `window`, (height, width), of {what}, got {window!r}; give --window "
            "HEIGHTxWIDTH"
        )
    return window


def _channels(network: "torch.nn.Module") -> int:
    """Return the channels that the first convolution takes; 3 if there is no convolution."""
    import torch  # noqa: PLC0415 (optional)

    return next((part.in_channels for part in network.modules() if isinstance(part, torch.nn.Conv2d)), 3)


def _load(network: "torch.nn.Module", tensors: Mapping[str, NDArray[np.generic]], arch: str) -> None:
    """Copy a checkpoint's tensors into a module; raises SourceError unless they are the tensors of the module."""
    import torch  # noqa: PLC0415 (optional)

    own = network.state_dict()
    named = {OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in tensors.items()}
    misshapen = [key for key, value in own.items() if key in named and named[key].shape != tuple(value.shape)]
    for key in own.keys() & named.keys():
        if own[key].is_floating_point() and named[key].dtype.kind != "f":
            raise SourceError(f"checkpoint: {key}: expected floating-point numbers, got {named[key].dtype}")
    try:
        state: Any = OrderedDict((key, torch.from_numpy(named[key])) for key in named if key not in misshapen)
        # the version is stated for the whole module only, so that its parts convert keys of older releases
        state._metadata = {"": {"version": network._version}}  # noqa: SLF001 (where load_state_dict looks)
        missing, unknown = network.load_state_dict(state, strict=False)
    except Exception as error:  # hooks of modules may raise any error
        raise SourceError(f"checkpoint: it does not load into {arch}: {first_cause(error)}") from None
    check_keys(arch, len(own), [key for key in missing if key not in misshapen and not key.endswith(BATCHES)], unknown)
    for key in misshapen:
        shapes = f"expected shape {tuple(own[key].shape)}, got {named[key].shape}"
        raise SourceError(f"checkpoint: {key}: {shapes}; name the checkpoint's network with --arch")
