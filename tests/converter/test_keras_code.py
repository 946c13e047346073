"""Code in Keras's saved models is found at every place, named in the error, and never run."""

import base64
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.keras_files import Document, changed, layer, refused, replace_document

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("keras")]

TRUSTED = "expected Keras's own layers that neither run code nor open files"
Bomb = Callable[[ModuleType, Path, Path], Path]


def malicious(full: str, **config: object) -> Document:
    """Return the description of a malicious object in a file."""
    module, _, name = full.rpartition(".")
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


EVIL = {
    "os.system": malicious("os.system", command="true"),
    "os.function": {**malicious("os.function"), "config": "system"},
    "builtins.function": {**malicious("builtins.function"), "config": "eval", "registered_name": "function"},
    "nets.Mine": malicious("nets.Mine"),
    "keras_nets.Dense": malicious("keras_nets.Dense", units=4),
    "keras.nets>Mine": {**malicious("keras.nets>Mine"), "registered_name": "nets>Mine"},
    "keras.layers.nets>Mine": {**malicious("keras.layers.Dense", units=4), "registered_name": "nets>Mine"},
    "keras.__lambda__": malicious("keras.__lambda__", value="4wEAAAA="),
    "keras.utils.get_file": malicious("keras.utils.get_file", fname="a", origin="file:///etc/passwd"),
    "keras.initializers.get": malicious("keras.initializers.get"),
    "keras.src.saving.serialization_lib.SafeModeScope": malicious(
        "keras.src.saving.serialization_lib.SafeModeScope", safe_mode=False
    ),
    "keras.layers.Lambda": malicious("keras.layers.Lambda", function="relu"),
    "keras.layers.Wrapper": malicious("keras.layers.Wrapper", layer=malicious("keras.layers.Dense", units=4)),
    "keras.layers.TFSMLayer": malicious("keras.layers.TFSMLayer", filepath="saved"),
    "keras.layers.TorchModuleWrapper": malicious("keras.layers.TorchModuleWrapper", module=""),
    "keras.layers.JaxLayer": malicious("keras.layers.JaxLayer", call_fn=None),
    "keras.layers.FlaxLayer": malicious("keras.layers.FlaxLayer", module=None),
    "keras.layers.StringLookup": malicious("keras.layers.StringLookup", vocabulary="/etc/passwd"),
    "keras.layers.TextVectorization": malicious("keras.layers.TextVectorization", vocabulary="/etc/passwd"),
}
"""Malicious objects by the words that name them in the refusal."""
PLACES: dict[str, Callable[[Document, Document], object]] = {
    "whole": replace_document,
    "layer": lambda document, value: replace_document(layer(document, "dropout"), {**value, "name": "dropout"}),
    "initializer": lambda document, value: layer(document, "conv2d")["config"].update(kernel_initializer=value),
    "argument": lambda document, value: layer(document, "dense")["inbound_nodes"].append({"args": [[value]]}),
    "nowhere": lambda document, value: document.update(more=[{"of": value}]),
}


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("name", EVIL)
def test_foreign_objects_are_refused(
    name: str, place: Callable[[Document, Document], object], suffix: str, tmp_path: Path
) -> None:
    """Functions, foreign classes, and layers that run code or open files are refused by name at any depth."""
    path = changed(suffix, tmp_path, lambda document: place(document, EVIL[name]))
    assert refused(path).startswith(f"{path}: {name!r}: {TRUSTED}")


class Pickle:
    """A pickle that makes a folder when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def in_place(bomb: Document) -> Callable[[Document], None]:
    """Return a function that replaces a layer by the description `bomb`."""
    return lambda document: replace_document(layer(document, "dropout"), {**layer(document, "dropout"), **bomb})


def python(suffix: str) -> Bomb:
    """Return a file with a layer of Python code that makes a folder when it is called."""

    def make(keras: ModuleType, folder: Path, marker: Path) -> Path:
        code = keras.layers.Lambda(
            lambda image, path: (__import__("os").mkdir(path), image)[1],
            output_shape=(22, 26, 3),
            arguments={"path": str(marker)},
        )
        network = keras.Sequential([keras.Input((22, 26, 3)), code, keras.layers.Flatten(), keras.layers.Dense(5)])
        network.save(folder / f"net.{suffix}")
        return folder / f"net.{suffix}"

    return make


def pickled(_: ModuleType, folder: Path, marker: Path) -> Path:
    """Return a file with a layer that is a pickle of PyTorch."""
    import torch

    buffer = io.BytesIO()
    torch.save(Pickle(marker), buffer)
    module = base64.b64encode(buffer.getvalue()).decode()
    return changed(
        "keras", folder, in_place(malicious("keras.layers.TorchModuleWrapper", module=module, name="dropout"))
    )


def package(_: ModuleType, folder: Path, marker: Path) -> Path:
    """Return a file with a layer of a package that Keras imports by its name."""
    (folder / "keras_hub.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nraise ImportError\n", "utf-8")
    return changed("keras", folder, in_place(malicious("keras_hub.Dense", units=4)))


def registered(_: ModuleType, folder: Path, marker: Path) -> Path:
    """Return a file with a class that is registered under another name than it claims."""
    bomb = {**malicious("keras.layers.Dropout", marker=str(marker)), "registered_name": "tests>Custom"}
    return changed("keras", folder, in_place(bomb))


@pytest.fixture
def _custom(keras: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register a class that makes a folder as the user's own, and make a folder of packages importable."""

    class Custom(keras.layers.Layer):  # type: ignore[name-defined,misc,unused-ignore]
        def __init__(self, marker: str) -> None:
            Path(marker).mkdir()

    monkeypatch.syspath_prepend(tmp_path)
    with keras.saving.custom_object_scope({"tests>Custom": Custom}):
        yield


BOMBS: dict[str, tuple[Bomb, str]] = {
    "python": (python("keras"), "keras.layers.Lambda"),
    "python-h5": (python("h5"), "keras.Lambda"),
    "pickle": (pickled, "keras.layers.TorchModuleWrapper"),
    "package": (package, "keras_hub.Dense"),
    "registered": (registered, "keras.layers.tests>Custom"),
}


@pytest.mark.usefixtures("_custom")
@pytest.mark.parametrize(("bomb", "name"), BOMBS.values(), ids=BOMBS)
def test_code_is_refused(keras: ModuleType, bomb: Bomb, name: str, tmp_path: Path) -> None:
    """Python code, pickles, packages and custom classes are refused by name, and never run."""
    path = bomb(keras, tmp_path, tmp_path / "marker")
    assert refused(path).startswith(f"{path}: {name!r}: {TRUSTED}")
    assert not (tmp_path / "marker").exists()


@pytest.mark.usefixtures("_custom")
@pytest.mark.parametrize("bomb", [bomb for bomb, _ in BOMBS.values()], ids=BOMBS)
def test_the_bombs_are_live(keras: ModuleType, bomb: Bomb, tmp_path: Path) -> None:
    """Keras itself runs the code of the previous test if safe_mode is off."""
    path = bomb(keras, tmp_path, tmp_path / "marker")
    assert not (tmp_path / "marker").exists()
    with contextlib.suppress(Exception):
        keras.saving.load_model(path, safe_mode=False)(np.zeros((1, 22, 26, 3), np.float32))
    assert (tmp_path / "marker").exists()
