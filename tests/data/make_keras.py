"""Makes `keras/`: small classifiers in Keras's formats, and as ONNX files of tf2onnx and of Keras's own export.

    pip install tensorflow-cpu tf2onnx
    python tests/data/make_keras.py
    pip install keras torch onnxscript            # in another environment: Keras's exports with its PyTorch backend
    KERAS_BACKEND=torch python tests/data/make_keras.py

Weights are random. NAME.npz holds a window, channels last, and its scores by Keras on TensorFlow.
`tf2onnx.convert.from_keras` does not support Keras 3, so that this program converts the function of a model.
"""

import sys
import warnings
from pathlib import Path

import keras
import numpy as np
from keras_nets import NETWORKS, WINDOW

FOLDER = Path(__file__).parent / "keras"
SAVED = {"flatten": ("keras", "h5"), "residual": ("keras",)}
FIXED = ("flatten", "same_strided", "global_average", "concatenate")
CHANNELS_FIRST = ("flatten", "global_average", "residual", "mnist", "permute")
EXPORTED = ("flatten", "global_average", "residual", "mnist", "mobilenet_head")
EXPORTED_BY_TORCH = (*EXPORTED, "cropped_residual")


def make(name: str) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Return a network, a window and its scores, with random weights that score the mirrored window differently."""
    keras.backend.clear_session()
    model = NETWORKS[name]()
    window = window_of(model, name)
    for seed in range(100):
        random = np.random.default_rng(seed)
        for variable in model.weights:
            variable.assign(weights(variable, random))
        scores, mirrored = (keras.ops.convert_to_numpy(model(image)) for image in (window, window[:, :, ::-1].copy()))
        if np.abs(scores - mirrored).max() > 0.01 * np.abs(scores).max():
            return model, window, scores
    raise RuntimeError("expected scores that depend on the window, got none in 100 networks")


def weights(variable: keras.Variable, random: np.random.Generator) -> np.ndarray:
    """Return random values of a variable: kernels that keep the activations, and normalisation with an effect."""
    shape: tuple[int, ...] = variable.shape
    if variable.name in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape)
    if len(shape) > 1:
        fan_in = np.prod(shape[:-1]) if "depthwise" not in variable.path else 9
        return random.normal(0, np.sqrt(2 / fan_in), shape)
    return random.uniform(-0.2, 0.4, shape)


def window_of(model: keras.Model, name: str) -> np.ndarray:
    """Return random pixels in steps that compress well, from 0 to 1; from 0 to 255 for a network that rescales them."""
    shape = [size or default for size, default in zip(model.input_shape[1:], WINDOW, strict=True)]
    pixels = np.random.default_rng(0).integers(0, 6, (1, *shape)) * 51
    return (pixels / (1 if name == "rescaled" else 255)).astype(np.float32)


def tf2onnx(path: Path, model: keras.Model, batch: int | None, opset: int, *, channels_first: bool = False) -> None:
    """Write with tf2onnx."""
    import tensorflow as tf  # noqa: PLC0415 (not installed beside Keras with PyTorch)
    from tf2onnx.convert import from_function  # noqa: PLC0415

    image = tf.TensorSpec((batch, *model.input_shape[1:]), tf.float32, name="image")
    function = tf.function(lambda image: model(image, training=False), input_signature=(image,))
    first = ["image"] if channels_first else None
    from_function(function, (image,), opset=opset, inputs_as_nchw=first, output_path=str(path))


def export(name: str, model: keras.Model) -> None:
    """Write the files that need TensorFlow."""
    tf2onnx(FOLDER / f"{name}.tf2onnx.onnx", model, None, 18)
    if name in FIXED:
        tf2onnx(FOLDER / f"{name}.tf2onnx_fixed.onnx", model, 1, 13)
    if name in CHANNELS_FIRST:
        tf2onnx(FOLDER / f"{name}.tf2onnx_nchw.onnx", model, None, 13, channels_first=True)
    for suffix in SAVED.get(name, ()):
        model.save(FOLDER / f"{name}.{suffix}")


def main(names: list[str]) -> None:
    """Make the named networks. Default: all networks."""
    warnings.simplefilter("ignore")
    backend = keras.backend.backend()
    for name in names or NETWORKS:
        model, window, scores = make(name)
        if backend == "tensorflow":
            np.savez_compressed(FOLDER / f"{name}.npz", window=window, scores=scores)
            export(name, model)
        if name in (EXPORTED if backend == "tensorflow" else EXPORTED_BY_TORCH):
            suffix = "keras" if backend == "tensorflow" else f"keras_{backend}"
            model.export(FOLDER / f"{name}.{suffix}.onnx", format="onnx", verbose=False)


if __name__ == "__main__":
    main(sys.argv[1:])
