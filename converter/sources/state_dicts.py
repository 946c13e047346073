"""Finds the state_dict in the object of a training script, which may hold other objects and further state_dicts.

The state_dict is the object itself, or an entry of it. Among several entries with tensors, that with a name of
STATE_KEYS is taken, and a note names the others, such as copies with averaged weights. Refused: several state_dicts of
other names, numpy's arrays and unsupported types in place of tensors, and objects that would require running code.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.sources.torch_pickle import NumpyArray, Opaque, Tensor, UnreadTensor
from fullconv.common.text import printable

STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "state_dict_ema")
"""Keys under which training scripts save the state_dict beside other objects."""
DEPTH = 3
"""Largest number of dictionaries in each other, of which the innermost is the state_dict."""
LEAST_SHARE = 0.5
"""Share of the number of the network's tensors, from which other entries are named in a note."""
SHOWN = 5
"""Number of entries that an error names."""
OF_LAYERS = (".weight", ".bias", ".running_mean", ".running_var")
"""Suffixes of the keys of a layer's tensors."""

Arrays = dict[str, NDArray[np.generic]]
Entry = tuple[str, ...]
"""Keys of dictionaries in each other, such as ("checkpoint", "state_dict"); () is the object itself."""


def find_state_dict(loaded: object, path: Path) -> tuple[Arrays, tuple[str, ...]]:
    """Return the tensors of the state_dict in an object, and notes on the entry that it is; raises SourceError."""
    if not isinstance(loaded, dict):
        _check_opaque({"": loaded}, path)
        raise SourceError(f"{path}: expected a state_dict, got {type(loaded).__name__}; save model.state_dict() alone")
    found = dict[Entry, dict[str, Any]](_nested(loaded, DEPTH, set()))
    if _has_tensors(loaded):
        found[()] = loaded
    entry = _chosen(found)
    if entry is None or (_opaque(loaded) and not _is_usual(entry)):
        _check_opaque(loaded, path)
        raise _no_state_dict(loaded, found, path)
    values = found[entry]
    _check_opaque(values, path)
    _check_types(values, path)
    tensors = {key: value.array() for key, value in values.items() if isinstance(value, Tensor)}
    return tensors, _notes(entry, found, len(tensors))


def _nested(loaded: Mapping[str, Any], depth: int, seen: set[int]) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Yield the dictionaries with tensors inside of a dictionary, each object only once."""
    for key, value in loaded.items():
        if type(value) is not dict or id(value) in seen:
            continue
        seen.add(id(value))
        if _has_tensors(value):
            yield (key,), value
        elif depth > 1:
            for keys, inner in _nested(value, depth - 1, seen):
                yield (key, *keys), inner


def _chosen(found: Mapping[Entry, object]) -> Entry | None:
    """Return the entry that is the network's state_dict; None without one, or if several may be."""
    direct = [(key,) for key in STATE_KEYS if (key,) in found]
    if direct or () in found:
        return direct[0] if direct else ()
    for key in STATE_KEYS:
        if named := [entry for entry in found if entry[-1] == key]:
            return named[0] if len(named) == 1 else None
    return next(iter(found)) if len(found) == 1 else None


def _notes(entry: Entry, found: Mapping[Entry, Mapping[str, Any]], count: int) -> tuple[str, ...]:
    """Return a note on a state_dict that is not the only large one, or whose entry has an unusual name."""
    others = [
        keys
        for keys, values in found.items()
        if keys not in ((), entry) and len(_tensors(values)) >= LEAST_SHARE * count
    ]
    if not others and _is_usual(entry):
        return ()
    note = f"taken from {_named(entry)}"
    if others:
        names, verb = " and ".join(map(_named, others)), "holds" if len(others) == 1 else "hold"
        note += f"; {names} {verb} tensors too and {'was' if len(others) == 1 else 'were'} left out"
    return (note,)


def _is_usual(entry: Entry) -> bool:
    """Return whether an entry is where most training scripts save the state_dict."""
    return not entry or (len(entry) == 1 and entry[0] in STATE_KEYS)


def _named(entry: Entry) -> str:
    return f"the entry {printable('.'.join(entry))!r}" if entry else "the checkpoint itself"


def _no_state_dict(loaded: Mapping[str, object], found: Mapping[Entry, object], path: Path) -> SourceError:
    """Return the error for an object without a state_dict, or with several."""
    if arrays := [key for key, value in loaded.items() if isinstance(value, NumpyArray)]:
        return _numpy_array(arrays[0], path)
    names = [".".join(entry) for entry in found] or list(loaded)
    if not names:
        return SourceError(f"{path}: expected tensors, got an empty checkpoint")
    what = "several state_dicts, the entries" if found else "the entries"
    shown = printable(", ".join(names[:SHOWN]))[:200]
    return SourceError(
        f"{path}: expected a state_dict, got {what} {shown}{' …' if len(names) > SHOWN else ''}; save the state_dict "
        "alone"
    )


def _numpy_array(key: str, path: Path) -> SourceError:
    return SourceError(f"{path}: {printable(key)} is a numpy array; save tensors of PyTorch")


def _tensors(values: Mapping[str, object]) -> list[str]:
    return [key for key, value in values.items() if isinstance(value, Tensor | UnreadTensor)]


def _has_tensors(values: Mapping[str, object]) -> bool:
    return any(isinstance(value, Tensor | UnreadTensor) for value in values.values())


def _opaque(values: Mapping[str, object]) -> list[str]:
    """Return the names of the classes that would require running code."""
    return [value.name for value in values.values() if isinstance(value, Opaque)]


def _check_opaque(values: Mapping[str, object], path: Path) -> None:
    """Raise SourceError if an entry is an object that would require running code."""
    if opaque := _opaque(values):
        trust = "" if _has_tensors(values) else "add --trust, with which PyTorch loads it and runs its code, or "
        raise SourceError(
            f"{path}: expected only tensors, got {opaque[0]}, which requires running code; if you trust the file, "
            f"{trust}load it yourself and save it with torch.save(model.state_dict(), 'new.pth')"
        )


def _check_types(values: Mapping[str, object], path: Path) -> None:
    """Raise SourceError if tensors of layers have types that are not read, or are numpy's arrays."""
    for key, value in values.items():
        if isinstance(value, UnreadTensor):
            raise unread_type(key, value.type, path)
        if isinstance(value, NumpyArray) and key.endswith(OF_LAYERS):
            raise _numpy_array(key, path)


def unread_type(key: str, got: str, path: Path) -> SourceError:
    """Return the error for a tensor of a type that is not read."""
    convert = "dequantize" if "qint" in got or "quint" in got else "float"
    return SourceError(
        f"{path}: {printable(key)}: expected float64, float32, float16 or bfloat16, got {got}; convert it with "
        f".{convert}() and save again"
    )
