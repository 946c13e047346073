"""The result of every reader: a trained classifier in ONNX."""

from dataclasses import dataclass

import onnx_ir as ir

from converter.preprocessing import Preprocessing
from fullconv.protos import model_pb2


@dataclass(frozen=True)
class Classifier:
    """A trained classifier as an ONNX graph that takes single windows.

    `original` is the network as it was read, the reference for all comparisons; `model` is a copy to be rewritten. Both
    take float32 or uint8 in `layout`, "NCHW" or "NHWC", and return (N, classes). `window` is (height, width) in pixels;
    `preprocess`, `activation` and `labels` are defaults, which options override. `notes` state how the source was read;
    `assumed` are the fields among "window", "preprocess" and "activation" that neither the source nor an option states,
    so that they are those of the network or library called `assumed_from`. `microns_per_pixel` is 0 if the source does
    not state it.
    """

    original: ir.Model
    model: ir.Model
    window: tuple[int, int]
    preprocess: str | Preprocessing
    activation: str
    labels: tuple[str, ...]
    source: model_pb2.Source
    layout: str = "NCHW"
    notes: tuple[str, ...] = ()
    microns_per_pixel: float = 0.0
    assumed: tuple[str, ...] = ()
    assumed_from: str = ""

    @property
    def image(self) -> ir.Value:
        """The input of the original that is the image; old files list their weights among the inputs too."""
        graph = self.original.graph
        return next(value for value in graph.inputs if value.name not in graph.initializers)
