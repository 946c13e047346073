"""Replaces the Gather of OpenVINO that gives wrong values.

In OpenVINO 2026.4, a Gather along the last axis gives some values of neighbours in the share of a thread that begins
beyond about 2²⁴ values, as if it computed positions in float32, which has no odd integers above 2²⁴. A Gather along the
first axis copies whole blocks, and is right. So the last axis becomes the first one, and afterwards the last one again.
Mode shared cuts columns of windows in this way.
"""

import numpy as np
import openvino as ov
from openvino import opset13 as operators

MIN_RANK = 2
"""Smallest rank of a map with a last axis that is not the first one."""


def replace_wrong_gathers(network: ov.Model) -> None:
    """Replace each Gather of numbers along the last axis, in place."""
    for node in network.get_ordered_ops():
        if node.get_type_name() == "Gather" and _is_along_last_axis(node):
            moved = _gathered(node).output(0)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(moved)
    network.validate_nodes_and_infer_types()


def _is_along_last_axis(node: ov.Node) -> bool:
    """Return whether a Gather takes numbers along the last axis, and all ranks are known."""
    values, indices, axis = (node.input_value(position) for position in range(3))
    ranks = [values.get_partial_shape().rank, indices.get_partial_shape().rank]
    if values.get_element_type().is_integral() or any(rank.is_dynamic for rank in ranks):
        return False
    rank, constant = ranks[0].get_length(), axis.get_node()
    if rank < MIN_RANK or constant.get_type_name() != "Constant":
        return False
    return bool(constant.get_data().item() % rank == rank - 1)


def _gathered(node: ov.Node) -> ov.Node:
    """Return the values of a Gather along the last axis, computed by one along the first axis."""
    values, indices = node.input_value(0), node.input_value(1)
    others = values.get_partial_shape().rank.get_length() - 1
    places = indices.get_partial_shape().rank.get_length()
    first = operators.transpose(values, _integers(others, *range(others)))
    gathered = operators.gather(first, indices, _integers(0))
    return operators.transpose(gathered, _integers(*range(places, places + others), *range(places)))


def _integers(*values: int) -> ov.Node:
    return operators.constant(np.array(values, np.int64))
