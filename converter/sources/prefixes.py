"""Finds the classifier in a checkpoint whose training script has put it into a larger module.

A LightningModule saves its network as "model.conv1.weight" or "net.conv1.weight", beside the tensors of its losses and
metrics. Other training scripts save a copy with averaged weights beside the network.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace

from converter.sources.checkpoint import Checkpoint, check_finite

MAX_DEPTH = 6
"""Largest number of names in a prefix."""
LEAST_SHARE = 0.25
"""Smallest share of all keys that must begin with a prefix."""
SHOWN_KEYS = 3
"""Number of left out tensors that a note names."""


def fitting_prefix(keys: Collection[str], likeness: Callable[[set[str]], float]) -> str:
    """Return the prefix after which keys are most like those of a network; "" if no prefix makes them more alike."""
    return max(possible_prefixes(keys), key=lambda prefix: likeness(set(_after(prefix, keys))))


def without_prefix(checkpoint: Checkpoint, prefix: str) -> tuple[Checkpoint, tuple[str, ...]]:
    """Return the tensors whose keys begin with a prefix, with the prefix removed, and a note on it and the others.

    Raises SourceError if they hold NaN or infinity; tensors of losses and metrics, which are left out, may do so.
    """
    if not prefix:
        check_finite(checkpoint.tensors)
        return checkpoint, ()
    tensors = {key.removeprefix(prefix): value for key, value in checkpoint.tensors.items() if key.startswith(prefix)}
    check_finite(tensors, prefix)
    note = f"the network's tensors begin with {prefix!r} in the checkpoint"
    if others := outside(checkpoint, prefix):
        note += f"; left out: {others}"
    return replace(checkpoint, tensors=tensors), (note,)


def outside(checkpoint: Checkpoint, prefix: str) -> str:
    """Return the first keys that do not begin with a prefix as a list in words, empty if all keys begin with it."""
    others = [key for key in checkpoint.tensors if not key.startswith(prefix)]
    more = f" and {len(others) - SHOWN_KEYS} more" if len(others) > SHOWN_KEYS else ""
    return f"{', '.join(others[:SHOWN_KEYS])}{more}"


def possible_prefixes(keys: Collection[str]) -> list[str]:
    """Return the possible prefixes, "" first."""
    counts = Counter[str]()
    for key in keys:
        names = key.split(".")[:-1][:MAX_DEPTH]
        counts.update(".".join(names[:depth]) + "." for depth in range(1, len(names) + 1))
    return ["", *(prefix for prefix, count in counts.items() if count >= LEAST_SHARE * len(keys))]


def _after(prefix: str, keys: Collection[str]) -> list[str]:
    return [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
