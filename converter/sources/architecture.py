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

A file may change a shipped architecture, for example its head:

    base = "resnet_basic"     # gives the fields that the file does not have
    replace.fc = [            # layers in place of those whose keys are fc or begin with "fc."
      { op = "linear", key = "fc.0" },
      { op = "relu" },
      { op = "linear", key = "fc.3" },
    ]
"""

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from converter.errors import SourceError, UnknownTensorsError
from converter.messages import first_problem
from converter.preprocessing import Preprocessing
from converter.sources.blocks import Block, Expander
from converter.sources.heads import head_modules, is_within, replace_layers
from converter.sources.layers import Layer, Positive, Table, tensor_keys
from converter.sources.prefixes import fitting_prefix
from fullconv.common.text import counted

LEAST_LIKENESS = 0.5
"""An architecture is recognised if it and the checkpoint share more than this part of all their keys."""


class Architecture(Table):
    """A network as a list of layers, its window, its preprocessing, and the meaning of its scores.

    `networks` are names of networks that it describes, beside its own. `base` is the shipped architecture that it is or
    changes; "" for other networks. `replace` lists layers in place of the base's, by the module to which these belong.
    """

    name: str
    channels: Positive
    window: Annotated[tuple[Positive, Positive], Field(strict=False)]
    preprocess: Preprocessing | str
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    labels: Annotated[tuple[str, ...], Field(strict=False)] = ()
    layers: Annotated[tuple[Layer, ...], Field(strict=False, min_length=1)]
    blocks: dict[str, Block] = Field(default_factory=dict)
    networks: Annotated[tuple[str, ...], Field(strict=False)] = ()
    base: str = ""
    replace: dict[str, Annotated[tuple[Layer, ...], Field(strict=False)]] = Field(default_factory=dict)

    def layers_for(self, keys: Collection[str]) -> list[Layer]:
        """Return the layers for a checkpoint with these keys, with all blocks expanded; raises SourceError."""
        return list(Expander(self.blocks, keys).expanded(_replaced(self.layers, self.replace)))

    def keys(self, present: Collection[str] = ()) -> Iterator[str]:
        """Yield the keys of the network's tensors; `present`, those of the checkpoint, decide about blocks."""
        return tensor_keys(self.layers_for(present))

    def likeness(self, keys: set[str]) -> float:
        """Return the share of all keys of the network and of a checkpoint that both have, with or without a head."""
        layers = self.layers_for(keys)
        expected, (*_, head) = set(tensor_keys(layers)), head_modules(layers)
        trunk, own = ({key for key in every if not is_within(key, head)} for every in (expected, keys))
        return max(len(one & other) / max(1, len(one | other)) for one, other in ((expected, keys), (trunk, own)))


def load_architecture(choice: str) -> Architecture:
    """Return a shipped architecture by its or its network's name, or that of a TOML file; raises SourceError."""
    if name := shipped_name(choice):
        return _parse(_shipped()[name].read_bytes(), name, name)
    try:
        return _parse(Path(choice).read_bytes(), choice)
    except OSError as error:
        raise SourceError(f"arch: expected a TOML file, got {choice!r}: {error.strerror or error}") from None


def shipped_name(choice: str) -> str | None:
    """Return the name of the shipped architecture that has a name, or describes a network of this name."""
    return shipped_names().get(choice)


def shipped_names() -> dict[str, str]:
    """Return the names of the shipped architectures by their names and by those of the networks that they describe."""
    tables = {name: tomllib.loads(path.read_text("utf-8")) for name, path in _shipped().items()}
    networks = {network: name for name, table in tables.items() for network in table.get("networks", ())}
    return networks | {name: name for name in tables}


def recognise(keys: Collection[str]) -> tuple[str, list[Architecture]]:
    """Return the shipped architectures that share most keys with these, and the prefix of these keys.

    Several architectures may have the same keys; then the shapes of the tensors must decide. Raises
    UnknownTensorsError unless more than half of the keys agree.
    """
    known = [load_architecture(name) for name in _shipped()]
    prefix = fitting_prefix(keys, lambda own: max(architecture.likeness(own) for architecture in known))
    own = {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
    likeness = [architecture.likeness(own) for architecture in known]
    if max(likeness) <= LEAST_LIKENESS:
        verb = "matches" if len(keys) == 1 else "match"
        raise UnknownTensorsError(
            f"arch: the checkpoint's {counted(len(keys), 'tensor')} {verb} none of {len(known)} known architectures; "
            "list the network's layers with --arch FILE.toml; or, if PyTorch is installed, name its module, --arch "
            "torchvision:resnet50, or the function that makes it, --arch mypackage.nets:build; or export it to ONNX "
            "and convert the result"
        )
    return prefix, [each for each, like in zip(known, likeness, strict=True) if like == max(likeness)]


def _shipped() -> dict[str, Path]:
    folder = resources.files("converter") / "architectures"
    files = sorted(Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {file.stem: file for file in files}


def _parse(text: bytes, origin: str, base: str = "") -> Architecture:
    """Return the architecture in a file; `base` is its own name if it is shipped. Raises SourceError."""
    try:
        table = tomllib.loads(text.decode("utf-8"))
        architecture = Architecture.model_validate({**table, "base": base} if base else _extended(table, origin))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"arch: {origin}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise SourceError(f"arch: {origin}: {first_problem(error, Architecture.model_fields)}") from None
    try:
        _replaced(architecture.layers, architecture.replace)
    except ValueError as error:
        raise SourceError(f"arch: {origin}: replace: {error}") from None
    return architecture


def _extended(table: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return the table of a file with the fields of its base, if it has one; raises SourceError."""
    if "base" not in table:
        return table
    choice = table["base"]
    if not isinstance(choice, str) or (name := shipped_name(choice)) is None:
        raise SourceError(
            f"arch: {origin}: base: expected the name of a shipped architecture, got {choice!r}; docs/architectures.md "
            "lists them"
        )
    if "layers" in table or "blocks" in table:
        raise SourceError(f"arch: {origin}: expected no layers and blocks beside base = {choice!r}; use replace")
    return {**tomllib.loads(_shipped()[name].read_text("utf-8")), **table, "base": name}


def _replaced(layers: Sequence[Layer], replace: Mapping[str, Sequence[Layer]]) -> list[Layer]:
    """Return layers with others in place of those of some modules; raises ValueError for a module without layers."""
    for module, own in replace.items():
        layers = replace_layers(layers, module, own)
    return list(layers)
