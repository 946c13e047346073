"""Small networks that the tests convert: files with an architecture in TOML and with random weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from support import reference

from converter.sources.architecture import Architecture, load_architecture

UNPADDED = """
name = "unpadded"
channels = 3
window = [22, 26]
preprocess = "unit"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 6, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "b", out = 8, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "flatten" },
  { op = "linear", key = "c", out = 16 }, { op = "relu" },
  { op = "linear", key = "d" },
]
"""

PADDED = """
name = "padded"
channels = 3
window = [32, 32]
preprocess = "imagenet"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 6, kernel = 3, pad = 1 }, { op = "batchnorm", key = "n" }, { op = "relu" },
  { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "b", out = 8, kernel = 5, stride = 2, pad = 2 }, { op = "relu" },
  { op = "maxpool", kernel = 3, stride = 2, pad = 1 },
  { op = "adaptiveavgpool", size = 4 },
  { op = "flatten" },
  { op = "linear", key = "c", out = 16 }, { op = "relu" },
  { op = "linear", key = "d" },
]
"""

LECTURE = """
name = "lecture"
channels = 3
window = [224, 224]
preprocess = "unit"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 3, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "b", out = 3, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "c", out = 3, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "d", out = 3, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "e", out = 3, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "flatten" },
  { op = "linear", key = "f", out = 8 }, { op = "relu" },
  { op = "linear", key = "g" },
]
"""
"""The network of the lecture note: unpadded, windows of 224×224 pixels, native stride 32."""


@dataclass(frozen=True)
class Network:
    """A network: its two files and their contents."""

    architecture: Architecture
    tensors: dict[str, NDArray[np.float32]]
    toml: Path
    checkpoint: Path

    def scores(self, window: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Return the reference scores of one window (height, width, channels) uint8; only for preprocessing "unit"."""
        assert self.architecture.preprocess == "unit"
        return reference.run(self.architecture, self.tensors, window.transpose(2, 0, 1) / 255)


def make_network(folder: Path, toml: str, *, classes: int = 5, seed: int = 0) -> Network:
    """Write a network as FOLDER/network.toml and, with random weights, FOLDER/network.safetensors."""
    path, checkpoint = folder / "network.toml", folder / "network.safetensors"
    path.write_text(toml, "utf-8")
    architecture = load_architecture(str(path))
    tensors = reference.random_tensors(architecture, classes, np.random.default_rng(seed))
    save_file(tensors, checkpoint)
    return Network(architecture, tensors, path, checkpoint)
