"""Architectures in TOML files, which state the facts that a state_dict does not hold.

    name = "digits"
    channels = 1
    window = [70, 70]         # height, width in pixels
    preprocess = "unit"       # a preset's name, or a table of what --preprocess takes from a JSON file
    activation = "softmax"    # what turns the outputs into probabilities; optional
    labels = ["0", "1"]       # optional
    layers = [
      { op = "conv", key = "features.0", out = 16, kernel = 3, stride = 1, pad = 0 },
      { op = "linear", key = "classifier.4" },    # without `out`: as many outputs as the checkpoint has
    ]

layers.py has every layer. Networks that repeat layers list them as blocks (blocks.py). The file describes a family: how
often blocks are repeated, the widths of layers and the number of classes are those of the checkpoint.
"""

import tomllib
from collections.abc import Collection, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from converter.errors import SourceError, UnknownTensorsError
from converter.messages import first_problem
from converter.preprocessing import Preprocessing
from converter.sources.blocks import Block, Expander
from converter.sources.layers import Add, Concat, Layer, Positive, Table, WithTensors
from converter.sources.prefixes import fitting_prefix
from fullconv.common.text import counted

LEAST_LIKENESS = 0.5
"""An architecture is recognised if it and the checkpoint share more than this part of all their keys."""


class Architecture(Table):
    """A network as a list of layers, its window, its preprocessing, and the meaning of its scores."""

    name: str
    channels: Positive
    window: Annotated[tuple[Positive, Positive], Field(strict=False)]
    preprocess: Preprocessing | str
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    labels: Annotated[tuple[str, ...], Field(strict=False)] = ()
    layers: Annotated[tuple[Layer, ...], Field(strict=False, min_length=1)]
    blocks: dict[str, Block] = Field(default_factory=dict)

    def layers_for(self, keys: Collection[str]) -> list[Layer]:
        """Return the layers for a checkpoint with these keys, with all blocks expanded; raises SourceError."""
        return list(Expander(self.blocks, keys).expanded(self.layers))

    def keys(self, present: Collection[str] = ()) -> Iterator[str]:
        """Yield the keys of the network's tensors; `present`, those of the checkpoint, decide about blocks."""
        return tensor_keys(self.layers_for(present))

    def likeness(self, keys: set[str]) -> float:
        """Return the share of all keys of the network and of a checkpoint that both have."""
        expected = set(self.keys(keys))
        return len(expected & keys) / len(expected | keys)


def tensor_keys(layers: Sequence[Layer]) -> Iterator[str]:
    """Yield the keys of the tensors of layers."""
    for layer in layers:
        match layer:
            case WithTensors():
                yield from layer.tensor_keys
            case Add() | Concat():
                for branch in layer.branches:
                    yield from tensor_keys(branch)


def load_architecture(choice: str) -> Architecture:
    """Return a shipped architecture by its name, or the architecture in a TOML file; raises SourceError."""
    shipped = {path.stem: path for path in _shipped()}
    if choice in shipped:
        return _parse(shipped[choice].read_bytes(), choice)
    try:
        return _parse(Path(choice).read_bytes(), choice)
    except OSError as error:
        names = ", ".join(sorted(shipped))
        raise SourceError(f"arch: expected a TOML file or one of {names}, got {choice!r}: {error.strerror}") from None


def recognise(keys: Collection[str]) -> tuple[str, list[Architecture]]:
    """Return the shipped architectures that share most keys with these, and the prefix of these keys.

    Several architectures may have the same keys; then the shapes of the tensors must decide. Raises
    UnknownTensorsError unless more than half of the keys agree.
    """
    known = [load_architecture(path.stem) for path in _shipped()]
    prefix = fitting_prefix(keys, lambda own: max(architecture.likeness(own) for architecture in known))
    own = {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
    likeness = [architecture.likeness(own) for architecture in known]
    if max(likeness) <= LEAST_LIKENESS:
        raise UnknownTensorsError(
            f"arch: the checkpoint's {counted(len(keys), 'tensor')} match none of {len(known)} known architectures; "
            "list the network's layers with --arch FILE.toml; or, if PyTorch is installed, name its module, --arch "
            "torchvision:resnet50, or the function that makes it, --arch mypackage.nets:build; or export it to ONNX "
            "and convert the result"
        )
    return prefix, [each for each, like in zip(known, likeness, strict=True) if like == max(likeness)]


def _shipped() -> list[Path]:
    folder = resources.files("converter") / "architectures"
    return sorted(Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _parse(text: bytes, origin: str) -> Architecture:
    try:
        return Architecture.model_validate(tomllib.loads(text.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"arch: {origin}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise SourceError(f"arch: {origin}: {first_problem(error)}") from None
