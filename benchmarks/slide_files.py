"""A slide: its pixels, and a small network that tells its tissue apart, both made by rule.

    python benchmarks/slide_files.py FOLDER [--width 20000 --height 15000]

Writes FOLDER/slide.tif, a pyramid of JPEG tiles with pixels of a quarter of a micrometre, and FOLDER/tissue.onnx. The
slide has glass, pink tissue, and in two parts of the tissue many blue nuclei, as a tumour has. The network was not
trained: its first layer measures how pink and how blue a pixel is, and its windows of 64 pixels, at half a micrometre,
are classified by the means.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fullconv.common.libvips import pyvips

MICRONS, TRAINED_MICRONS, WINDOW = 0.25, 0.5, 64
LABELS = ("glass", "stroma", "tumour")
GLASS, STROMA, NUCLEUS = (243, 240, 244), (222, 150, 190), (88, 52, 140)
"""Colours."""
CELL = 48
"""Pixels between nuclei."""


def write_slide(path: Path, width: int, height: int) -> None:
    """Write the slide; libvips computes its pixels while they are written."""
    tissue = _smooth(width, height, 6, seed=1) > -0.06
    dense = (_smooth(width, height, 5, seed=2) > 0.08) & tissue
    distance = pyvips.Image.worley(width, height, cell_size=CELL, seed=3)
    sparse = pyvips.Image.worley(width, height, cell_size=4 * CELL, seed=4)
    nuclei = ((distance < 14) & dense) | ((sparse < 16) & tissue)
    fibres = pyvips.Image.perlin(width, height, cell_size=64, seed=5) * 60
    noise = pyvips.Image.gaussnoise(width, height, mean=0, sigma=5, seed=6)
    picture = nuclei.ifthenelse(list(NUCLEUS), tissue.ifthenelse(fibres + list(STROMA), list(GLASS))) + noise
    per_millimetre = 1e3 / MICRONS
    picture.cast("uchar").copy(interpretation="srgb", xres=per_millimetre, yres=per_millimetre).tiffsave(
        str(path), tile=True, tile_width=256, tile_height=256, pyramid=True, compression="jpeg", Q=80, bigtiff=True,
        resunit="cm",
    )  # fmt: skip


def _smooth(width: int, height: int, parts: int, seed: int) -> pyvips.Image:
    """Return noise of large blobs, about `parts` of them across the image."""
    side = max(width, height) // parts
    return pyvips.Image.perlin(width, height, cell_size=side, seed=seed)


def write_network(path: Path) -> None:
    """Write the network: 1×1 convolution to two stains, ReLU, 4×4 means, 16×16 means, fully connected."""
    colours = np.array([GLASS, STROMA, NUCLEUS], np.float64) / 255
    to_stains = np.linalg.pinv(np.array([colours[1] - colours[0], colours[2] - colours[0]])).T
    weights = {
        "a": to_stains.reshape(2, 3, 1, 1),
        "b": -to_stains @ colours[0],
        # glass has no stain, stroma is pink and hardly blue; the tumour is a third blue
        "c": np.array([[-12.0, -40.0], [12.0, -20.0], [-4.0, 40.0]]),
        "d": np.array([5.0, -3.0, -5.0]),
    }
    nodes = [
        helper.make_node("Conv", ["image", "a", "b"], ["stains"]),
        helper.make_node("Relu", ["stains"], ["positive"]),
        helper.make_node("AveragePool", ["positive"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["pooled"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "c", "d"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "tissue",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, WINDOW, WINDOW])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(LABELS)])],
        [_tensor(name, values) for name, values in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 19)]), path)


def _tensor(name: str, values: NDArray[np.float64]) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=20_000, help="in pixels (default: 20000)")
    parser.add_argument("--height", type=int, default=15_000, help="in pixels (default: 15000)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write_slide(options.folder / "slide.tif", options.width, options.height)
    write_network(options.folder / "tissue.onnx")


if __name__ == "__main__":
    main()
