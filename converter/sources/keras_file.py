"""Reads Keras's saved models, `.keras`, `.h5` and `.hdf5`, through Keras's own ONNX export, on any backend.

Keras creates the classes that a file names, with arguments from the file, before it reads weights. Therefore a file may
name only layers that compute, and their parts; safe_mode makes Keras refuse Python code too. A first loading creates no
variables, but compares their claimed shapes with the weights in the file. Refused: Lambda and all other layers that run
code or open files, custom classes, files of weights alone, compressed archives, weights of more bytes than the file,
and Keras before 3.14, whose safe_mode can be circumvented. Keras itself is trusted, and so is the HDF5 library, in C.
"""

import importlib.util
import io
import json
import os
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from converter.errors import SourceError, UnsupportedError
from converter.messages import first_cause, quiet
from converter.sources.checkpoint import sha256, sha256_of_arrays
from converter.sources.classifier import Classifier
from converter.sources.frameworks import framework
from converter.sources.json_part import parse_json
from converter.sources.mmap_file import MAX_EXPANSION, mmap_file
from converter.sources.onnx_file import check_input, read_onnx
from converter.sources.torch_zip import stored_bytes
from fullconv.protos import model_pb2

if TYPE_CHECKING:
    import h5py
    import keras

KERAS = "pip install keras torch onnxscript"
OLDEST = (3, 14)
BACKEND = "KERAS_BACKEND"
BACKENDS = {"torch": "onnxscript", "tensorflow": "tf2onnx", "jax": "jax2onnx"}
"""For each backend of Keras, the package with which it exports. Default: the first backend that is installed."""
ARCHIVE_SUFFIX = ".keras"
CONFIG = "config.json"
METADATA = "metadata.json"
NUMBERS = "model.weights.h5"
MAX_CONFIG_BYTES = 1 << 26
CONTAINER = "Sequential"
"""The class of a dictionary that does not name a class."""

PARTS = ("initializers", "regularizers", "constraints")
"""Modules of the parts of layers."""
LAYERS = tuple(
    f"keras.src.layers.{module}"
    for module in (
        *("activations.", "attention.", "convolutional.", "merging.", "normalization.", "pooling.", "regularization."),
        *("reshaping.", "core.dense", "core.einsum_dense", "core.identity", "core.input_layer", "core.masking"),
        *("preprocessing.image_preprocessing.", "preprocessing.normalization", "preprocessing.rescaling"),
    )
)
"""Modules of layers that only compute, for all arguments; of `core` and `preprocessing` only some modules."""
OPERATIONS = ("keras.src.ops.numpy", "keras.src.ops.nn")
"""Modules of operations between layers, such as x + y."""
OTHERS = {
    "DTypePolicy",
    "Functional",
    "Model",
    "Sequential",
    "__ellipsis__",
    "__keras_tensor__",
    "__numpy__",
    "__slice__",
}


def read_keras(path: Path, window: tuple[int, int] | None) -> Classifier:
    """Read a saved model; `window` (height, width) in pixels is needed if the file leaves the size open.

    Raises ConversionError and OSError.
    """
    with quiet(), tempfile.TemporaryDirectory() as folder:
        keras = _keras(path)
        config, version = _read_config(path)
        _check_classes(config, keras, path)
        file = Path(folder) / "network.onnx"
        _export(_load(path, keras), window, file, f"{path}")
        classifier = read_onnx(file, window)
    kind = "keras" if path.suffix.lower() == ARCHIVE_SUFFIX else "keras-h5"
    source = model_pb2.Source(format=kind, sha256=sha256(path), producer=f"keras {version}")
    return replace(classifier, source=source)


def is_keras(model: object) -> bool:
    """Return whether an object is a network of Keras, which the caller has imported."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def export_keras(model: "keras.Model", window: tuple[int, int] | None) -> Classifier:
    """Export a network that the caller has in memory; the network itself is not changed. Raises ConversionError."""
    import keras  # noqa: PLC0415 (the caller has imported it)

    name = f"the model {model.name}"
    with quiet(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        _export(model, window, file, name)
        classifier = read_onnx(file, window)
    digest = sha256_of_arrays((weight.path, keras.ops.convert_to_numpy(weight)) for weight in model.weights)
    source = model_pb2.Source(format="keras-model", sha256=digest, producer=f"keras {keras.__version__}")
    return replace(classifier, source=source)


def _keras(path: Path) -> ModuleType:
    """Import Keras on the backend that the user chose, or on the first installed backend; raises SourceError."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if installed:
        os.environ.setdefault(BACKEND, installed[0])
    keras = framework("keras", KERAS, f"{path}")
    if tuple(int(number) for number in keras.__version__.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise SourceError(f"{path}: expected Keras {oldest} or later, got {keras.__version__}: pip install -U keras")
    framework(BACKENDS.get(keras.backend.backend(), "torch"), KERAS, f"{path}")
    return keras


def _read_config(path: Path) -> tuple[object, str]:
    """Return the configuration of a file's network, and the version of Keras that saved it; raises SourceError."""
    try:
        return _config_in_archive(path) if path.suffix.lower() == ARCHIVE_SUFFIX else _config_in_h5(path)
    except Exception as error:  # HDF5, and JSON of an unexpected form, may raise any error
        raise SourceError(f"{path}: damaged, or not a model that Keras saved: {first_cause(error)}") from None


def _config_in_archive(path: Path) -> tuple[object, str]:
    import h5py  # noqa: PLC0415 (comes with Keras)

    data = mmap_file(path)
    with zipfile.ZipFile(path) as archive:
        names = dict.fromkeys((CONFIG, METADATA, NUMBERS, *archive.namelist()))
        entries = {name: stored_bytes(archive, data, name) for name in names}
    config, about = (parse_json(entries[name], MAX_CONFIG_BYTES, "a description") for name in (CONFIG, METADATA))
    with h5py.File(io.BytesIO(entries[NUMBERS].data)) as file:
        _check_weights(file, len(data))
    return {**config, "compile_config": None}, str(about["keras_version"])[:30]


def _config_in_h5(path: Path) -> tuple[object, str]:
    import h5py  # noqa: PLC0415 (comes with Keras)

    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise ValueError("it holds only weights; save the whole network with model.save('model.keras')")
        _check_weights(file, path.stat().st_size)
        return json.loads(file.attrs["model_config"]), str(file.attrs.get("keras_version", ""))[:30]


def _check_weights(file: "h5py.File", size: int) -> None:
    """Raise ValueError if arrays claim many more bytes than the file has: Keras reads them before it checks shapes."""
    claimed: list[int] = []
    file.visititems(lambda _, item: claimed.append(getattr(item, "nbytes", 0)))
    if sum(claimed) > MAX_EXPANSION * size:
        raise ValueError(f"its weights claim {sum(claimed)} bytes, more than the file's {size}")


def _check_classes(config: object, keras: ModuleType, path: Path) -> None:
    """Raise UnsupportedError if a file names a class that is neither a layer that computes nor a part of a layer."""
    known, pending = _known_classes(keras), [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            name, module = value.get("class_name", CONTAINER), value.get("module") or "keras"
            registered = value.get("registered_name") or name
            if str(name) not in known or str(module).split(".")[0] != "keras" or registered != name:
                raise UnsupportedError(
                    f"{path}: {f'{module}.{registered}'[:80]!r}: expected Keras's own layers that neither run code nor "
                    "open files; if you trust the file, export the network to ONNX"
                )
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _known_classes(keras: ModuleType) -> set[str]:
    """Return the names of the classes that a file may have."""
    layers = {name for name, kind in vars(keras.layers).items() if _module(kind).startswith(LAYERS)}
    parts = {name for module in PARTS for name, kind in vars(getattr(keras, module)).items() if isinstance(kind, type)}
    operations = {
        name
        for module in OPERATIONS
        for name, kind in vars(importlib.import_module(module)).items()
        if isinstance(kind, type) and issubclass(kind, keras.Operation)
    }
    return layers | parts | operations | OTHERS


def _module(kind: object) -> str:
    return str(getattr(kind, "__module__", ""))


def _load(path: Path, keras: ModuleType) -> "keras.Model":
    """Load the network with its weights, after a first loading without variables that checks the claimed sizes."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            keras.saving.load_model(path, compile=False, safe_mode=True)
        keras.utils.clear_session()
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras may raise any error
        running = f"Keras {keras.__version__} on {keras.backend.backend()}"
        raise SourceError(f"{path}: {running} cannot load it: {first_cause(_original_error(error))}") from None


def _original_error(error: Exception) -> Exception:
    """Return the error that Keras wraps once for every layer that contains the fault."""
    while isinstance(error, TypeError) and isinstance(error.__context__, Exception):
        error = error.__context__
    return error


def _export(network: "keras.Model", window: tuple[int, int] | None, file: Path, name: str) -> None:
    """Write the network as ONNX for one window, of the size in the file or else of the requested size."""
    import keras  # noqa: PLC0415 (optional)

    images = getattr(network, "inputs", [])  # neither layers nor networks that were never built have inputs
    if len(images) != 1 or len(images[0].shape) != 4:
        shapes = ", ".join(str(image.shape) for image in images)
        raise UnsupportedError(f"inputs: expected one image, got {len(images)}: {shapes or 'none'}")
    sizes = images[0].shape[1:]
    if None in sizes and window is None:
        raise SourceError(
            f"window: expected an input size, which the file leaves open ({sizes}); give --window HEIGHTxWIDTH"
        )
    if window is not None and None in sizes:
        sizes = (sizes[0], *window) if sizes[2] is None else (*window, sizes[2])
    check_input("image", [1 if size is None else size for size in (1, *sizes)])
    image = keras.Input(batch_shape=(1, *sizes), dtype=images[0].dtype, name="image")
    signature = [keras.InputSpec(shape=image.shape, dtype=image.dtype, name=image.name)]
    try:
        trained = keras.Model(
            image, network(image, training=False)
        )  # training=False: layers that augment images do nothing
        trained.export(str(file), format="onnx", verbose=False, input_signature=signature)
    except Exception as error:  # exporters may raise any error
        raise UnsupportedError(f"{name}: Keras cannot export it to ONNX: {first_cause(error)}") from None
