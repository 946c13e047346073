"""Makes a copy of a converted network in reduced precision, with ONNX Runtime's own tools.

"fp16": weights and all values computed from them are in half precision; image and scores keep their types. "int8": maps
are bytes, whose ranges are calibrated on images, and weights have 7 bits, with a scale for every output channel:

    weight ≈ scale[channel] · integer,    map ≈ scale · (byte − zero point)

Weights have seven bits because processors without 8-bit dot products saturate with eight bits; with seven bits all
processors give the same scores. Preprocessing and the last layer remain in float32: scores of 256 levels would tie.

Refused: numbers that half precision cannot hold, and networks that ONNX Runtime's tools cannot convert.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.errors import ConversionError, UnsupportedError
from converter.graph.nodes import bypass, first_input
from converter.graph.passes.infer_types import InferTypesPass
from converter.graph.passes.prepend_preprocessing import PREFIX
from converter.graph.trace import IntermediateValues
from converter.messages import first_cause, quiet

Feed = Mapping[str, NDArray[Any]]
"""Inputs of a graph, by name."""

LAYERS = ("Conv", "Gemm", "MatMul")
IN_BYTES = (*LAYERS, "Add", "Clip", "Concat", "MaxPool", "Relu")
"""Operators that ONNX Runtime computes in bytes; all others compute in float32, with conversions before and after."""
LARGEST_HALF = float(np.finfo(np.float16).max)


class QuantizePass(ir.passes.FunctionalPass):
    """Quantize a network to "fp16" or "int8", calibrated on `feeds`; its weights lie in files of `scratch`."""

    def __init__(self, precision: str, feeds: Iterable[Feed], scratch: Path) -> None:
        super().__init__()
        self._precision, self._feeds, self._scratch = precision, feeds, scratch

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; raises UnsupportedError if numbers are too large for fp16, or ONNX Runtime's tools fail."""
        source = self._scratch / "fp32.onnx"
        ir.save(model, source)
        if self._precision == "fp16":
            _check_range(model, IntermediateValues(model, self._scratch), self._feeds)
        try:
            with quiet():  # the tools print advice that this code already follows
                network = _to_fp16(source) if self._precision == "fp16" else ir.load(to_int8(fold(source), self._feeds))
        except (ConversionError, OSError):  # an unreadable calibration image; a full disk
            raise
        except Exception as error:  # the tools raise many unrelated kinds
            raise UnsupportedError(
                f"precision: ONNX Runtime cannot convert the network to {self._precision}: {first_cause(error)}"
            ) from None
        InferTypesPass()(network)
        return ir.passes.PassResult(network, modified=True)


def fold(source: Path) -> Path:
    """Write FOLDER/folded.onnx, in which each batch normalisation is part of the convolution before it."""
    from onnxruntime.quantization import shape_inference  # noqa: PLC0415 (much to import, for this alone)

    folded = source.with_name("folded.onnx")
    shape_inference.quant_pre_process(
        source, folded, skip_symbolic_shape=True, skip_onnx_shape=True,
        save_as_external_data=True, external_data_location="folded.data",
    )  # fmt: skip
    return folded


def to_int8(folded: Path, feeds: Iterable[Feed], in_float: Collection[str] = ()) -> Path:
    """Write FOLDER/int8.onnx, calibrated on `feeds`; the nodes `in_float` remain in float32 too."""
    from onnxruntime import quantization  # noqa: PLC0415 (much to import, for this alone)

    pending: Iterator[Feed] = iter(feeds)

    class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Feed | None:
            return next(pending, None)

    target = folded.with_name("int8.onnx")
    quantization.quantize_static(
        folded,
        target,
        Feeds(),
        op_types_to_quantize=list(IN_BYTES),
        nodes_to_exclude=[*kept_in_float(ir.load(folded).graph), *in_float],
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )
    return target


def _check_range(model: ir.Model, every: IntermediateValues, feeds: Iterable[Feed]) -> None:
    """Raise UnsupportedError if half precision cannot hold a weight or a value of a map.

    The tool would clamp weights. A map would be infinite on processors that compute in half precision, but not on
    processors that compute in float32 and round.
    """
    weights = ((value, value.const_value.numpy()) for value in model.graph.initializers.values() if value.const_value)
    computed = (pair for feed in feeds for pair in every(feed).items())
    for value, array in chain(weights, computed):
        largest = float(np.abs(array).max(initial=0)) if array.dtype == np.float32 else 0.0
        if largest > LARGEST_HALF:
            raise UnsupportedError(
                f"precision: expected numbers of at most {LARGEST_HALF:.0f} for fp16, got {largest:.3g} in "
                f"{str(value.name)!r}; choose another --precision"
            )


def _to_fp16(source: Path) -> ir.Model:
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415 (changes sys.path)

    network: ir.Model = ir.from_proto(convert_float_to_float16(str(source), keep_io_types=True))
    for node in list(network.graph):
        if node.op_type == "Cast" and _keeps_constant(node):  # the tool puts one before the scales of a Resize
            bypass(network.graph, node)
    return network


def _keeps_constant(cast: ir.Node) -> bool:
    """Return whether a Cast has a constant of the type to which it casts."""
    constant = first_input(cast).const_value
    return constant is not None and constant.dtype == cast.attributes["to"].as_int()


def kept_in_float(graph: ir.Graph) -> list[str]:
    """Return the names of the nodes that remain in float32.

    These are the preprocessing, and for every output its last layer and all nodes after it.
    """
    kept = {node for node in graph if str(node.name).startswith(PREFIX)}
    pending = [output.producer() for output in graph.outputs]
    while pending:
        node = pending.pop()
        if node is not None and node not in kept:
            kept.add(node)
            pending += [value.producer() for value in node.inputs if value is not None and node.op_type not in LAYERS]
    return [str(node.name) for node in graph if node in kept]
