"""Small Caffe networks for the tests, and an independent implementation of Caffe's pools."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from converter.sources.read import read_source
from fullconv.protos import caffe_pb2

Array = NDArray[np.floating]
INPUT = 'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 {} }} }} }}\n'


def write(
    folder: Path, layers: str, weights: Mapping[str, Sequence[Array]], shape: tuple[int, ...] = (2, 7, 6)
) -> Path:
    """Write net.prototxt, with layers for an image of this shape, and net.caffemodel; returns the caffemodel's path."""
    dims = " ".join(f"dim: {size}" for size in shape)
    (folder / "net.prototxt").write_text((INPUT.format(dims) if shape else "") + layers, "utf-8")
    net = caffe_pb2.NetParameter()
    for name, arrays in {"none": [np.zeros(1)], **weights}.items():
        layer = net.layer.add(name=name)
        for array in arrays:
            layer.blobs.add(data=np.ravel(array).tolist(), shape=caffe_pb2.BlobShape(dim=array.shape))
    path = folder / "net.caffemodel"
    path.write_bytes(net.SerializeToString())
    return path


def run(path: Path, images: Array) -> Array:
    """Return the scores (N, classes) of images (N, channels, height, width), by the classifier from the reader."""
    classifier = read_source(path, arch=None, window=None)
    session = ort.InferenceSession(ir.to_proto(classifier.original).SerializeToString())
    scores: Array = session.run(None, {"input": images.astype(np.float32)})[0]
    return scores


def answer(folder: Path, layer: str, image: Array, *weights: Array) -> Array:
    """Return the output of one layer, named "it", for an image (channels, height, width), flattened."""
    flat = 'layer { name: "flat" type: "Flatten" bottom: "it" top: "flat" }'
    text = f'layer {{ name: "it" bottom: "data" top: "it" {layer} }}\n'
    (scores,) = run(write(folder, text + flat, {"it": weights}, image.shape), image[None])
    return np.asarray(scores)


def pool(image: Array, kernel: int, stride: int, pad: int, *, average: bool, floor: bool = False) -> Array | None:
    """Return a pool's output, computed as by Caffe's loops; None if Caffe would have an empty window."""
    counts = [_count(size, kernel, stride, pad, floor=floor) for size in image.shape[1:]]
    if min(counts) < 1:
        return None
    result = np.zeros((image.shape[0], *counts))
    for row, col in np.ndindex(*counts):
        starts = [row * stride - pad, col * stride - pad]
        ends = [min(start + kernel, size + pad) for start, size in zip(starts, image.shape[1:], strict=True)]
        window = image[:, max(starts[0], 0) : max(ends[0], 0), max(starts[1], 0) : max(ends[1], 0)]
        if not window.size and not average:
            return None
        count = (ends[0] - starts[0]) * (ends[1] - starts[1])
        if count < 1:
            return None
        result[:, row, col] = window.sum(axis=(1, 2)) / count if average else window.max(axis=(1, 2))
    return result


def _count(size: int, kernel: int, stride: int, pad: int, *, floor: bool) -> int:
    exact = (size + 2 * pad - kernel) / stride
    count = int(np.floor(exact) if floor else np.ceil(exact)) + 1
    return count - 1 if pad and (count - 1) * stride >= size + pad else count
