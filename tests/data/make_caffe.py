"""Makes the .caffemodels and expected.npz in caffe/, for the prototxts there, with OpenCV's importer of Caffe networks.

    pip install opencv-python-headless==4.12.0.88 protobuf
    PYTHONPATH=. python tests/data/make_caffe.py

The weights are random. `expected.npz` holds windows, as the networks take them, and their scores by OpenCV's
implementation of Caffe's layers, which shares no code with this project.
"""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fullconv.protos import caffe_pb2

HERE = Path(__file__).parent / "caffe"
Shapes = dict[str, list[tuple[int, ...]]]

NETWORKS: dict[str, tuple[tuple[int, int, int], Shapes]] = {
    "alexnet": (
        (3, 35, 31),
        {
            "conv1": [(8, 3, 5, 5), (1, 1, 1, 8)],
            "conv2": [(8, 4, 3, 3), (1, 1, 1, 8)],
            "fc6": [(1, 1, 12, 96), (1, 1, 1, 12)],
            "fc7": [(1, 1, 10, 12), (1, 1, 1, 10)],
            "fc8": [(1, 1, 5, 10), (1, 1, 1, 5)],
        },
    ),
    "inception": (
        (3, 34, 30),
        {
            "conv1/7x7_s2": [(6, 3, 7, 7), (6,)],
            "3a/1x1": [(3, 6, 1, 1), (3,)],
            "3a/3x3_reduce": [(3, 6, 1, 1), (3,)],
            "3a/3x3": [(4, 3, 3, 3), (4,)],
            "3a/pool_proj": [(2, 6, 1, 1), (2,)],
            "classifier": [(5, 15), (5,)],
        },
    ),
    "residual": (
        (3, 33, 29),
        {
            "conv1": [(6, 3, 3, 3)],
            "bn1": [(6,), (6,), (1,)],
            "scale1": [(6,), (6,)],
            "shortcut": [(8, 6, 1, 1)],
            "branch": [(8, 6, 3, 3)],
            "bn2": [(8,), (8,), (1,)],
            "scale2": [(8,), (8,)],
            "fc": [(5, 8), (5,)],
        },
    ),
    "varied": (
        (1, 32, 28),
        {
            "wide": [(4, 1, 3, 5), (4,)],
            "prelu": [(4,)],
            "dilated": [(4, 4, 3, 3), (4,)],
            "scale": [(4,)],
            "fc": [(6, 280)],
            "last": [(5, 6), (5,)],
        },
    ),
}


def weights(name: str, shapes: list[tuple[int, ...]], rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Return random weights that keep the magnitude of values; for batch normalisation sums and their number."""
    if name.startswith("bn"):
        count = 7.5
        mean, variance = rng.normal(0, 1, shapes[0]), rng.uniform(0.5, 2, shapes[1])
        return [array.astype(np.float32) for array in (mean * count, variance * count, np.array([count]))]
    fans = [max(1, math.prod(shape[1:])) if max(shape[0], 1) != math.prod(shape) else 1 for shape in shapes]
    pairs = zip(shapes, fans, strict=True)
    return [(rng.normal(0, 1.5, shape) / fan**0.5).astype(np.float32) for shape, fan in pairs]


def caffemodel(name: str, shapes: Shapes, rng: np.random.Generator) -> caffe_pb2.NetParameter:
    """Return the weights in Caffe's format: the first format for AlexNet, the current format for the others."""
    net = caffe_pb2.NetParameter(name=name)
    for layer_name, layer_shapes in shapes.items():
        layer = net.layers.add(name=layer_name) if name == "alexnet" else net.layer.add(name=layer_name)
        for array in weights(layer_name, layer_shapes, rng):
            blob = layer.blobs.add(data=array.ravel().tolist())
            if name == "alexnet":
                axes = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = axes
            else:
                blob.shape.dim.extend(array.shape)
    return net


def main() -> None:
    """Make all files."""
    expected: dict[str, Any] = {}
    for seed, (name, (window, shapes)) in enumerate(NETWORKS.items()):
        rng = np.random.default_rng(seed)
        prototxt, model = HERE / f"{name}.prototxt", HERE / f"{name}.caffemodel"
        model.write_bytes(caffemodel(name, shapes, rng).SerializeToString())
        pixels = rng.integers(-1, 2, (3, *window)) + rng.integers(-2, 3, (3, window[0], 1, 1))
        windows = pixels.astype(np.float32)
        net = cv2.dnn.readNetFromCaffe(str(prototxt), str(model))
        scores = []
        for image in windows:
            net.setInput(image[None])
            scores.append(net.forward().ravel().copy())
        expected[f"{name}.windows"], expected[f"{name}.scores"] = windows, np.stack(scores)
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    main()
