"""Recognises the networks of torchvision and timm by the names and shapes of a checkpoint's tensors, without PyTorch.

`architectures/fingerprints.json` holds, for each set of tensors whose shapes depend on the number of classes (the
head), the fingerprints of the other tensors and the networks that have them. Several networks may have one
fingerprint. `benchmarks/make_fingerprints.py` makes the file.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources

from converter.errors import UnknownHeadError
from converter.sources.checkpoint import BATCHES
from converter.sources.heads import FACTORY, Head, Shapes, head_of, parent_of
from converter.sources.prefixes import possible_prefixes

FILE = "fingerprints.json"
HEAD_SEPARATOR = " "
SHOWN = 3
"""Number of networks that an error names."""


def fingerprint(shapes: Shapes, head: Iterable[str]) -> str:
    """Return a hash of names and shapes of tensors, in any order, without the head and without counters of batches."""
    left_out = set(head)
    lines = [
        f"{key} {'×'.join(map(str, shape))}"
        for key, shape in sorted(shapes.items())
        if key not in left_out and not key.endswith(BATCHES)
    ]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def recognise_module(shapes: Shapes) -> tuple[str, tuple[str, ...]]:
    """Return the prefix of a checkpoint's keys and the networks with its tensors, such as ("", ("timm:resnet50d",)).

    A head of one fully connected layer may take the place of the network's own. Without such a network of torchvision
    or timm, the second value is empty. Raises UnknownHeadError if only the head differs, and has several such layers.
    """
    known = _known()
    for prefix, own in _prefixed(shapes):
        for head, networks in known.items():
            keys = head.split(HEAD_SEPARATOR)
            if own.keys() >= set(keys) and (names := networks.get(fingerprint(own, keys))):
                return prefix, tuple(names)
    unknown: UnknownHeadError | None = None
    for prefix, other, names in _with_other_heads(shapes, known):
        try:
            if other.only("linear", " or ".join(names[:SHOWN]), FACTORY):
                return prefix, tuple(names)
        except UnknownHeadError as error:  # the last layer alone may have been replaced
            unknown = unknown or error
    if unknown:
        raise unknown
    return "", ()


def known_networks() -> Iterator[str]:
    """Yield the names of the networks that are recognised, such as "timm:resnet50d"; a name may come twice."""
    for networks in _known().values():
        for names in networks.values():
            yield from names


def _with_other_heads(
    shapes: Shapes, known: Mapping[str, Mapping[str, list[str]]]
) -> Iterator[tuple[str, Head, list[str]]]:
    """Yield the prefix, the head and the networks of each reading in which only the head differs."""
    for prefix, own in _prefixed(shapes):
        for last, networks in known.items():
            for head in _possible_heads(last.split(HEAD_SEPARATOR), own):
                keys = [key for layer in head.layers for key in layer.keys]
                if names := networks.get(fingerprint(own, keys)):
                    yield prefix, head, names


def _prefixed(shapes: Shapes) -> Iterator[tuple[str, Shapes]]:
    """Yield the possible prefixes, with the tensors whose keys begin with them."""
    for prefix in possible_prefixes(shapes):
        yield prefix, {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def _possible_heads(last: Iterable[str], shapes: Shapes) -> Iterator[Head]:
    """Yield the layers that may replace a network's last layers, whose keys are `last`, or the module of these."""
    modules = {parent_of(key) for key in last}
    parents = {parent_of(module) for module in modules}
    names = [*modules, *parents] if len(modules) == 1 else parents if len(parents) == 1 else []
    heads = (head_of(name, shapes) for name in names if name)
    yield from (head for head in heads if head.layers)


def _known() -> dict[str, dict[str, list[str]]]:
    file = resources.files("converter") / "architectures" / FILE
    known: dict[str, dict[str, list[str]]] = json.loads(file.read_text("utf-8"))
    return known
