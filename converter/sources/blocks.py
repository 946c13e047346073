"""Expands the blocks of an architecture for one checkpoint.

A block is a list of layers that a network repeats, with keys relative to the copy and with parameters:

    [blocks.basic]
    parameters = { stride = 1 }
    layers = [{ op = "conv", key = "conv1", kernel = 3, stride = "$stride", pad = 1 }, …]

A value "$name" stands for a parameter. How often a block is repeated, and which optional layers there are, follows from
the keys of the checkpoint.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from converter.errors import SourceError
from converter.messages import first_problem
from converter.sources.layers import Add, Blocks, Concat, Layer, Parameter, Table, WithBias, WithTensors

MAX_DEPTH = 8
"""Largest number of blocks inside of one another."""
MAX_LAYERS = 10_000
PARAMETER = re.compile(r"\$(\w+)")

LAYERS: TypeAdapter[tuple[Layer, ...]] = TypeAdapter(Annotated[tuple[Layer, ...], Field(strict=False)])


class Block(Table):
    """A list of layers with parameters, and the parameters' defaults."""

    parameters: dict[str, Parameter] = Field(default_factory=dict)
    layers: list[dict[str, Any]]

    def filled(self, parameters: Mapping[str, Parameter]) -> tuple[Layer, ...]:
        """Return the layers with these parameters and the defaults of the others."""
        unknown = set(parameters) - set(self.parameters)
        if unknown:
            raise ValueError(f"expected parameters among {', '.join(self.parameters) or 'none'}, got {min(unknown)}")
        return LAYERS.validate_python(_filled(self.layers, {**self.parameters, **parameters}))

    @field_validator("layers")
    @classmethod
    def _are_layers(cls, layers: list[dict[str, Any]], info: Any) -> list[dict[str, Any]]:  # noqa: ANN401 (pydantic's)
        LAYERS.validate_python(_filled(layers, info.data.get("parameters", {})))
        return layers


@dataclass
class Expander:
    """Expands layers for the keys of a checkpoint."""

    blocks: Mapping[str, Block]
    keys: Collection[str]
    made: int = 0

    def expanded(self, layers: Sequence[Layer], prefix: str = "", depth: int = 0) -> Iterator[Layer]:
        """Yield layers without blocks, with the keys of the checkpoint; raises SourceError."""
        for layer in layers:
            match layer:
                case Blocks():
                    yield from self._copies(layer, prefix, depth + 1)
                case Add() | Concat():
                    branches = tuple(tuple(self.expanded(branch, prefix, depth)) for branch in layer.branches)
                    yield layer.model_copy(update={"branches": branches})
                case WithTensors():
                    own = layer.model_copy(update={"key": prefix + layer.key})
                    if isinstance(own, WithBias) and own.bias == "any":
                        own = own.model_copy(update={"bias": f"{own.key}.bias" in self.keys})
                    if not own.optional or own.tensor_keys[0] in self.keys:
                        yield own
                case _:
                    yield layer
            self.made += 1
            if self.made > MAX_LAYERS:
                raise SourceError(f"arch: expected at most {MAX_LAYERS} layers, got more")

    def _copies(self, blocks: Blocks, prefix: str, depth: int) -> Iterator[Layer]:
        if blocks.block not in self.blocks:
            names = ", ".join(self.blocks) or "none"
            raise SourceError(f"arch: blocks: expected one of the file's blocks ({names}), got {blocks.block!r}")
        if depth > MAX_DEPTH:
            raise SourceError(
                f"arch: blocks: expected at most {MAX_DEPTH} blocks inside one another, got more at {blocks.block!r}"
            )
        block, form = self.blocks[blocks.block], blocks.key if "{}" in blocks.key else f"{blocks.key}.{{}}"
        for number in count(blocks.start) if blocks.count is None else range(blocks.start, blocks.start + blocks.count):
            at = f"{prefix}{form.replace('{}', str(number))}."
            if blocks.count is None and not self._has(at):
                return
            parameters = {**blocks.parameters, **(blocks.first if number == blocks.start else {})}
            try:
                layers = block.filled(parameters)
            except ValidationError as error:
                raise SourceError(f"arch: blocks: {blocks.block}: {first_problem(error)}") from None
            except ValueError as error:
                raise SourceError(f"arch: blocks: {blocks.block}: {error}") from None
            yield from self.expanded(layers, at, depth)

    def _has(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self.keys)


def _filled(value: Any, parameters: Mapping[str, Parameter]) -> Any:  # noqa: ANN401 (a part of a TOML file)
    """Return a part of a block with values in place of the names of parameters."""
    match value:
        case dict():
            return {name: _filled(part, parameters) for name, part in value.items()}
        case list():
            return [_filled(part, parameters) for part in value]
        case str() if (name := PARAMETER.fullmatch(value)) is not None:
            if name[1] not in parameters:
                raise ValueError(f"expected a default of the parameter {value} in `parameters`")
            return parameters[name[1]]
    return value
