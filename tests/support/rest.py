"""Requests over HTTP to the viewer port of a server, without the libraries of other servers."""

import base64
import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import Any

import numpy as np
from support.servers import Server

from fullconv.protos import open_inference_pb2 as oip

Body = bytes | str | dict[str, Any] | Iterator[bytes] | None
INFER = "/v2/models/digits/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:  # noqa: ANN401 (JSON)
        """Return the JSON of the answer, without binary data after it."""
        return json.loads(self.body[: int(self.headers.get(HEADER_LENGTH.lower(), len(self.body)))])

    @property
    def tensors(self) -> dict[str, bytes]:
        """Return the raw contents of the outputs, as they are in an answer of gRPC."""
        found, at = {}, int(self.headers.get(HEADER_LENGTH.lower(), len(self.body)))
        for output in self.document["outputs"]:
            if "data" in output:
                found[output["name"]] = np.array(output["data"], "<f4").tobytes()
            else:
                size = output["parameters"]["binary_data_size"]
                found[output["name"]], at = self.body[at : at + size], at + size
        assert at == len(self.body)
        return found


def ask(
    server: Server,
    path: str,
    body: Body = None,
    headers: dict[str, str] | None = None,
    *,
    method: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Reply:
    """Send one request over a new connection: POST if it has a body, which is bytes, parts of bytes, or JSON."""
    address = server.log[0]["viewer"]
    connection = HTTPConnection(address, timeout=60) if tls is None else HTTPSConnection(address, context=tls)
    content = json.dumps(body) if isinstance(body, dict) else body
    with closing(connection):
        connection.request(method or ("GET" if body is None else "POST"), path, content, headers or {})
        response = connection.getresponse()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def request(pixels: np.ndarray, **fields: Any) -> dict[str, Any]:
    """Return the JSON of a request with flat numbers."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    return {"inputs": [tensor], **fields}


def base64_request(file: bytes, **fields: Any) -> dict[str, Any]:
    """Return the JSON of a request with an encoded image."""
    data = [base64.b64encode(file).decode()]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}], **fields}


def binary_request(datatype: str, shape: tuple[int, ...], raw: bytes, **fields: Any) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request with binary data."""
    parameters = {"binary_data_size": len(raw)}
    tensor = {"name": "image", "datatype": datatype, "shape": list(shape), "parameters": parameters}
    text = json.dumps({"inputs": [tensor], **fields}).encode()
    return text + raw, {HEADER_LENGTH: str(len(text)), "Content-Type": "application/octet-stream"}


def grpc_request(datatype: str, shape: tuple[int, ...], raw: bytes) -> oip.ModelInferRequest:
    """Return the message of gRPC with the same tensor."""
    message = oip.ModelInferRequest(model_name="digits", raw_input_contents=[raw])
    message.inputs.add(name="image", datatype=datatype, shape=shape)
    return message
