"""Messages of the protocol as JSON, and the tensors of an answer as JSON or as binary data."""

import json
from http import HTTPStatus
from typing import Any

import numpy as np
from google.protobuf.message import Message

from fullconv.protos import open_inference_pb2 as oip
from service.errors import OptionError
from service.rest.answers import BINARY, JSON, Answer
from service.rest.requests import BINARY_SIZE, binary_outputs
from service.rpc.parameters import value_of
from service.rpc.tensors import elements

HEADER_LENGTH = "inference-header-content-length"
NUMBERS_AT_ONCE = 4096
"""Numbers that become text while no other thread can run."""


def json_answer(value: object, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return an answer with a JSON document."""
    return Answer([json.dumps(value).encode()], {"content-type": JSON}, status)


def document(message: Message) -> dict[str, Any]:
    """Return all fields of a message as JSON: integers as numbers, as the clients of Triton expect, enums by name."""
    return {field.name: _value(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _value(field: Any, value: Any) -> Any:  # noqa: ANN401 (of the type that the field's descriptor states)
    if field.is_repeated:
        return [_single(field, each) for each in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:  # noqa: ANN401
    if field.message_type is not None:
        return document(value)
    return value if field.enum_type is None else field.enum_type.values_by_number[value].name


def infer_answer(request: oip.ModelInferRequest, response: oip.ModelInferResponse) -> Answer:
    """Return the answer to an inference, with each output in the form that the request asks for."""
    is_binary = binary_outputs(request)
    outputs, binary = [], []
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        fields: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if is_binary.get(output.name, is_binary[""]):
            outputs.append(json.dumps(fields | {"parameters": {BINARY_SIZE: len(raw)}}))
            binary.append(raw)
        else:
            outputs.append(f'{json.dumps(fields)[:-1]}, "data": [{_data(output, raw)}]}}')
    fields = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        fields["id"] = response.id
    if response.parameters:
        fields["parameters"] = {name: value_of(each) for name, each in response.parameters.items()}
    text = f'{json.dumps(fields)[:-1]}, "outputs": [{", ".join(outputs)}]}}'.encode()
    if not binary:
        return Answer([text], {"content-type": JSON})
    return Answer([text, *binary], {"content-type": BINARY, HEADER_LENGTH: str(len(text))})


def _data(output: oip.ModelInferResponse.InferOutputTensor, raw: bytes) -> str:
    """Return the values of an output, separated by commas. Numbers have enough digits for the same float32."""
    if output.datatype == "BYTES":
        return json.dumps([word.decode() for word in elements(output.name, raw)])[1:-1]
    values = np.frombuffer(raw, "<f4")
    if not np.isfinite(values).all():
        raise OptionError(f"outputs: {output.name}: expected finite numbers, as JSON requires; request binary_data")
    parts = (values[start : start + NUMBERS_AT_ONCE] for start in range(0, len(values), NUMBERS_AT_ONCE))
    return ",".join(json.dumps(part.tolist(), separators=(",", ":"))[1:-1] for part in parts)
