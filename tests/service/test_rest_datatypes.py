"""The datatypes of pixels over HTTP: numbers in JSON, binary data and messages of gRPC have the same scores."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.conversion import convert_into
from support.networks import UNPADDED, make_network
from support.rest import ask, binary_request, grpc_request, request
from support.servers import Server, infer, running

INFER = "/v2/models/{}/infer"
TYPES: dict[str, Any] = {"UINT8": "<u1", "UINT16": "<u2", "INT16": "<i2", "FP32": "<f4"}
ACCEPTED = {"bytes": ["UINT8", "UINT16"], "words": ["UINT8", "UINT16"], "floats": list(TYPES)}
"""For each model, the datatypes that it takes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server of a network that was converted for each kind of values, with an HTTP port."""
    folder = tmp_path_factory.mktemp("repository")
    for name, dtype in (("bytes", "uint8"), ("words", "uint16"), ("floats", "float32")):
        (folder / name).mkdir()
        preprocess = folder / f"{name}.json"
        preprocess.write_text(json.dumps({"scale": 1 / 255 if name == "bytes" else 1e-4, "dtype": dtype}))
        network = make_network(folder / name, UNPADDED.replace('"unpadded"', f'"{name}"'))
        convert_into(folder / "models", network, preprocess=str(preprocess))
    with running(folder / "models", "--viewer", "127.0.0.1:0") as server:
        yield server


def values(datatype: str) -> np.ndarray:
    """Return an image (1, 90, 110, 3) with values in the whole range that the datatype and reflectance share."""
    random = np.random.default_rng(3)
    low, high = {"UINT8": (0, 255), "UINT16": (0, 10_000), "INT16": (-5000, 10_000), "FP32": (-5000, 10_000)}[datatype]
    numbers = random.uniform(low, high, (1, 90, 110, 3))
    return (numbers if datatype == "FP32" else np.rint(numbers)).astype(TYPES[datatype])


@pytest.mark.parametrize(("model", "datatype"), [(model, each) for model, kinds in ACCEPTED.items() for each in kinds])
def test_accepted_datatypes(server: Server, model: str, datatype: str) -> None:
    """Values in JSON and as binary data give the scores of the same message by gRPC, to the bit."""
    pixels = values(datatype)
    message = grpc_request(datatype, pixels.shape, pixels.tobytes())
    message.model_name = model
    response = infer(server, message)
    expected = {each.name: raw for each, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
    assert len(np.unique(np.frombuffer(expected["scores"], "<f4"))) > 100
    body = request(pixels)
    body["inputs"][0]["datatype"] = datatype
    in_json = ask(server, INFER.format(model), body)
    binary = ask(server, INFER.format(model), *binary_request(datatype, pixels.shape, pixels.tobytes()))
    for reply in (in_json, binary):
        assert reply.status == 200, reply.body
        assert reply.tensors == expected


@pytest.mark.parametrize(
    ("model", "datatype"),
    [(model, each) for model, kinds in ACCEPTED.items() for each in TYPES if each not in kinds],
)
def test_refused_datatypes(server: Server, model: str, datatype: str) -> None:
    """A datatype that the model does not take is refused alike in JSON and as binary data, with the way out."""
    pixels = values(datatype)
    body = request(pixels)
    body["inputs"][0]["datatype"] = datatype
    in_json = ask(server, INFER.format(model), body)
    binary = ask(server, INFER.format(model), *binary_request(datatype, pixels.shape, pixels.tobytes()))
    assert (in_json.status, in_json.document) == (binary.status, binary.document)
    assert (binary.status, binary.document["reason"]) == (400, "IMAGE_INVALID")
