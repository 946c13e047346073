"""Makes versions of models that never end to be read, run forever, or take all memory.

Each is a copy of the shipped model whose hashes and spec remain correct.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
from google.protobuf import json_format
from onnx import helper
from support.paths import ROOT

from fullconv.common.model_files import SPEC_KEY
from fullconv.protos import model_pb2

DIGITS = ROOT / "models" / "digits" / "1"
FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL

Edit = Callable[[onnx.ModelProto], None]


def copy_version(folder: Path, edit: Edit | None = None) -> Path:
    """Copy the shipped model into a version's folder, with an edited graph; returns the folder."""
    shutil.copytree(DIGITS, folder)
    if edit is not None:
        edit_graph(folder / "model.onnx", edit)
    return folder


def edit_graph(path: Path, edit: Edit) -> None:
    """Edit an ONNX file without its weights."""
    model = onnx.load(path, load_external_data=False)
    edit(model)
    path.write_bytes(model.SerializeToString())


def edit_spec(change: Callable[[model_pb2.ModelSpec], None]) -> Edit:
    """Return an edit of the spec in an ONNX file."""

    def edit(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == SPEC_KEY)
        spec = json_format.Parse(entry.value, model_pb2.ModelSpec())
        change(spec)
        entry.value = json_format.MessageToJson(spec)

    return edit


def run_forever(model: onnx.ModelProto) -> None:
    """Pass the scores through a loop of 2^62 rounds."""
    inner = _rename_scores(model)
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["go"]), helper.make_node("Identity", ["value"], ["same"])],
        "body",
        [
            helper.make_tensor_value_info("round", INT64, []),
            helper.make_tensor_value_info("going", BOOL, []),
            helper.make_tensor_value_info("value", FLOAT, None),
        ],
        [helper.make_tensor_value_info("go", BOOL, []), helper.make_tensor_value_info("same", FLOAT, None)],
    )
    model.graph.initializer.append(helper.make_tensor("rounds", INT64, [], [1 << 62]))
    model.graph.initializer.append(helper.make_tensor("yes", BOOL, [], [True]))
    model.graph.node.append(helper.make_node("Loop", ["rounds", "yes", inner], [model.graph.output[0].name], body=body))


def take_memory(elements: int, times: int = 1) -> Edit:
    """Return an edit that adds to the scores, `times` times, the sum of a tensor of `elements` zeros."""

    def edit(model: onnx.ModelProto) -> None:
        scores = _rename_scores(model)
        model.graph.initializer.append(helper.make_tensor("elements", INT64, [1], [elements]))
        for number in range(times):
            zeros, total, added = (f"{name}{number}" for name in ("zeros", "total", "added"))
            last = number == times - 1
            model.graph.node.extend(
                [
                    helper.make_node("ConstantOfShape", ["elements"], [zeros]),
                    helper.make_node("ReduceSum", [zeros], [total], keepdims=0),
                    helper.make_node("Add", [scores, total], [model.graph.output[0].name if last else added]),
                ]
            )
            scores = added

    return edit


def read_forever(folder: Path) -> None:
    """Extend the weights of a version to one tebibyte of zeros, which needs no space on the disk."""
    os.truncate(folder / "weights.data", 1 << 40)


def _rename_scores(model: onnx.ModelProto) -> str:
    """Give the node that writes the graph's output another output; returns its name."""
    name = model.graph.output[0].name
    node = next(node for node in model.graph.node if name in node.output)
    node.output[list(node.output).index(name)] = "inner_scores"
    return "inner_scores"
