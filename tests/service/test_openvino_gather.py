"""Gathers along the last axis have the right values in OpenVINO, also in the parts of later threads."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto, helper, save

from service.engine.backend import Backend

pytestmark = pytest.mark.openvino


@pytest.mark.parametrize(
    ("shape", "indices"),
    [
        ((95_760, 20), (21, 19)),  # the second thread begins after more than 2²⁴ values
        ((2, 3, 4, 9), (3, 4)),
        ((2, 3, 9), (4,)),
        ((5, 9), ()),
        ((9,), (3,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("axis", [-1, 0])
def test_gathers(shape: tuple[int, ...], indices: tuple[int, ...], axis: int, tmp_path: Path) -> None:
    """A Gather along the first and along the last axis gives numpy's values."""
    from service.engine.openvino_runtime import OpenVinoExecutable  # noqa: PLC0415 (needs an extra)

    places = np.arange(np.prod(indices, dtype=int)).reshape(indices) * 7 % shape[axis]
    names = [f"size{number}" for number in range(len(shape))]
    values = helper.make_tensor_value_info("values", TensorProto.FLOAT, names)
    gathered = helper.make_tensor_value_info("gathered", TensorProto.FLOAT, None)
    constant = helper.make_tensor("places", TensorProto.INT64, indices, places.ravel())
    node = helper.make_node("Gather", ["values", "places"], ["gathered"], axis=axis)
    graph = helper.make_graph([node], "gather", [values], [gathered], [constant])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "gather.onnx")
    executable = OpenVinoExecutable(tmp_path / "gather.onnx", Backend("openvino", "fp32"), threads=2)
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    (result,) = executable.run({"values": data}, ["gathered"], None)
    assert_array_equal(result, np.take(data, places, axis))
