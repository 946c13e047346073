"""The nine ImageNet classifiers inside the `onnx` wheel, as Caffe2 exported them, with weights that reveal errors.

In the wheel nearly every weight tensor is one constant, so that a wrong order of features would not change the scores.
Here the weights are random. Their sizes and everything else in the files stay: operator set 9, IR version 3, windows of
224×224 pixels, every initializer also an input.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

WHEEL = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in WHEEL.glob("*.onnx"))
WINDOW = (1, 3, 224, 224)

Role = tuple[str, int]
"""An operator, and the position of one of its inputs."""

RANGES: dict[Role, tuple[float, float]] = {
    ("BatchNormalization", 1): (0.5, 1.5),
    ("BatchNormalization", 2): (-0.3, 0.3),
    ("BatchNormalization", 3): (-0.3, 0.3),
    ("BatchNormalization", 4): (0.5, 2.0),
    ("Conv", 2): (-0.1, 0.1),
    ("Gemm", 2): (-0.1, 0.1),
    ("Mul", 1): (0.5, 1.5),
    ("Add", 1): (-0.3, 0.3),
}
"""Ranges of the parameters that are no weights. A Scale layer of Caffe is a Mul and an Add."""


def make_light(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a network of NAMES with random weights as FOLDER/NAME.onnx; returns the path. VGG-19 has 575 MB."""
    model = onnx.load(WHEEL / f"light_{name}.onnx")
    random = np.random.default_rng(seed)
    roles = dict(uses(model.graph))
    for tensor in materialised(model.graph):
        role = roles.get(tensor.name, ("", 0))
        if tensor.data_type == onnx.TensorProto.FLOAT and role[0]:
            tensor.CopyFrom(numpy_helper.from_array(values(role, tuple(tensor.dims), random), tensor.name))
    standardise(model)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def uses(graph: onnx.GraphProto) -> Iterator[tuple[str, Role]]:
    """Yield each input of a node with its role; a weight that is first reshaped has the role of the result."""
    following: dict[str, Role] = {}
    for node in reversed(graph.node):
        for position, name in enumerate(node.input):
            role = (node.op_type, position)
            if node.op_type in ("Reshape", "Unsqueeze"):
                role = following.get(node.output[0], role)
            following[name] = role
            yield name, role


def materialised(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Replace every ConstantOfShape by an initializer, and yield all initializers."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    fills = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    gone = {node.input[0] for node in fills}
    for shape_input in [value for value in graph.input if value.name in gone]:
        graph.input.remove(shape_input)
    for shape_tensor in [tensor for tensor in graph.initializer if tensor.name in gone]:
        graph.initializer.remove(shape_tensor)
    for node in fills:
        graph.node.remove(node)
        shape = shapes[node.input[0]].tolist()
        graph.initializer.add(name=node.output[0], data_type=onnx.TensorProto.FLOAT, dims=shape)
        graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, shape))
    yield from graph.initializer


def values(role: Role, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    """Return random weights by He's rule, (outputs, inputs, ...) or (..., outputs, inputs), or values from RANGES."""
    if role in RANGES:
        return random.uniform(*RANGES[role], shape).astype(np.float32)
    fan_in = shape[-1] if shape[:2] == (1, 1) else np.prod(shape[1:])
    return random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))


def standardise(model: onnx.ModelProto) -> None:
    """Scale the last layer so that its outputs have mean 0 and standard deviation 1 over four windows.

    Without this, all windows of a random network have nearly the same scores, or one class always wins.
    """
    last = next(node for node in reversed(model.graph.node) if node.op_type in ("Conv", "Gemm"))
    outputs = [one[0].reshape(one.shape[1], -1) for one in run(model, last.output[0], windows(4))]
    centre: NDArray[np.float32] = np.asarray(outputs).mean(axis=(0, 2), dtype=np.float32)
    spread = np.std(outputs - centre[:, None], dtype=np.float32)
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Reshape"}
    weights, bias = (sources.get(name, name) for name in last.input[1:])
    for tensor in model.graph.initializer:
        if tensor.name in (weights, bias):
            array = numpy_helper.to_array(tensor) - (centre if tensor.name == bias else 0)
            tensor.CopyFrom(numpy_helper.from_array(array / spread, tensor.name))


def windows(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return random windows (count, 3, 224, 224) of 16-pixel squares; networks distinguish them better than noise."""
    patches = np.random.default_rng(seed).uniform(-1, 1, (count, 3, 14, 14)).astype(np.float32)
    return patches.repeat(16, 2).repeat(16, 3)


def run(model: onnx.ModelProto, output: str, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return a value of the graph for each image; the networks accept one image at a time."""
    observed = model.graph.output.add()
    observed.CopyFrom(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns about initializers that are also inputs
    session = ort.InferenceSession(model.SerializeToString(), options)
    model.graph.output.remove(observed)
    (image,) = session.get_inputs()
    return [session.run([output], {image.name: one[None]})[0] for one in images]
