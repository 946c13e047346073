"""Keras's saved models, made and changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.archives import edit, rewrite
from support.paths import ROOT

from converter.errors import SourceError, UnsupportedError
from converter.sources.read import read_source

if TYPE_CHECKING:
    import keras

DATA = ROOT / "tests" / "data" / "keras"
Document = dict[str, Any]


def made(name: str) -> "keras.Model":
    """A network of `data/keras_nets.py`."""
    from keras_nets import NETWORKS

    return NETWORKS[name]()


def save(model: "keras.Model", path: Path) -> Path:
    """Save a network with random weights."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if not np.issubdtype(variable.dtype, np.floating):  # what layers that augment draw from
            continue
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 4
        value = random.normal(0, np.sqrt(2 / fan_in), variable.shape)
        variable.assign(abs(value) + 0.5 if variable.name in ("gamma", "moving_variance") else value)
    model.save(path)
    return path


def changed(suffix: str, folder: Path, change: Callable[[Document], object]) -> Path:
    """`flatten` in one of its forms, with changes to what it says of its layers."""
    import h5py

    source, path = DATA / f"flatten.{suffix}", folder / f"net.{suffix}"
    if suffix == "keras":
        return rewrite(source, path, lambda entries: edit(entries, "config.json", change))
    shutil.copy(source, path)
    with h5py.File(path, "r+") as file:
        document = json.loads(file.attrs["model_config"])
        change(document)
        file.attrs["model_config"] = json.dumps(document)
    return path


def layer(document: Document, name: str) -> Document:
    """What a file says of a layer."""
    return next(layer for layer in document["config"]["layers"] if layer["config"]["name"] == name)


def become(document: Document, other: Document) -> None:
    """Put another description in place of one."""
    copied = dict(other)
    document.clear()
    document.update(copied)


def refused(path: Path, window: tuple[int, int] | None = None) -> str:
    """The message of a refusal, which is one line."""
    with pytest.raises((SourceError, UnsupportedError)) as caught:
        read_source(path, arch=None, window=window)
    assert str(caught.value).isprintable()
    return str(caught.value)
