"""Recognises the networks of torchvision and timm by the names and shapes of a checkpoint's tensors, without PyTorch.

`architectures/fingerprints.json` holds, for each set of tensors whose shapes depend on the number of classes (the
head), the fingerprints of the other tensors and the networks that have them. Several networks may have one
fingerprint. `benchmarks/make_fingerprints.py` makes the file.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import resources

from converter.sources.network import BATCHES
from converter.sources.prefixes import possible_prefixes

FILE = "fingerprints.json"
HEAD_SEPARATOR = " "

Shapes = Mapping[str, tuple[int, ...]]


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

    Without such a network of torchvision or timm, the second value is empty.
    """
    known = _known()
    for prefix in possible_prefixes(shapes):
        own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
        for head, networks in known.items():
            keys = head.split(HEAD_SEPARATOR)
            if own.keys() >= set(keys) and (names := networks.get(fingerprint(own, keys))):
                return prefix, tuple(names)
    return "", ()


def _known() -> dict[str, dict[str, list[str]]]:
    file = resources.files("converter") / "architectures" / FILE
    known: dict[str, dict[str, list[str]]] = json.loads(file.read_text("utf-8"))
    return known
