"""Converts tensors and parameters of the Open Inference Protocol to scoring requests, and answers to its tensors.

images uint8, uint16, int16 or float32 (images, height, width, channels), or encoded (images)
    → scores float32 (images, classes, rows, cols), average float32 (images, classes)
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from fullconv.protos import open_inference_pb2 as oip
from service.dense.reducers import argsort_descending
from service.engine.repository import StoredModel
from service.errors import ImageError, OptionError
from service.images.arrays import open_raw
from service.images.encoded import open_bytes
from service.images.headers import opens_quickly
from service.images.picture import PageSelection, Picture, UnopenedPicture
from service.rpc.parameters import count_of, options_of, value_of
from service.scoring.outcome import Outcome, Scored
from service.scoring.scorer import ScoringRequest

SCORES, AVERAGE = "scores", "average"
PIXELS = {"UINT8": "uint8", "UINT16": "uint16", "INT16": "int16", "FP32": "float32"}
TYPES = {dtype: datatype for datatype, dtype in PIXELS.items()}
CONTENTS = {
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "INT16": "int_contents",
    "FP32": "fp32_contents",
    "BYTES": "bytes_contents",
}
MOST_IMAGES = 256
MOST_LENGTHS = 8
"""Largest number of lengths of a shape: the product of a million lengths would take minutes."""
MOST_NUMBERS = 1 << 20
"""Largest number of elements in typed contents, which are slow to read. Larger tensors must be raw."""
CLASSIFICATION = "classification"
NAME = "image"
"""The name of every image in errors, since tensors hold no names of images."""

OpenPicture = tuple[Callable[[PageSelection], Picture], bool]
"""What opens an image, and whether that takes at most a few milliseconds."""


def scoring_requests(
    request: oip.ModelInferRequest, model: StoredModel
) -> list[tuple[ScoringRequest, UnopenedPicture]]:
    """Return a request for each image, and the image.

    Raises OptionError or ImageError for tensors and parameters that the model does not accept.
    """
    options = options_of(request, grid=any(name != AVERAGE for name in _outputs(request, model)))
    scoring = ScoringRequest(model.name, model.version, options)
    return [
        (scoring, UnopenedPicture(partial(open_picture, options.selection), is_quick))
        for open_picture, is_quick in _images(request, model)
    ]


@dataclass(frozen=True, eq=False)
class ImageAnswer:
    """The answer for one image. It refers neither to the image nor to its rows."""

    model: StoredModel
    classes: tuple[int, ...]
    averages: np.ndarray
    """(classes,) float64."""
    grid: np.ndarray | None
    """(classes, rows, cols) float32; None unless the request asks for it."""
    further: np.ndarray | None
    """The values of the further outputs, (values, rows, cols) float32; None if the model has no further output."""

    @classmethod
    def of(cls, outcome: Outcome) -> "ImageAnswer":
        """Keep the averages and gather the grid of an image that was scored."""
        assert isinstance(outcome, Scored)  # noqa: S101 (this protocol has no request for the plan alone)
        planned = outcome.planned
        grid = _channels_first([part.scores for part in outcome.rows])
        further = _channels_first([part.further for part in outcome.rows if part.further is not None])
        return cls(planned.model, planned.options.classes, outcome.result.average, grid, further)

    def top(self, count: int) -> list[bytes]:
        """Return the highest averages as Triton writes them: "score:class:label"."""
        return [
            f"{self.averages[place]:f}:{self.classes[place]}:{self.model.label(self.classes[place])}".encode()
            for place in argsort_descending(self.averages, count)
        ]


def infer_response(request: oip.ModelInferRequest, answers: list[ImageAnswer]) -> oip.ModelInferResponse:
    """Return the answers of all images as tensors; raises ImageError if their grids differ in size."""
    model = answers[0].model
    response = oip.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    if request.parameters["triton_enable_empty_final_response"].bool_param:
        response.parameters["triton_final_response"].bool_param = True
    for name in _outputs(request, model):
        count = next((_classes(output) for output in request.outputs if output.name == name), 0)
        if name == SCORES:
            _add(response, SCORES, _stacked([answer.grid for answer in answers if answer.grid is not None]))
        elif name != AVERAGE:
            further = _stacked([answer.further for answer in answers if answer.further is not None])
            _add(response, name, further[:, _places(model, name)])
        elif count:
            _add(response, AVERAGE, np.array([answer.top(count) for answer in answers], object))
        else:
            _add(response, AVERAGE, np.array([answer.averages for answer in answers], np.float32))
    return response


def output_shapes(model: StoredModel) -> dict[str, list[int]]:
    """Return the shape of each output of a model, -1 for lengths that depend on the request."""
    output = model.spec.output
    further = {each.name: [-1, each.values, -1, -1] for each in output.further}
    return {SCORES: [-1, output.classes, -1, -1], AVERAGE: [-1, output.classes]} | further


def _channels_first(rows: list[np.ndarray]) -> np.ndarray | None:
    """Return rows (rows, cols, values) as one grid (values, rows, cols); None without rows."""
    return np.moveaxis(np.concatenate(rows), -1, 0) if rows else None


def _places(model: StoredModel, name: str) -> slice:
    """Return where the values of a further output lie among those of all further outputs."""
    start = 0
    for output in model.spec.output.further:
        if output.name == name:
            break
        start += output.values
    return slice(start, start + output.values)


def _outputs(request: oip.ModelInferRequest, model: StoredModel) -> list[str]:
    known = list(output_shapes(model))
    names = [output.name for output in request.outputs] or known
    for name in names:
        if name not in known or names.count(name) > 1:
            raise OptionError(f"outputs: expected {' and '.join(known)}, each at most once, got {name!r}")
    for output in request.outputs:
        for name in output.parameters:
            if name.startswith("shared_memory"):
                raise OptionError("outputs: shared memory is not supported; receive tensors in messages")
            if name not in (CLASSIFICATION, "binary_data") or (name == CLASSIFICATION and output.name != AVERAGE):
                raise OptionError(f"outputs: {output.name}: expected no parameter but {CLASSIFICATION} of {AVERAGE}")
        _classes(output)
    return names


def _images(request: oip.ModelInferRequest, model: StoredModel) -> Iterator[OpenPicture]:
    expected = model.spec.input.name
    if [tensor.name for tensor in request.inputs] != [expected]:
        raise OptionError(f"inputs: expected {expected!r}, got {[tensor.name for tensor in request.inputs][:4]}")
    (tensor,) = request.inputs
    if any(name.startswith("shared_memory") for name in tensor.parameters):
        raise OptionError(f"inputs: {tensor.name}: shared memory is not supported; send tensors in messages")
    if tensor.datatype not in CONTENTS:
        raise OptionError(f"inputs: {tensor.name}: expected {', '.join(CONTENTS)}, got {tensor.datatype!r}")
    if len(tensor.shape) > MOST_LENGTHS:
        raise OptionError(
            f"inputs: {tensor.name}: expected a shape of at most {MOST_LENGTHS} lengths, got {len(tensor.shape)}"
        )
    if any(length < 1 for length in tensor.shape):
        raise OptionError(f"inputs: {tensor.name}: expected a shape of positive lengths, got {list(tensor.shape)}")
    if len(request.raw_input_contents) > 1 or (request.raw_input_contents and tensor.HasField("contents")):
        raise OptionError("inputs: expected the contents of one tensor, got more")
    raw = request.raw_input_contents[0] if request.raw_input_contents else None
    yield from _encoded(tensor, raw) if tensor.datatype == "BYTES" else _pixels(tensor, raw)


def _encoded(tensor: oip.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Iterator[OpenPicture]:
    given = tensor.contents.bytes_contents if raw is None else elements(tensor.name, raw)
    files = list(islice(given, MOST_IMAGES + 1))
    count = int(np.prod(tensor.shape, dtype=object))
    if not 0 < len(files) == count <= MOST_IMAGES:
        raise ImageError(
            f"inputs: {tensor.name}: expected as many files as the shape states, 1 to {MOST_IMAGES}, got {len(files)} "
            f"of shape {list(tensor.shape)}"
        )
    return ((partial(open_bytes, file, name=NAME), opens_quickly(file)) for file in files)


def elements(name: str, raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a raw BYTES tensor: before each, its length in four bytes, little-endian."""
    at = 0
    while at < len(raw):
        if at + 4 > len(raw) or at + 4 + (length := struct.unpack_from("<I", raw, at)[0]) > len(raw):
            raise ImageError(
                f"inputs: {name}: expected elements after their lengths, got {len(raw)} bytes that end early"
            )
        yield raw[at + 4 : at + 4 + length]
        at += 4 + length


def _pixels(tensor: oip.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Iterator[OpenPicture]:
    dtype = np.dtype(PIXELS[tensor.datatype]).newbyteorder("<")
    if raw is None:
        raw = _numbers(tensor, dtype).tobytes()
    shape = {2: (1, *tensor.shape, 1), 3: (1, *tensor.shape), 4: tuple(tensor.shape)}.get(len(tensor.shape))
    if shape is None or shape[0] > MOST_IMAGES or max(shape) >= 1 << 32:
        raise ImageError(
            f"inputs: {tensor.name}: expected (images, height, width, channels) of at most {MOST_IMAGES} images, got "
            f"{list(tensor.shape)}"
        )
    images, height, width, channels = shape
    size = height * width * channels * dtype.itemsize
    if len(raw) != images * size:
        raise ImageError(f"inputs: {tensor.name}: expected {images * size} bytes for {list(shape)}, got {len(raw)}")
    for first in range(0, len(raw), size):
        data = raw[first : first + size]
        yield partial(open_raw, (height, width, channels), PIXELS[tensor.datatype], data, name=NAME), True


def _numbers(tensor: oip.ModelInferRequest.InferInputTensor, dtype: np.dtype[Any]) -> np.ndarray:
    """Return the typed contents of a tensor in its datatype; raises ImageError for numbers outside its range."""
    contents = getattr(tensor.contents, CONTENTS[tensor.datatype])
    if len(contents) > MOST_NUMBERS:
        raise ImageError(
            f"inputs: {tensor.name}: expected raw_input_contents for more than {MOST_NUMBERS} numbers, got contents of "
            f"{len(contents)}"
        )
    if dtype.kind == "f":
        return np.fromiter(contents, dtype)
    values, limits = np.fromiter(contents, np.int64), np.iinfo(dtype)
    wrong = values[(values < limits.min) | (values > limits.max)]
    if len(wrong):
        raise ImageError(f"inputs: {tensor.name}: expected values of {tensor.datatype}, got {wrong[0]}")
    return values.astype(dtype)


def input_type(model: StoredModel) -> str:
    """Return the datatype of a model's input for its metadata: that of the image's own values, or UINT8."""
    return TYPES[model.spec.input.preprocessing.dtype or "uint8"]


def _classes(output: oip.ModelInferRequest.InferRequestedOutputTensor) -> int:
    if CLASSIFICATION not in output.parameters:
        return 0
    return count_of(CLASSIFICATION, value_of(output.parameters[CLASSIFICATION]))


def _stacked(grids: list[np.ndarray]) -> np.ndarray:
    """Return grids (classes, rows, cols) as (images, classes, rows, cols); raises ImageError for other sizes."""
    (rows, cols) = grids[0].shape[1:]
    for grid in grids:
        if grid.shape[1:] != (rows, cols):
            raise ImageError(
                f"inputs: expected images whose grids have the same size, as scores requires, got {rows}×{cols} and "
                f"{grid.shape[1]}×{grid.shape[2]}; request only the average, or send each image in its own request"
            )
    return np.stack(grids)


def _add(response: oip.ModelInferResponse, name: str, values: np.ndarray) -> None:
    output = response.outputs.add(name=name, datatype="FP32", shape=values.shape)
    if values.dtype == object:
        output.datatype = "BYTES"
        response.raw_output_contents.append(b"".join(struct.pack("<I", len(word)) + word for word in values.flat))
    else:
        response.raw_output_contents.append(np.ascontiguousarray(values, "<f4").tobytes())
