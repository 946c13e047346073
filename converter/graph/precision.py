"""A converted network in fewer bits, by ONNX Runtime's own tools.

"fp16": weights, and what is computed from them, in half precision; image and scores as before. "int8": maps in bytes,
their ranges measured on images, and weights in 7 bits, with a scale for every output channel. Seven, because processors
without 8-bit dot products saturate at eight; so all give the same scores. Preprocessing and the last layer stay in
float32: scores of 256 levels would tie.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from converter.errors import ConversionError, UnsupportedError
from converter.graph.preprocess import PREFIX
from converter.graph.trace import EveryValue
from converter.sources.frameworks import quiet, reason

Feed = Mapping[str, NDArray[Any]]

LAYERS = ("Conv", "Gemm", "MatMul")
IN_BYTES = (*LAYERS, "Add", "Clip", "Concat", "MaxPool", "Relu")
"""What ONNX Runtime computes in bytes; all else gets float32, converted before and after."""
LARGEST_HALF = float(np.finfo(np.float16).max)


def reduced(model: ir.Model, precision: str, feeds: Iterable[Feed], scratch: Path) -> ir.Model:
    """The network in "fp16" or "int8", by the numbers that it has for some inputs.

    The model's weights lie in a file of the folder. Raises UnsupportedError if they are too large for fp16, or if ONNX
    Runtime's tools fail.
    """
    source = scratch / "fp32.onnx"
    ir.save(model, source)
    if precision == "fp16":
        _check_range(model, EveryValue(model, scratch), feeds)
    try:
        with quiet():  # they advise what has been done
            network = _fp16(source) if precision == "fp16" else _int8(source, _in_float(model.graph), iter(feeds))
    except (ConversionError, OSError):  # of an image to calibrate on; of a full disk
        raise
    except Exception as error:  # they raise whatever they stumble over
        raise UnsupportedError(f"precision: ONNX Runtime cannot make {precision} of it: {reason(error)}") from None
    _retype(network)
    return network


def _check_range(model: ir.Model, every: EveryValue, feeds: Iterable[Feed]) -> None:
    """Raise UnsupportedError if numbers are beyond half precision.

    The tool would clamp weights; and where processors compute in half precision maps would be infinite, but not where
    they compute in float32 and round.
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


def _retype(network: ir.Model) -> None:
    """State the types that the values have, in place: the tools leave wrong ones, and shapes of one stride only."""
    inner = [value for node in network.graph for value in node.outputs if not value.is_graph_output()]
    for value in inner:
        value.type = value.shape = None
    for value in network.graph.initializers.values():
        value.type = None if value.const_value is None else ir.TensorType(value.const_value.dtype)
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ShapeInferencePass(),
    )(network)
    for value in inner:
        value.shape = None


def _fp16(source: Path) -> ir.Model:
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415 (changes sys.path)

    network: ir.Model = ir.from_proto(convert_float_to_float16(str(source), keep_io_types=True))
    return network


def _int8(source: Path, in_float: list[str], feeds: Iterator[Feed]) -> ir.Model:
    from onnxruntime import quantization  # noqa: PLC0415 (much to import, for this alone)

    class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Feed | None:
            return next(feeds, None)

    target = source.with_name("int8.onnx")
    quantization.quantize_static(
        source,
        target,
        Feeds(),
        op_types_to_quantize=list(IN_BYTES),
        nodes_to_exclude=in_float,
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )
    return ir.load(target)


def _in_float(graph: ir.Graph) -> list[str]:
    """The names of the nodes that stay in float32: preprocessing, and from the last layer on."""
    kept = {node for node in graph if str(node.name).startswith(PREFIX)}
    pending = [graph.outputs[0].producer()]
    while pending:
        node = pending.pop()
        if node is not None and node not in kept:
            kept.add(node)
            pending += [value.producer() for value in node.inputs if value is not None and node.op_type not in LAYERS]
    return [str(node.name) for node in graph if node in kept]
