"""Saved models of Keras: made with Keras, or modified without Keras."""

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


def build_network(name: str) -> "keras.Model":
    """Return a network of `data/keras_nets.py` by its name."""
    from keras_nets import NETWORKS

    return NETWORKS[name]()


def save(model: "keras.Model", path: Path) -> Path:
    """Save a network with random weights; returns the path."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if not np.issubdtype(variable.dtype, np.floating):  # the random state of layers for augmentation
            continue
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 4
        value = random.normal(0, np.sqrt(2 / fan_in), variable.shape)
        variable.assign(abs(value) + 0.5 if variable.name in ("gamma", "moving_variance") else value)
    model.save(path)
    return path


def changed(suffix: str, folder: Path, change: Callable[[Document], object]) -> Path:
    """Copy the saved model `flatten`, in the format of the suffix, with changes to the description of its layers."""
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
    """Return the description of a layer by its name."""
    return next(layer for layer in document["config"]["layers"] if layer["config"]["name"] == name)


def replace_document(document: Document, other: Document) -> None:
    """Replace a description by another one, in place."""
    copied = dict(other)
    document.clear()
    document.update(copied)


def refused(path: Path, window: tuple[int, int] | None = None) -> str:
    """Return the message with which a file is refused; asserts that it is one line."""
    with pytest.raises((SourceError, UnsupportedError)) as caught:
        read_source(path, arch=None, window=window)
    assert str(caught.value).isprintable()
    return str(caught.value)
