"""Gives a graph outputs that are scores.

Exporters of scikit-learn, LightGBM and of cloud services end a network in the name of the best class (ArgMax,
LabelEncoder) and in a dictionary of probabilities (ZipMap). Those outputs are replaced by the scores from which they
are made, and the dictionary's keys are the labels.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from converter.graph.nodes import add_constant, first_input

CLASS_OF_SCORES = {"ArgMax": 0, "TopK": 1}
"""Operators that return the number of a class, and the position of this output. TopK's first output are values."""
NAME_OF_CLASS = ("ArrayFeatureExtractor", "Cast", "Flatten", "Identity", "LabelEncoder", "Reshape", "Squeeze")
"""Operators that may lie between the number of a class and the output that names it."""


def set_scores(model: ir.Model) -> tuple[str, ...]:
    """Replace outputs that name a class by its scores, in place; returns the labels that the graph states, if any."""
    labels: tuple[str, ...] = ()
    graph, is_changed = model.graph, False
    for position, output in enumerate(graph.outputs):
        scores, own = _behind_names(output)
        if scores is not None:
            labels, is_changed = labels or own, True
            graph.outputs[position] = _renamed(graph, ir.node("Identity", [scores]), output)
            graph.outputs[position].shape = scores.shape or ir.Shape([None] * _rank_of_scores(output))
    if is_changed:
        RemoveUnusedNodesPass()(model)
    return labels


def set_log_softmax(graph: ir.Graph) -> None:
    """Replace Log(Softmax(x)), which is −∞ where a probability rounds to 0, by LogSoftmax(x), in place."""
    for log in [node for node in graph if node.op_type == "Log"]:
        softmax = first_input(log).producer()
        if softmax is not None and softmax.op_type == "Softmax":
            node = ir.node("LogSoftmax", softmax.inputs[:1], dict(softmax.attributes), name=log.name)
            node.outputs[0].name, node.outputs[0].type = log.outputs[0].name, log.outputs[0].type
            node.outputs[0].shape = log.outputs[0].shape
            graph.insert_before(log, node)
            log.outputs[0].replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
            graph.remove(log, safe=True)


def add_batch_axis(graph: ir.Graph) -> None:
    """Make outputs (classes,) of a network that takes a single image (1, classes), in place."""
    (image,) = [value for value in graph.inputs if value.name not in graph.initializers]
    for position, output in enumerate(graph.outputs):
        if output.shape is None or image.shape is None or image.shape[0] != 1 or output.shape.rank() != 1:
            continue
        axes = add_constant(graph, f"{output.name}.axes", np.array([0]))
        graph.outputs[position] = _renamed(graph, ir.node("Unsqueeze", [output, axes]), output)
        graph.outputs[position].shape = ir.Shape([1, *output.shape])


def _behind_names(output: ir.Value) -> tuple[ir.Value | None, tuple[str, ...]]:
    """Return the scores of which an output is the dictionary or the name of the best class, and the classes' labels.

    The scores are None if the output is something else.
    """
    value: ir.Value | None = output
    labels: tuple[str, ...] = ()
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "ZipMap":
            return node.inputs[0], _labels_of(node)
        if value.index() == CLASS_OF_SCORES.get(node.op_type):
            return node.inputs[0], labels
        if node.op_type not in NAME_OF_CLASS:
            break
        labels = labels or _labels_of(node)
        value = node.inputs[1] if node.op_type == "ArrayFeatureExtractor" else node.inputs[0]
    return None, ()


def _rank_of_scores(output: ir.Value) -> int:
    """Return the number of axes of the scores behind an output: one for the classes, and those of the output."""
    return 2 if output.shape is None else max(2, output.shape.rank() + 1)


def _labels_of(node: ir.Node) -> tuple[str, ...]:
    """Return the labels that a node of ai.onnx.ml states, in the order of the classes."""
    attributes = node.attributes
    match node.op_type:
        case "ZipMap":
            strings = attributes.get_strings("classlabels_strings", ())
            return tuple(strings or map(str, attributes.get_ints("classlabels_int64s", ())))
        case "LabelEncoder":
            names = attributes.get_strings("values_strings", ()) or attributes.get_ints("values_int64s", ())
            numbered = sorted(zip(attributes.get_ints("keys_int64s", ()), map(str, names), strict=False))
            in_order = [number for number, _ in numbered] == [*range(len(numbered))]
            return tuple(name for _, name in numbered) if in_order else ()
        case "ArrayFeatureExtractor":
            names_tensor = ir.convenience.get_const_tensor(node.inputs[0]) if node.inputs[0] else None
            return () if names_tensor is None else tuple(_text(name) for name in names_tensor.numpy().reshape(-1))
    return ()


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _renamed(graph: ir.Graph, node: ir.Node, output: ir.Value) -> ir.Value:
    """Append a node; returns its output, which takes the name of a former output of the graph."""
    made, node.name = node.outputs[0], f"{output.name}.scores"
    made.name, output.name = output.name, f"{output.name}.of_source"
    made.type = first_input(node).type or ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    return made
