"""The Open Inference Protocol's tensors and parameters as requests of ours, and our answers as its tensors.

images uint8, uint16, int16 or float32 (images, height, width, channels), or encoded (images)
    → scores float32 (images, classes, rows, cols), average float32 (images, classes)
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from fullconv.protos import open_inference_pb2 as oip
from fullconv.protos import scoring_pb2
from service.engine.repository import StoredModel
from service.errors import ImageError, OptionError

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
MOST_NUMBERS = 1 << 20
"""Largest number of elements in typed contents, which are slow to read. Larger tensors must be raw."""
CLASSIFICATION = "classification"
IGNORED = {"triton_enable_empty_final_response", "binary_data_output", "sequence_id", "sequence_start", "sequence_end"}
"""Parameters that clients send and that have no effect: each request has one answer, and there are no sequences."""

MODES = {"auto": scoring_pb2.MODE_AUTO, "dense": scoring_pb2.MODE_DENSE, "crops": scoring_pb2.MODE_CROPS}
BORDERS = {"lattice": scoring_pb2.BORDER_LATTICE, "anchor": scoring_pb2.BORDER_ANCHOR}
AVERAGES = {
    "scores": scoring_pb2.AVERAGE_OF_SCORES,
    "probabilities": scoring_pb2.AVERAGE_OF_PROBABILITIES,
}


def score_requests(request: oip.ModelInferRequest, model: StoredModel) -> list[scoring_pb2.ScoreRequest]:
    """One request for each image; raises OptionError or ImageError for what a model does not take."""
    wanted = _outputs(request)
    options = scoring_pb2.ScoreOptions(grid=SCORES in wanted)
    for name, parameter in request.parameters.items():
        if name not in IGNORED and name != "timeout":
            _set_option(options, name, _value(parameter))
    return [
        scoring_pb2.ScoreRequest(model=model.name, version=model.version, image=image, options=options)
        for image in _images(request, model)
    ]


def timeout_seconds(request: oip.ModelInferRequest) -> float | None:
    """What the request says it may take, in Triton's microseconds; None: nothing. Raises OptionError."""
    if "timeout" not in request.parameters:
        return None
    return _count("timeout", _value(request.parameters["timeout"]), bits=64) / 1e6 or None


def infer_response(request: oip.ModelInferRequest, answers: list[scoring_pb2.ScoreResponse]) -> oip.ModelInferResponse:
    """The answers of all images as tensors; raises ImageError if their grids are not of one size."""
    first = answers[0]
    response = oip.ModelInferResponse(model_name=first.model, model_version=first.version, id=request.id)
    if request.parameters["triton_enable_empty_final_response"].bool_param:
        response.parameters["triton_final_response"].bool_param = True
    for name in _outputs(request):
        highest = next((_classes(output) for output in request.outputs if output.name == name), 0)
        if name == SCORES:
            _add(response, SCORES, np.stack([_grid(answer, first) for answer in answers]))
        elif highest:
            _add(response, AVERAGE, np.array([_named(answer, highest) for answer in answers], object))
        else:
            _add(response, AVERAGE, np.array([answer.average.values for answer in answers], np.float32))
    return response


def _outputs(request: oip.ModelInferRequest) -> list[str]:
    names = [output.name for output in request.outputs] or [SCORES, AVERAGE]
    for name in names:
        if name not in (SCORES, AVERAGE) or names.count(name) > 1:
            raise OptionError(f"outputs: expected {SCORES} and {AVERAGE}, each once at the most, got {name!r}")
    for output in request.outputs:
        for name in output.parameters:
            if name.startswith("shared_memory"):
                raise OptionError("outputs: shared memory is not supported: take tensors in messages")
            if name not in (CLASSIFICATION, "binary_data") or (name == CLASSIFICATION and output.name == SCORES):
                raise OptionError(f"outputs: {output.name}: expected no parameter but {CLASSIFICATION} of {AVERAGE}")
        _classes(output)
    return names


def _images(request: oip.ModelInferRequest, model: StoredModel) -> Iterator[scoring_pb2.Image]:
    expected = model.spec.input.name
    if [tensor.name for tensor in request.inputs] != [expected]:
        raise OptionError(f"inputs: expected {expected!r}, got {[tensor.name for tensor in request.inputs][:4]}")
    (tensor,) = request.inputs
    if any(name.startswith("shared_memory") for name in tensor.parameters):
        raise OptionError(f"inputs: {tensor.name}: shared memory is not supported: send tensors in messages")
    if tensor.datatype not in CONTENTS:
        raise OptionError(f"inputs: {tensor.name}: expected {', '.join(CONTENTS)}, got {tensor.datatype!r}")
    if any(length < 1 for length in tensor.shape):
        raise OptionError(f"inputs: {tensor.name}: expected a shape of positive lengths, got {list(tensor.shape)}")
    if len(request.raw_input_contents) > 1 or (request.raw_input_contents and tensor.HasField("contents")):
        raise OptionError("inputs: expected one tensor's contents, raw or not, got more")
    raw = request.raw_input_contents[0] if request.raw_input_contents else None
    yield from _encoded(tensor, raw) if tensor.datatype == "BYTES" else _pixels(tensor, raw)


def _encoded(tensor: oip.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Iterator[scoring_pb2.Image]:
    elements = tensor.contents.bytes_contents if raw is None else _elements(tensor.name, raw)
    files = list(islice(elements, MOST_IMAGES + 1))
    count = int(np.prod(tensor.shape, dtype=object))
    if not 0 < len(files) == count <= MOST_IMAGES:
        raise ImageError(
            f"inputs: {tensor.name}: expected as many files as the shape says, 1 to {MOST_IMAGES}, got {len(files)} of "
            f"shape {list(tensor.shape)}"
        )
    return (scoring_pb2.Image(encoded=file) for file in files)


def _elements(name: str, raw: bytes) -> Iterator[bytes]:
    """BYTES as they are written raw: each after its length, four bytes little-endian."""
    at = 0
    while at < len(raw):
        if at + 4 > len(raw) or at + 4 + (length := struct.unpack_from("<I", raw, at)[0]) > len(raw):
            raise ImageError(
                f"inputs: {name}: expected elements after their lengths, got {len(raw)} bytes that end early"
            )
        yield raw[at + 4 : at + 4 + length]
        at += 4 + length


def _pixels(tensor: oip.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Iterator[scoring_pb2.Image]:
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
        yield scoring_pb2.Image(
            raw=scoring_pb2.RawImage(
                height=height,
                width=width,
                channels=channels,
                dtype=PIXELS[tensor.datatype],
                data=raw[first : first + size],
            )
        )


def _numbers(tensor: oip.ModelInferRequest.InferInputTensor, dtype: np.dtype[Any]) -> np.ndarray:
    """The numbers of a tensor that is not raw, in its own type; raises ImageError for those that it cannot hold."""
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
    """The type of pixels that a model is said to take: that of its own values, or bytes."""
    return TYPES[model.spec.input.preprocessing.dtype or "uint8"]


def _value(parameter: oip.InferParameter) -> Any:  # noqa: ANN401 (one of several)
    choice = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, choice) if choice else None


def _set_option(options: scoring_pb2.ScoreOptions, name: str, value: Any) -> None:  # noqa: ANN401 (of a parameter)
    setters: dict[str, Callable[[], Any]] = {
        "stride": lambda: setattr(options, "stride", _count(name, value)),
        "mode": lambda: setattr(options, "mode", _choice(name, value, MODES)),
        "border": lambda: setattr(options, "border", _choice(name, value, BORDERS)),
        "average": lambda: setattr(options, "average", _choice(name, value, AVERAGES)),
        "flip": lambda: setattr(options, "flip", _flag(name, value)),
        "classes": lambda: options.classes.extend(_words(name, value)),
        "scales": lambda: options.scales.extend(_scale(word) for word in _words(name, value)),
        "bands": lambda: options.bands.extend(_band(word) for word in _words(name, value)),
        "page": lambda: setattr(options, "page", _count(name, value)),
        "region": lambda: options.region.CopyFrom(_region(value)),
        "priority": lambda: setattr(options, "priority", _priority(value)),
    }
    if name not in setters:
        raise OptionError(f"parameters: expected {', '.join(setters)} or timeout, got {name[:40]!r}")
    setters[name]()


def _count(name: str, value: Any, bits: int = 32) -> int:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << bits:
        raise OptionError(f"parameters: {name}: expected an integer from 0 to {(1 << bits) - 1}, got {value!r}")
    return value


def _flag(name: str, value: Any) -> bool:  # noqa: ANN401
    if not isinstance(value, bool):
        raise OptionError(f"parameters: {name}: expected true or false, got {value!r}")
    return value


def _choice(name: str, value: Any, choices: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if value not in choices:
        raise OptionError(f"parameters: {name}: expected {' or '.join(choices)}, got {str(value)[:40]!r}")
    return choices[value]


def _words(name: str, value: Any) -> list[str]:  # noqa: ANN401
    if not isinstance(value, str) or not value:
        raise OptionError(f"parameters: {name}: expected words with commas between, got {value!r}")
    return [word.strip() for word in value.split(",")]


def _scale(word: str) -> scoring_pb2.Scale:
    try:
        if word.endswith("x"):
            return scoring_pb2.Scale(factor=float(word[:-1]))
        return scoring_pb2.Scale(shorter_side=int(word))
    except ValueError:
        raise OptionError(f"parameters: scales: expected pixels, 384, or a factor, 0.5x; got {word[:40]!r}") from None


def _band(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) <= 9):
        raise OptionError(f"parameters: bands: expected numbers from 1, as 1,2,3; got {word[:40]!r}")
    return int(word)


def _region(value: Any) -> scoring_pb2.Region:  # noqa: ANN401
    words = _words("region", value)
    if len(words) != 4 or not all(
        word.isascii() and word.isdecimal() and len(word) <= 10 and int(word) < 1 << 32 for word in words
    ):
        raise OptionError(f"parameters: region: expected x,y,width,height in pixels, got {value[:40]!r}")
    x, y, width, height = map(int, words)
    return scoring_pb2.Region(x=x, y=y, width=width, height=height)


def _priority(value: Any) -> "scoring_pb2.Priority":  # noqa: ANN401
    """Triton's: 0 is the model's own, 1 the highest."""
    number = _count("priority", value)
    return {0: scoring_pb2.PRIORITY_NORMAL, 1: scoring_pb2.PRIORITY_HIGH}.get(number, scoring_pb2.PRIORITY_LOW)


def _classes(output: oip.ModelInferRequest.InferRequestedOutputTensor) -> int:
    if CLASSIFICATION not in output.parameters:
        return 0
    return _count(CLASSIFICATION, _value(output.parameters[CLASSIFICATION]))


def _grid(answer: scoring_pb2.ScoreResponse, first: scoring_pb2.ScoreResponse) -> np.ndarray:
    grid = answer.grid
    if (grid.rows, grid.cols) != (first.grid.rows, first.grid.cols):
        raise ImageError(
            f"inputs: expected images whose grids are of one size to ask for scores, got {first.grid.rows}×"
            f"{first.grid.cols} and {grid.rows}×{grid.cols}: ask for the average, or for each image by itself"
        )
    return np.moveaxis(np.frombuffer(answer.scores, "<f4").reshape(grid.rows, grid.cols, -1), -1, 0)


def _named(answer: scoring_pb2.ScoreResponse, count: int) -> list[bytes]:
    """The highest averages as Triton writes them: "score:class:label"."""
    values = np.array(answer.average.values)
    order = np.argsort(-values, kind="stable")[:count]
    return [
        f"{values[place]:f}:{answer.classes[place].index}:{answer.classes[place].label}".encode() for place in order
    ]


def _add(response: oip.ModelInferResponse, name: str, values: np.ndarray) -> None:
    output = response.outputs.add(name=name, datatype="FP32", shape=values.shape)
    if values.dtype == object:
        output.datatype = "BYTES"
        response.raw_output_contents.append(b"".join(struct.pack("<I", len(word)) + word for word in values.flat))
    else:
        response.raw_output_contents.append(np.ascontiguousarray(values, "<f4").tobytes())
