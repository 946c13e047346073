"""Measures which layers of an int8 network cause its difference from fp32, and what it costs to leave them in float32.

    python models/real/convert.py build/models --network efficientnet-lite0
    python benchmarks/int8_layers.py build/models/efficientnet-lite0/1 --images build/photographs

Each layer is left in float32 alone, with the activation after it. Then the layers are left in float32 together, those
with the largest gain first. Half of the images calibrate the maps; the scores are compared on all images. The time is
that of a dense pass of the first image, as the median of alternating pairs with fp32.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from converter.graph.passes.quantize import LAYERS, Feed, fold, kept_in_float, to_int8
from converter.messages import quiet
from converter.verify.given_images import given_images
from converter.verify.images import PixelFormat
from fullconv.common.optimisers import LOSSY_OPTIMISERS
from service.engine.repository import ModelRepository

ACTIVATIONS = {"Clip", "PRelu", "Relu"}
"""Operators that remain in float32 with the layer before them."""
CALIBRATION_SIDE, CALIBRATION_IMAGES = 320, 16
"""Side in pixels, and number, of the crops on which the ranges of the maps are calibrated."""


def photographs(folder: Path, channels: int) -> list[NDArray[Any]]:
    """Return the images of a folder, each as (1, height, width, channels)."""
    images = given_images(folder, PixelFormat(channels), (1, 1)).readable
    return [image.read(slice(0, image.size[0]), slice(0, image.size[1]))[None] for image in images]


def crops(images: Sequence[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Yield random crops of the images."""
    rng = np.random.default_rng(7)
    while True:
        image = images[int(rng.integers(len(images)))]
        top, left = (rng.integers(max(1, side - CALIBRATION_SIDE + 1)) for side in image.shape[1:3])
        yield image[:, top : top + CALIBRATION_SIDE, left : left + CALIBRATION_SIDE]


def session(path: Path) -> ort.InferenceSession:
    """Load a network."""
    return ort.InferenceSession(path, disabled_optimizers=[*LOSSY_OPTIMISERS])


def all_scores(network: ort.InferenceSession, name: str, images: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the scores of all windows of the images, (windows, classes); `name` is the input."""
    grids = (network.run(None, {name: image})[0] for image in images)
    return np.concatenate([grid.reshape(grid.shape[1], -1).T for grid in grids])


def blocks(graph: ir.Graph) -> dict[str, list[str]]:
    """Return the names of each quantized layer's nodes: the layer and the activation after it."""
    kept = kept_in_float(graph)
    layers = [node for node in graph if node.op_type in LAYERS and node.name not in kept]
    found = {}
    for layer in layers:
        consumers = [node for node in layer.outputs[0].consumers() if node.op_type in ACTIVATIONS]
        found[str(layer.name)] = [str(node.name) for node in (layer, *consumers)]
    return found


def paired_ratio(one: Callable[[], object], other: Callable[[], object], rounds: int) -> float:
    """Return how many times as fast as `one` the other function is."""
    ratios = []
    for _ in range(rounds):
        times = []
        for run in (one, other):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)


class Trials:
    """Measures selections of layers against the network in float32."""

    def __init__(self, folder: Path, images: Sequence[NDArray[Any]], name: str, rounds: int) -> None:
        self._folded, self._images, self._input, self._rounds = folder / "folded.onnx", images, name, rounds
        self._float = session(self._folded)
        self._expected = all_scores(self._float, name, images)
        feeds: Iterator[Feed] = ({name: crop} for crop in crops(images[::2]))
        self._feeds = list(islice(feeds, CALIBRATION_IMAGES))

    def measure(self, title: str, in_float: Sequence[str]) -> float:
        """Print the row of a selection; returns the relative error of the scores."""
        with quiet():
            network = session(to_int8(self._folded, self._feeds, in_float))
        got = all_scores(network, self._input, self._images)
        error = float(np.linalg.norm(got - self._expected) / np.linalg.norm(self._expected))
        agreement = np.mean(got.argmax(1) == self._expected.argmax(1))
        feed = {self._input: self._images[0]}
        ratio = paired_ratio(lambda: self._float.run(None, feed), lambda: network.run(None, feed), self._rounds)
        print(f"| {title} | {error:.3f} | {agreement:.1%} | {ratio:.2f} |", flush=True)
        return error


def main() -> None:
    """Measure each layer, then the layers together, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a version of a model in fp32, such as build/models/NAME/1")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--rounds", type=int, default=5, help="number of timed pairs (default: 5)")
    options = parser.parse_args()
    model = ModelRepository(options.model.parent.parent).open(options.model.parent.name, options.model.name)
    images = photographs(options.images, model.spec.input.channels)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "fp32.onnx"
        ir.save(ir.load(options.model / model.files[0]), source, external_data="fp32.data")
        with quiet():
            nodes = blocks(ir.load(fold(source)).graph)
        trials = Trials(source.parent, images, model.spec.input.name, options.rounds)
        print("| layers in float32 | relative error | same top class | times as fast as fp32 |\n|---|--:|--:|--:|")
        trials.measure("only the last", [])
        errors = {layer: trials.measure(layer, nodes[layer]) for layer in nodes}
        order = sorted(nodes, key=errors.__getitem__)
        count = 2
        while count < len(order):
            trials.measure(f"the best {count}", [node for layer in order[:count] for node in nodes[layer]])
            count *= 2
        trials.measure(f"all {len(order)}", [node for layer in order for node in nodes[layer]])


if __name__ == "__main__":
    main()
