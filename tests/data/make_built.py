"""Makes `built/`: networks of exporters that no longer run, and forms of layers that the operators allow.

    pip install onnx onnxruntime
    python tests/data/make_built.py

CNTK, Caffe2 and PyTorch 0.4 wrote operator sets 1 to 9; their networks are built here as in surviving files. Weights
are random. NAME.npz holds a window and ONNX Runtime's scores of it. ONNX Runtime supports operator sets from 7 on; the
older files are the same network with the same weights.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from built_layers import NETWORKS as LAYERS
from built_nets import NETWORKS

FOLDER = Path(__file__).parent / "built"


def window_of(model: onnx.ModelProto) -> np.ndarray:
    """Return random pixels from 0 to 1, in steps that compress well."""
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    return (np.random.default_rng(0).integers(0, 6, shape) / 5).astype(np.float32)


def run(model: onnx.ModelProto, window: np.ndarray) -> np.ndarray:
    """Return ONNX Runtime's scores."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns about initializers that are inputs
    scores: np.ndarray = ort.InferenceSession(model.SerializeToString(), options).run(None, {"data_0": window})[0]
    return scores


def main() -> None:
    """Make all files."""
    for name, (build, opsets) in NETWORKS.items():
        models = {f"{name}.opset{opset}": build(opset) for opset in opsets}
        write(name, models)
    for name, network in LAYERS.items():
        write(name, {f"{name}.helper": network()})


def write(name: str, models: dict[str, onnx.ModelProto]) -> None:
    """Write the files of a network, of which ONNX Runtime can run the last."""
    for stem, model in models.items():
        onnx.save(model, FOLDER / f"{stem}.onnx")
    window = window_of(model)
    scores = run(model, window)
    np.savez_compressed(FOLDER / f"{name}.npz", window=window, scores=scores)


if __name__ == "__main__":
    main()
