"""The request of an inference over HTTP, as the message of gRPC.

    body = JSON [+ binary tensors, in the order of the inputs; each as long as its binary_data_size states]

All tensors of the message are raw. In JSON, `data` are numbers, flat or nested; images of the datatype BYTES are
base64, because JSON cannot hold the bytes of a file.
"""

import base64
import binascii
import json
import struct
from array import array
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from fullconv.protos import open_inference_pb2 as oip
from service.errors import ImageError, LimitError, OptionError
from service.rpc.parameters import value_of

BINARY_DATA, BINARY_SIZE, BINARY_OUTPUT = "binary_data", "binary_data_size", "binary_data_output"
CODES = {"UINT8": "B", "UINT16": "H", "INT16": "h", "FP32": "f"}
"""Type codes of Python's arrays."""
MOST_NUMBERS, MOST_BYTES = 1 << 18, 16 << 20
"""Largest number of numbers in JSON, and largest size of JSON: no other thread can run while Python reads it."""
MOST_OTHERS = 4096
"""Largest number of commas and brackets in JSON beside those of numbers."""
MOST_OUTPUTS = 256
KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}


def infer_request(name: str, version: str, body: bytes, header_bytes: int | None) -> oip.ModelInferRequest:
    """Return the message for a body whose first `header_bytes` bytes are JSON; None: the whole body is.

    Raises OptionError, ImageError or LimitError for other bodies.
    """
    if header_bytes is not None and header_bytes > len(body):
        raise OptionError(f"inference-header-content-length: expected at most {len(body)}, got {header_bytes}")
    document = parsed(body[:header_bytes])
    binary = memoryview(body)[len(body) if header_bytes is None else header_bytes :]
    try:
        return _message(name, version, document, binary)
    except (TypeError, ValueError) as error:  # protobuf raises them for numbers and letters that a field cannot hold
        raise OptionError(f"request: expected values of the Open Inference Protocol, got {error}") from None


def parsed(text: bytes) -> dict[str, Any]:
    """Return the object that JSON text holds; see `read_json`."""
    document = read_json(text, "the JSON of the Open Inference Protocol")
    if not isinstance(document, dict):
        raise OptionError(f"JSON: expected an object, got {_kind(document)}")
    return document


def read_json(text: bytes, what: str) -> Any:  # noqa: ANN401 (any document)
    """Return the document that JSON text holds.

    Raises OptionError, which names `what` was expected, and LimitError for text that takes long to read.
    """
    if len(text) > MOST_BYTES:
        raise LimitError(f"JSON: expected at most {MOST_BYTES} bytes, got {len(text)}; send binary data")
    values = text.count(b",") + text.count(b"[") + text.count(b"{")
    if values > 2 * MOST_NUMBERS + MOST_OTHERS:  # each number may have its own brackets, if the image has one channel
        raise LimitError(
            f"JSON: expected at most {MOST_NUMBERS} numbers and {MOST_OTHERS} other values, got more; send binary data"
        )
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise OptionError("JSON: expected lists as deep as the shape, got deeper ones") from None
    except ValueError as error:
        raise OptionError(f"JSON: expected {what}, got {error}") from None


def binary_outputs(request: oip.ModelInferRequest) -> dict[str, bool]:
    """Return for each requested output whether it is wanted as binary data, and for other outputs under "".

    Raises OptionError for other values than booleans.
    """
    default = _flag(request.parameters, BINARY_OUTPUT, default=False)
    return {"": default} | {each.name: _flag(each.parameters, BINARY_DATA, default=default) for each in request.outputs}


def _message(name: str, version: str, document: dict[str, Any], binary: memoryview) -> oip.ModelInferRequest:
    message = oip.ModelInferRequest(model_name=name, model_version=version, id=_get(document, "id", str, "request"))
    _set_parameters(message.parameters, document, "request")
    outputs = _get(document, "outputs", list, "request")
    if len(outputs) > MOST_OUTPUTS:
        raise OptionError(f"outputs: expected at most {MOST_OUTPUTS}, got {len(outputs)}; name each output once")
    for output in outputs:
        requested = message.outputs.add(name=_get(output, "name", str, "outputs"))
        _set_parameters(requested.parameters, output, "outputs")
    for tensor in _get(document, "inputs", list, "request"):
        tensor_name = _get(tensor, "name", str, "inputs")
        where = f"inputs: {tensor_name[:40]}"
        shape = _get(tensor, "shape", list, where)
        added = message.inputs.add(name=tensor_name, datatype=_get(tensor, "datatype", str, where), shape=shape)
        _set_parameters(added.parameters, tensor, where)
        if BINARY_SIZE in added.parameters:
            size = value_of(added.parameters[BINARY_SIZE])
            raw, binary = _taken(where, size, binary, has_data="data" in tensor)
        else:
            raw = _raw(where, added.datatype, _get(tensor, "data", list, where))
        message.raw_input_contents.append(raw)
    if binary:
        raise OptionError(f"body: expected the binary data that binary_data_size states, got {len(binary)} bytes more")
    return message


def _taken(where: str, size: object, binary: memoryview, *, has_data: bool) -> tuple[bytes, memoryview]:
    """Return the binary data of a tensor, and the data after it."""
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary):
        raise OptionError(
            f"{where}: binary_data_size: expected at most the {len(binary)} bytes that follow, got {size}"
        )
    if has_data:
        raise OptionError(f"{where}: expected data or binary_data_size, got both")
    return bytes(binary[:size]), binary[size:]


def _raw(where: str, datatype: str, data: list[Any]) -> bytes:
    """Return the values of a JSON tensor in the form of raw_input_contents."""
    values = _flat(where, data)
    if datatype == "BYTES":
        files = [_file(where, value) for value in values]
        return b"".join(struct.pack("<I", len(file)) + file for file in files)
    if datatype not in CODES:
        return b""  # the model refuses the datatype
    allowed = {int, float} if datatype == "FP32" else {int}
    kinds = set(map(type, values))
    if not kinds <= allowed:
        wrong = next(value for value in values if type(value) not in allowed)
        raise ImageError(f"{where}: expected numbers of {datatype}, got {_kind(wrong)}")
    if len(values) > MOST_NUMBERS:
        raise LimitError(
            f"{where}: expected at most {MOST_NUMBERS} numbers, got {len(values)}; send them as binary data"
        )
    try:
        numbers = np.asarray(array(CODES[datatype], values))
    except OverflowError:
        raise ImageError(f"{where}: expected values of {datatype}, got one outside of its range") from None
    if not np.isfinite(numbers).all():
        raise ImageError(f"{where}: expected values of {datatype}, got one outside of its range")
    return numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()


def _flat(where: str, data: list[Any]) -> list[Any]:
    """Return the values of nested lists, the last index fastest."""
    while data and isinstance(data[0], list):
        if set(map(type, data)) != {list}:
            raise ImageError(f"{where}: expected lists of the same depth, got values beside lists")
        data = list(chain.from_iterable(data))
    return data


def _file(where: str, value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(
            f"{where}: expected base64 strings, as BYTES in JSON require, got "
            f"{'another string' if isinstance(value, str) else _kind(value)}; encode the file in base64, or send it as "
            "binary data"
        ) from None


def _set_parameters(parameters: Any, fields: dict[str, Any], where: str) -> None:  # noqa: ANN401 (a map of protobuf)
    for name, value in _get(fields, "parameters", dict, where).items():
        match value:
            case bool():
                parameters[name].bool_param = value
            case int():
                setattr(parameters[name], "int64_param" if value < 1 << 63 else "uint64_param", value)
            case float():
                parameters[name].double_param = value
            case str():
                parameters[name].string_param = value
            case _:
                raise OptionError(f"{where}: parameters: {name[:40]}: expected a boolean, a number or a string")


def _flag(parameters: Any, name: str, *, default: bool) -> bool:  # noqa: ANN401 (a map of protobuf)
    if name not in parameters:
        return default
    value = value_of(parameters[name])
    if not isinstance(value, bool):
        raise OptionError(f"parameters: {name}: expected true or false, got {str(value)[:40]!r}")
    return value


def _get(fields: object, name: str, kind: type[Any], where: str) -> Any:  # noqa: ANN401 (a value of that kind)
    """Return a field of a JSON object, or the empty value of its kind if it is missing or null."""
    if not isinstance(fields, dict):
        raise OptionError(f"{where}: expected an object, got {_kind(fields)}")
    value = fields.get(name)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise OptionError(f"{where}: {name}: expected {KINDS[kind]}, got {_kind(value)}")
    return value


def _kind(value: object) -> str:
    """Return the kind of a JSON value in words."""
    number = "a boolean" if isinstance(value, bool) else "null" if value is None else "a number"
    return KINDS.get(type(value), number)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which is not JSON")
