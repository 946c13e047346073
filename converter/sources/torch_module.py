"""Reads state_dicts into modules of PyTorch, and exports modules to ONNX.

The state_dict is read like every checkpoint, without PyTorch and without running code from it. It must have all tensors
of the module, and no other tensors.
"""

import re
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError
from converter.messages import first_cause, quiet
from converter.sources.checkpoint import BATCHES, Checkpoint, sha256, sha256_of_arrays
from converter.sources.classifier import Classifier
from converter.sources.frameworks import PYTORCH, framework
from converter.sources.network import check_keys
from converter.sources.onnx_file import check_input
from converter.sources.prefixes import fitting_prefix, without_prefix
from converter.sources.torch_export import export
from converter.sources.torch_heads import fit_head
from converter.sources.torch_libraries import (
    PACKAGES,
    Tensors,
    UntrainedModule,
    image_size,
    make_module,
    without_auxiliary,
)
from fullconv.protos import model_pb2

if TYPE_CHECKING:
    import torch

OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Matches keys of torchvision's first DenseNets, whose checkpoints it still offers: their norm.1 is now norm1."""


def read_module(checkpoint: Checkpoint, arch: str, window: tuple[int, int] | None) -> Classifier:
    """Load a checkpoint into the module that `arch` names, and export the module; raises ConversionError."""
    with quiet(), _current_directory():
        framework("torch", PYTORCH, f"--arch {arch}")
        return export_trained(checkpoint, make_module(arch, checkpoint.tensors, window), arch)


def export_trained(checkpoint: Checkpoint, module: UntrainedModule, name: str) -> Classifier:
    """Load a checkpoint into a module and export it. Raises ConversionError; call it within `quiet`."""
    return export_loaded(checkpoint, module, name, load_own(checkpoint, module.network, name))


def export_loaded(checkpoint: Checkpoint, module: UntrainedModule, name: str, notes: tuple[str, ...]) -> Classifier:
    """Export a module into which `load_own` has loaded a checkpoint; `notes` are the notes of `load_own`.

    Raises ConversionError; call it within `quiet`.
    """
    classifier = export(module.network, (_image(module.network, module.window),), name)
    source = model_pb2.Source(format=checkpoint.source.format, sha256=checkpoint.source.sha256, producer="pytorch")
    return replace(classifier, preprocess=module.preprocess, source=source, notes=notes)


def export_module(network: object, window: tuple[int, int] | None) -> Classifier:
    """Export a module that the caller has in memory, with its weights; the module itself is not changed.

    `window` is (height, width) in pixels; None stands for the module's attribute `window`. Raises ConversionError.
    """
    torch = sys.modules.get("torch")  # the caller has imported it if `network` is a module
    if torch is None or not isinstance(network, torch.nn.Module):
        raise SourceError(f"source: expected a path, a torch.nn.Module or a Keras model, got {type(network).__name__}")
    name = type(network).__name__
    with quiet():
        copy = deepcopy(network).cpu().float().eval()
        size = image_size(copy, window, f"the module {name}")
        classifier = export(copy, (_image(copy, size),), f"the module {name}")
    digest = sha256_of_arrays((key, value.numpy()) for key, value in copy.state_dict().items())
    source = model_pb2.Source(format="torch-module", sha256=digest, producer=f"pytorch {torch.__version__}")
    return replace(classifier, source=source)


def export_logits(network: "torch.nn.Module", window: tuple[int, int], name: str) -> Classifier:
    """Export a module of transformers, which returns an object with `logits`.

    Raises ConversionError; call it within `quiet`.
    """
    import torch  # noqa: PLC0415 (optional)

    class Scores(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(image).logits
            return logits

    return export(Scores().eval(), (_image(network, window),), name)


def read_trusted(path: Path, window: tuple[int, int] | None) -> Classifier:
    """Load a pickled module with PyTorch, which runs whatever code the file names, and export it."""
    with quiet(), _current_directory():
        torch = framework("torch", PYTORCH, "--trust")
        try:
            network = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:  # the file's code may raise any error
            raise SourceError(f"{path}: PyTorch cannot load it: {first_cause(error)}") from None
        if isinstance(network, dict):
            network = next((value for value in network.values() if isinstance(value, torch.nn.Module)), network)
        if not isinstance(network, torch.nn.Module):
            kind = type(network).__name__
            raise SourceError(f"{path}: expected a pickled torch.nn.Module, got {kind}; leave --trust out")
    classifier = export_module(network, window)
    note = "a pickled module, loaded with --trust: the file's code was run"
    source = model_pb2.Source(format="torch-pickle", sha256=sha256(path), producer=classifier.source.producer)
    return replace(classifier, source=source, notes=(note,))


@contextmanager
def _current_directory() -> Iterator[None]:
    """Let modules in the current directory be imported, as `python -m` does."""
    before = sys.path[:]
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def load_own(checkpoint: Checkpoint, network: "torch.nn.Module", name: str) -> tuple[str, ...]:
    """Load the part of a checkpoint whose keys are most like those of a network; returns notes on it.

    A network of a library gets the head of the checkpoint, if the checkpoint has another.
    """
    expected = set(network.float().eval().state_dict())
    prefix = fitting_prefix(checkpoint.tensors, lambda keys: len(expected & keys) / len(expected | keys))
    own, notes = without_prefix(checkpoint, prefix)
    tensors: Tensors = {OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in own.tensors.items()}
    if name.partition(":")[0] in PACKAGES:
        tensors, left_out = without_auxiliary(name, tensors)
        tensors, assumed = fit_head(network, tensors, name)
        notes += (*left_out, *assumed)
    _load(network, tensors, name)
    return notes


def _image(network: "torch.nn.Module", window: tuple[int, int]) -> "torch.Tensor":
    """Return a black image of a window's size; raises SourceError if it would be too large."""
    import torch  # noqa: PLC0415 (optional)

    sizes = (1, image_channels(network), *window)
    check_input("image", sizes)
    return torch.zeros(*sizes)


def image_channels(network: "torch.nn.Module") -> int:
    """Return the channels that the first convolution takes; 3 if there is no convolution."""
    import torch  # noqa: PLC0415 (optional)

    return next((part.in_channels for part in network.modules() if isinstance(part, torch.nn.Conv2d)), 3)


def _load(network: "torch.nn.Module", tensors: Tensors, arch: str) -> None:
    """Copy a checkpoint's tensors into a module; raises SourceError unless they are the tensors of the module."""
    import torch  # noqa: PLC0415 (optional)

    own = network.state_dict()
    misshapen = [key for key, value in own.items() if key in tensors and tensors[key].shape != tuple(value.shape)]
    for key in own.keys() & tensors.keys():
        if own[key].is_floating_point() and tensors[key].dtype.kind != "f":
            raise SourceError(f"checkpoint: {key}: expected floating-point numbers, got {tensors[key].dtype}")
    try:
        state: Any = OrderedDict((key, torch.from_numpy(tensors[key])) for key in tensors if key not in misshapen)
        # the version is stated for the whole module only, so that its parts convert keys of older releases
        state._metadata = {"": {"version": network._version}}  # noqa: SLF001 (where load_state_dict looks)
        missing, unknown = network.load_state_dict(state, strict=False)
    except Exception as error:  # hooks of modules may raise any error
        raise SourceError(f"checkpoint: it does not load into {arch}: {first_cause(error)}") from None
    missing = [key for key in missing if key not in misshapen and not key.endswith(BATCHES)]
    check_keys(arch, [key for key in own if not key.endswith(BATCHES)], missing, unknown)
    for key in misshapen:
        shapes = f"expected shape {tuple(own[key].shape)}, got {tensors[key].shape}"
        raise SourceError(f"checkpoint: {key}: {shapes}; name the checkpoint's own network with --arch")
