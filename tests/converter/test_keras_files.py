"""Keras's saved models give Keras's scores; damaged files and false claims are refused before memory is allocated."""

import contextlib
import io
import json
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.testing import assert_allclose
from support.archives import rewrite
from support.conversion import SILENT
from support.keras_files import DATA, Document, build_network, changed, layer, refused, replace_document, save

import fullconv
from converter import convert as conversion
from converter.sources.checkpoint import sha256
from converter.sources.read import read_source
from fullconv.protos import model_pb2

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("keras")]

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
KERNELS = {"keras": "layers/conv2d/vars/0", "h5": "model_weights/conv2d/conv2d/kernel"}
"""Path in the HDF5 file of the weights of the first layer of `flatten`."""
TOLERANCE = 1e-5
"""Tolerance relative to the largest score."""
SPARE = 1 << 30
"""Bytes of memory that reading may need; files with false claims claim twice as much."""
Entries = dict[str, bytes]


def convert(
    path: Path, target: Path, window: tuple[int, int] | None = None, preprocess: str = "unit"
) -> tuple[model_pb2.ModelSpec, ort.InferenceSession]:
    """Convert a saved model; returns the ModelSpec, and a session of the converted network."""
    request = conversion.Request(target, preprocess=preprocess, windows=4)
    spec = conversion.convert(read_source(path, arch=None, window=window), request, SILENT).spec
    return spec, ort.InferenceSession(target / "model.onnx")


def test_a_network_in_memory(tmp_path: Path, keras: ModuleType) -> None:
    """`fullconv.convert` takes a network of Keras, which stays as it is; its size may be left open."""
    network = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(6, 5, 2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )
    before = [weight.numpy().copy() if hasattr(weight, "numpy") else weight for weight in network.get_weights()]
    report = fullconv.convert(network, tmp_path / "net" / "1", window=24, labels=["a", "b", "c", "d"], verify=4)
    document = report.document()
    assert document["source"]["format"] == "keras-model"
    assert len(document["source"]["sha256"]) == 64
    for one, other in zip(before, network.get_weights(), strict=True):
        assert_allclose(one, other)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(network(pixels))
    session = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: pixels})
    assert_allclose(got[..., 0, 0], expected, rtol=0, atol=TOLERANCE * abs(expected).max())


def run(dense: ort.InferenceSession, spec: model_pb2.ModelSpec, pixels: np.ndarray) -> np.ndarray:
    """Scores (N, classes, rows, cols) of pixels N,H,W,C."""
    assert spec.input.layout == "NHWC"
    scores: np.ndarray = dense.run(None, {spec.input.name: pixels.astype(spec.input.dtype)})[0]
    return scores


def check_every_cell(keras: ModuleType, path: Path, dense: ort.InferenceSession, spec: model_pb2.ModelSpec) -> None:
    """Score two images of 3×2 cells, and compare each cell with Keras's own scores of its window."""
    window, stride = (spec.window.height, spec.window.width), (spec.vertical.stride, spec.horizontal.stride)
    size = (window[0] + 2 * stride[0], window[1] + stride[1], spec.input.channels)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size), np.uint8)
    got = run(dense, spec, pixels)
    assert got.shape[2:] == (3, 2)
    windows = np.moveaxis(sliding_window_view(pixels, window, (1, 2))[:, :: stride[0], :: stride[1]], 3, -1)
    scale = 255 if spec.input.dtype == "uint8" else 1
    images = windows.reshape(-1, *windows.shape[3:]) / np.float32(scale)
    answer = keras.ops.convert_to_numpy(keras.saving.load_model(path)(images, training=False))
    expected = np.moveaxis(answer.reshape(2, 3, 2, -1), 3, 1)
    assert np.ptp(expected, (0, 2, 3)).max() > 0.01 * abs(expected).max()
    assert_allclose(got, expected, rtol=0, atol=TOLERANCE * abs(expected).max())


SAVED = {"keras": ("flatten.keras", "keras", True), "h5": ("flatten.h5", "keras-h5", True)}
SAVED["padded"] = ("residual.keras", "keras", False)


@pytest.mark.parametrize(("name", "form", "exact"), SAVED.values(), ids=SAVED)
def test_saved_models_convert(keras: ModuleType, name: str, form: str, exact: bool, tmp_path: Path) -> None:  # noqa: FBT001 (a parameter)
    """The converted network has Keras's scores, and without padding every cell equals Keras's score of its window."""
    target = tmp_path / "net" / "1"
    spec, dense = convert(DATA / name, target)
    assert spec.parity[0].exact == exact
    with np.load((DATA / name).with_suffix(".npz")) as stored:
        window, expected = stored["window"], stored["scores"]
    got = run(dense, spec, np.rint(window * 255))
    assert_allclose(got[..., 0, 0], expected, rtol=0, atol=TOLERANCE * abs(expected).max())
    if exact:
        check_every_cell(keras, DATA / name, dense, spec)
    source = json.loads((target / "report.json").read_text("utf-8"))["source"]
    assert source == {"format": form, "sha256": sha256(DATA / name), "producer": "keras 3.15.1"}


@pytest.mark.parametrize("name", ["flatten.keras", "flatten.h5"])
def test_same_source_gives_same_bytes(name: str, tmp_path: Path) -> None:
    """Converting twice gives the same files."""
    first, second = (tmp_path / number / "net" / "1" for number in ("first", "second"))
    for target in (first, second):
        convert(DATA / name, target)
    assert {path.name for path in first.iterdir()} == {"model.onnx", "weights.data", "report.json"}
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


MADE = {
    "functional": ("separable", "net.keras"),
    "functional-h5": ("concatenate", "net.h5"),
    "nested": ("nested", "net.keras"),
    "sequential-grey": ("mnist", "net.keras"),
    "sequential-grey-h5": ("mnist", "net.h5"),
    "rescaled": ("rescaled", "net.keras"),
    "normalised": ("batchnorm_flat", "net.keras"),
}


@pytest.mark.parametrize(("network", "name"), MADE.values(), ids=MADE)
def test_models_convert(keras: ModuleType, network: str, name: str, tmp_path: Path) -> None:
    """Functional, Sequential, nested, grey and rescaling models: every cell equals Keras's score of its window."""
    path = save(build_network(network), tmp_path / name)
    spec, dense = convert(path, tmp_path / "net" / "1", preprocess="none" if network == "rescaled" else "unit")
    assert spec.parity[0].exact
    assert spec.input.channels == (1 if network == "mnist" else 3)
    check_every_cell(keras, path, dense, spec)


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_layers_that_augment_images_do_nothing(keras: ModuleType, name: str, tmp_path: Path) -> None:
    """Layers that augment images during training do nothing in the converted network."""
    layers = keras.layers
    augmented = [keras.Input((22, 26, 3)), layers.RandomFlip(), layers.RandomContrast(0.9), layers.GaussianNoise(0.9)]
    network = [layers.Conv2D(4, 3, activation="relu"), layers.Dropout(0.5), layers.Flatten(), layers.Dense(5)]
    path = save(keras.Sequential([*augmented, *network]), tmp_path / name)
    spec, dense = convert(path, tmp_path / "net" / "1")
    assert spec.parity[0].exact
    check_every_cell(keras, path, dense, spec)


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_open_windows_must_be_given(keras: ModuleType, name: str, tmp_path: Path) -> None:
    """A model of open size is refused without --window, and converts with it."""
    path = save(build_network("open_size"), tmp_path / name)
    assert "give --window HEIGHTxWIDTH" in refused(path)
    spec, dense = convert(path, tmp_path / "net" / "1", window=(22, 26))
    assert (spec.window.height, spec.window.width) == (22, 26)
    assert spec.parity[0].exact
    check_every_cell(keras, path, dense, spec)


def test_wrong_windows_are_refused() -> None:
    """--window that contradicts a model of fixed size is refused, and the fixed size is named."""
    assert "the file's height is 22, got 30" in refused(DATA / "flatten.keras", (30, 30))


INPUTS = {
    "two": ([(22, 26, 3), (22, 26, 3)], "got 2: (None, 22, 26, 3), (None, 22, 26, 3)"),
    "one-axis": ([(22, 3)], "got 1: (None, 22, 3)"),
    "features": ([(22,)], "got 1: (None, 22)"),
    "video": ([(4, 22, 26, 3)], "got 1: (None, 4, 22, 26, 3)"),
}


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(("shapes", "expected_message"), INPUTS.values(), ids=INPUTS)
def test_other_inputs_are_refused(
    keras: ModuleType, shapes: list[tuple[int, ...]], expected_message: str, suffix: str, tmp_path: Path
) -> None:
    """Models with two images, or with an input that is not an image, are refused."""
    images = [keras.Input(shape) for shape in shapes]
    parts = [keras.layers.Dense(5)(keras.layers.Flatten()(image)) for image in images]
    keras.Model(images, keras.layers.Add()(parts) if len(parts) > 1 else parts[0]).save(tmp_path / f"net.{suffix}")
    assert refused(tmp_path / f"net.{suffix}") == f"inputs: expected one image, {expected_message}"


def test_weights_alone_are_refused(keras: ModuleType, tmp_path: Path) -> None:
    """Files of weights alone are refused with a way out."""
    keras.saving.load_model(DATA / "flatten.keras").save_weights(tmp_path / "net.weights.h5")
    shutil.copy(tmp_path / "net.weights.h5", tmp_path / "net.h5")
    for name in ("net.weights.h5", "net.h5"):
        assert "it holds only weights; save the whole network with model.save(" in refused(tmp_path / name)


def text(content: bytes, name: str = CONFIG) -> Callable[[Entries], object]:
    """Return a function that replaces the content of an entry."""
    return lambda entries: entries.update({name: content})


DEEP = b'{"module": "keras", "class_name": "Sequential", "config":'
DAMAGES: dict[str, tuple[Callable[[Entries], object], str]] = {
    "no-config": (lambda entries: entries.pop(CONFIG), "There is no item named 'config.json'"),
    "no-metadata": (lambda entries: entries.pop(METADATA), "There is no item named 'metadata.json'"),
    "no-weights": (lambda entries: entries.pop(WEIGHTS), "There is no item named 'model.weights.h5'"),
    "other-weights": (
        lambda entries: entries.update({"model.weights.npz": entries.pop(WEIGHTS)}),
        "There is no item named 'model.weights.h5'",
    ),
    "no-json": (text(b"{'class_name': 1}"), "Expecting property name"),
    "no-text": (text(b"\xff\xff\x00"), "can't decode"),
    "deep": (text(b"[" * 100_000), "damaged, or not a model"),
    "deep-models": (text(DEEP * 900 + b"{}" + b"}" * 900), "cannot load it"),
    "list": (text(b"[]"), "'list' object is not a mapping"),
    "number": (text(b"5"), "'int' object is not a mapping"),
    "nothing": (text(b"{}"), "cannot load it"),
    "no-version": (text(b"{}", METADATA), "'keras_version'"),
    "no-hdf5": (text(b"weights", WEIGHTS), "damaged, or not a model"),
    "half-of-the-weights": (
        lambda entries: entries.update({WEIGHTS: entries[WEIGHTS][:9999]}),
        "damaged, or not a model",
    ),
}


@pytest.mark.parametrize(("damage", "expected_message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_archives_are_refused(
    damage: Callable[[Entries], object], expected_message: str, tmp_path: Path
) -> None:
    """Damaged archives are refused with the name of the file and the damage."""
    message = refused(rewrite(DATA / "flatten.keras", tmp_path / "net.keras", damage))
    assert message.startswith(f"{tmp_path / 'net.keras'}: ")
    assert expected_message in message


DESCRIPTIONS = {"no-json": "{", "deep": "[" * 9999, "number": 5, "list": "[]", "word": '"Sequential"', "nothing": "{}"}


@pytest.mark.parametrize("description", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_damaged_descriptions_are_refused(description: object, tmp_path: Path) -> None:
    """HDF5 files without a valid description of a network are refused."""
    import h5py

    shutil.copy(DATA / "flatten.h5", tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        file.attrs["model_config"] = description
    assert refused(tmp_path / "net.h5").startswith(f"{tmp_path / 'net.h5'}: ")


OPTIONS = {"newer": ({"colour": 1}, "{'colour': 1}"), "steering": ({"activation": "\x1b[31mred\x07\x9b"}, ": red")}


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(("options", "expected_message"), OPTIONS.values(), ids=OPTIONS)
def test_unknown_options_are_refused(options: Document, expected_message: str, suffix: str, tmp_path: Path) -> None:
    """An unknown option, as a newer Keras may save, is reported by its cause alone, without control characters."""
    path = changed(suffix, tmp_path, lambda document: layer(document, "dense")["config"].update(options))
    message = refused(path)
    assert "cannot load it: " in message
    assert message.endswith(expected_message)


NETWORKS: dict[str, Callable[[Document], Document]] = {
    "layer": lambda document: layer(document, "dropout"),
    "unbuilt": lambda document: {
        "class_name": "Sequential",
        "config": {"name": "a", "layers": [built_later(document)]},
    },
    "model": lambda _: {"class_name": "Model", "config": {}},
}


def built_later(document: Document) -> Document:
    """Return the description of a layer that has no shapes yet."""
    return {**layer(document, "dropout"), "build_config": None}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_networks_without_an_input_are_refused(network: Callable[[Document], Document], tmp_path: Path) -> None:
    """A single layer, a network that was never built, and a class without a network are refused."""
    path = changed(
        "keras", tmp_path, lambda document: replace_document(document, {"module": "keras", **network(document)})
    )
    assert refused(path) == "inputs: expected one image, got 0: none"


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_files_are_refused(suffix: str, share: float, tmp_path: Path) -> None:
    """A truncated Keras file is refused."""
    content = (DATA / f"flatten.{suffix}").read_bytes()
    (tmp_path / f"net.{suffix}").write_bytes(content[: int(share * len(content))])
    assert "damaged, or not a model that Keras saved" in refused(tmp_path / f"net.{suffix}")


@pytest.mark.parametrize("name", [CONFIG, METADATA, WEIGHTS, "assets/words.txt"])
def test_compressed_archives_are_refused(name: str, tmp_path: Path) -> None:
    """Compressed archives are refused, because an entry may expand to any size; Keras does not compress."""
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(DATA / "flatten.keras") as archive:
        entries = {"assets/words.txt": b"words", **{entry: archive.read(entry) for entry in archive.namelist()}}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED if entry == name else zipfile.ZIP_STORED)
    assert f"{name!r} is compressed or incomplete" in refused(path)


@pytest.mark.parametrize("name", [CONFIG, METADATA, WEIGHTS])
def test_archives_with_false_sizes_are_refused(name: str, tmp_path: Path) -> None:
    """An archive entry whose size differs from the directory's is refused."""
    content = bytearray((DATA / "flatten.keras").read_bytes())
    directory = content.rindex(name.encode()) - 46
    assert content[directory:][:4] == b"PK\x01\x02"
    struct.pack_into("<II", content, directory + 20, 1 << 31, 1 << 31)
    (tmp_path / "net.keras").write_bytes(content)
    with little_memory():
        assert "is compressed or incomplete" in refused(tmp_path / "net.keras")


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Limit the memory of this process to its current use and MEMORY bytes more."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def units(document: Document) -> None:
    """Claim 2^27 units for the last layer."""
    layer(document, "dense_1")["config"].update(units=1 << 27)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_claimed_weights_take_no_memory(suffix: str, tmp_path: Path) -> None:
    """The claimed shapes of layers are compared with the stored weights before variables are made."""
    path = changed(suffix, tmp_path, units)
    with little_memory():
        assert "(4, 134217728)" in refused(path)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_missing_weights_take_no_memory(suffix: str, tmp_path: Path) -> None:
    """HDF5 arrays that claim a size without holding numbers are refused."""
    path = with_kernel(suffix, tmp_path, shape=(1 << 29,), dtype="f4", chunks=(1 << 20,), compression="gzip")
    with little_memory():
        assert "more than the file's" in refused(path)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_weights_elsewhere_are_refused(suffix: str, tmp_path: Path) -> None:
    """An HDF5 link to another file is refused, so that Keras does not open it."""
    (tmp_path / "numbers").write_bytes(bytes(432))
    elsewhere = [(str(tmp_path / "numbers"), 0, 432)]
    assert "external" in refused(with_kernel(suffix, tmp_path, shape=(3, 3, 3, 4), dtype="f4", external=elsewhere))


def with_kernel(suffix: str, folder: Path, **dataset: object) -> Path:
    """Return `flatten` with another array in place of the first layer's weights."""
    import h5py

    def replace(file: "h5py.File") -> None:
        del file[KERNELS[suffix]]
        file.create_dataset(KERNELS[suffix], **dataset)

    path = folder / f"net.{suffix}"
    if suffix == "keras":

        def edited(entries: Entries) -> None:
            buffer = io.BytesIO(entries[WEIGHTS])
            with h5py.File(buffer, "r+") as file:
                replace(file)
            entries[WEIGHTS] = buffer.getvalue()

        return rewrite(DATA / "flatten.keras", path, edited)
    shutil.copy(DATA / "flatten.h5", path)
    with h5py.File(path, "r+") as file:
        replace(file)
    return path


@pytest.mark.parametrize("window", [(1 << 13, 1 << 13), (0, 26)])
def test_windows_are_tried_within_limits(window: tuple[int, int], tmp_path: Path) -> None:
    """A window too large for memory is refused before an image of that size is made."""
    path = save(build_network("open_size"), tmp_path / "net.keras")
    with little_memory():
        assert "expected 1 to 67108864 numbers, got 1×" in refused(path, window)
