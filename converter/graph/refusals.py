"""The reasons for which a network has no fully-convolutional form, and the errors that name a node and a reason."""

from collections.abc import Sequence

import onnx_ir as ir

from converter.errors import UnsupportedError

WHOLE_MAP_NORMALISATION = "it normalises over the whole map"
MIXED_SUMMARY = "mixes a summary of the whole map back into the map (as squeeze-and-excite and group normalisation do)"
ATTENTION = "multiplies two computed values, as attention does: every position looks at all others"
NOT_THE_SAME_EVERYWHERE = "it does not compute the same function at every position of the map"

NOT_LOCAL = {
    **dict.fromkeys(("Attention", "MultiHeadAttention"), "attention: every position looks at all others"),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), "it runs along a sequence"),
    **dict.fromkeys(
        ("GroupNormalization", "InstanceNormalization", "MeanVarianceNormalization"), WHOLE_MAP_NORMALISATION
    ),
}
"""Operators that one pass cannot compute for every window, with the reasons."""

CLASS_NUMBERS = frozenset(("ArgMax", "ArgMin", "TopK"))
"""Operators whose output is the index of a class instead of scores."""


def refusal(node: ir.Node, reason: str) -> UnsupportedError:
    """Return the error that names a node: "node 'fc' (Gemm): REASON; use --crops-only to score window by window"."""
    return UnsupportedError(
        f"node {node.name!r} ({node.op_type}): {reason}; use --crops-only to score window by window"
    )


def position_constant(node: ir.Node, name: str | None) -> UnsupportedError:
    """Return the error for a constant that has different values at different positions of the map."""
    return refusal(node, f"the constant {name!r} depends on the position in the map")


def not_a_classifier(output: ir.Value, shape: Sequence[int]) -> UnsupportedError:
    """Return the error for an output that is not one row of values per window."""
    return UnsupportedError(
        f"output {output.name!r}: expected one row of values per window, got shape {shape}; convert a classifier, or "
        "choose its outputs with --scores and --also"
    )
