"""Measures how much faster one dense pass is than one batch of all crops of the same image.

python benchmarks/dense_against_crops.py --arch vgg16 --size 384

Converts a network of the architecture with random weights into a temporary folder. The same session then scores an
image alternately in one dense pass and as one batch of all its crops. The result is the median of the ratios of
such pairs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from safetensors.numpy import save_file

from converter import convert as conversion
from converter.sources.architecture import Architecture, load_architecture
from converter.sources.layers import Conv, GlobalAvgPool, Linear, MaxPool
from converter.sources.read import read_source
from fullconv.protos import model_pb2
from service.engine.repository import ModelRepository, StoredModel


def random_checkpoint(architecture: Architecture, path: Path, classes: int = 1000) -> None:
    """Write random weights that keep activations near 1, for a sequence of layers."""
    rng = np.random.default_rng(0)
    tensors: dict[str, NDArray[np.float32]] = {}
    shape: tuple[int, ...] = (architecture.channels, *architecture.window)
    for layer in architecture.layers:
        match layer:
            case Conv():
                out = layer.out or classes
                tensors |= random_layer(layer.tensor_keys, (out, shape[0], layer.kernel, layer.kernel), rng)
                shape = (out, *sizes(layer, shape))
            case MaxPool():
                shape = (shape[0], *sizes(layer, shape))
            case GlobalAvgPool():
                shape = shape[:1]
            case Linear():
                tensors |= random_layer(layer.tensor_keys, (layer.out or classes, int(np.prod(shape))), rng)
                shape = (layer.out or classes,)
    save_file(tensors, path)


def random_layer(
    keys: tuple[str, ...], shape: tuple[int, ...], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Return a random weight of this shape, and a bias of zeros."""
    weight = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return dict(zip(keys, (weight, np.zeros(shape[0], np.float32)), strict=True))


def sizes(layer: Conv | MaxPool, shape: tuple[int, ...]) -> Iterator[int]:
    """Return height and width of the output of a convolution or pool."""
    return ((size + 2 * int(layer.pad) - layer.kernel) // layer.stride + 1 for size in shape[1:])


def convert(arch: str, folder: Path, *, strides: tuple[int, ...] = (), classes: int = 1000) -> StoredModel:
    """Convert a network with random weights, of a shipped architecture or of a TOML file; returns the model."""
    architecture = load_architecture(arch)
    random_checkpoint(architecture, folder / "weights.safetensors", classes)
    classifier = read_source(folder / "weights.safetensors", arch=arch, window=None)
    silent = conversion.Progress(step=lambda *_: None, advance=lambda: None)
    request = conversion.Request(folder / architecture.name / "1", strides=strides)
    report = conversion.convert(classifier, request, silent)
    print(f"{architecture.name}: {report.document()['verdict']}")
    return ModelRepository(folder).open(architecture.name, "1")


def crops_of(image: NDArray[np.uint8], spec: model_pb2.ModelSpec) -> NDArray[np.uint8]:
    """Return every window of the lattice as (windows, height, width, channels)."""
    size = (spec.window.height, spec.window.width)
    windows = np.lib.stride_tricks.sliding_window_view(image, size, axis=(0, 1))
    windows = windows[:: spec.vertical.stride, :: spec.horizontal.stride].transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(windows).reshape(-1, *size, image.shape[-1])


def seconds(session: ort.InferenceSession, images: NDArray[np.uint8]) -> float:
    """Return the seconds of one run."""
    start = time.monotonic()
    session.run(None, {"image": images})
    return time.monotonic() - start


def pair(
    session: ort.InferenceSession, image: NDArray[np.uint8], crops: NDArray[np.uint8], *, dense_first: bool
) -> tuple[float, float]:
    """Return the seconds of one dense pass and of the batch of crops, measured directly after each other."""
    if dense_first:
        return seconds(session, image), seconds(session, crops)
    batch = seconds(session, crops)
    return seconds(session, image), batch


def main() -> None:
    """Convert the network, run each once to warm up, measure the pairs, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--arch", default="vgg16", help="a shipped architecture without batch normalisation (default: vgg16)"
    )
    parser.add_argument("--size", type=int, default=384, help="height and width of the image in pixels (default: 384)")
    parser.add_argument("--pairs", type=int, default=6, help="number of pairs (default: 6)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = convert(arguments.arch, Path(folder))
        session = ort.InferenceSession(model.folder / "model.onnx")
        image = np.random.default_rng(1).integers(0, 256, (arguments.size, arguments.size, 3), np.uint8)
        crops = crops_of(image, model.spec)
        seconds(session, image[None]), seconds(session, crops)
        pairs = [pair(session, image[None], crops, dense_first=turn % 2 == 0) for turn in range(arguments.pairs)]
    ratios = [batch / dense for dense, batch in pairs]
    dense, batch = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{arguments.size}×{arguments.size}, {len(crops)} windows, {len(pairs)} pairs")
    print(f"one dense pass    {dense:.3f} s (median)\none batch of crops {batch:.3f} s (median)")
    print(f"ratio crops/dense  {statistics.median(ratios):.1f} (median), {min(ratios):.1f} to {max(ratios):.1f}")


if __name__ == "__main__":
    main()
