"""The Open Inference Protocol over HTTP: its paths, tensors, statuses, access rules and shutdown."""

import gzip
import hashlib
import json
import signal
import socket
import ssl
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from support.paths import ROOT
from support.pictures import noise, png
from support.rest import (
    INFER,
    Reply,
    ask,
    base64_request,
    binary_request,
    grpc_request,
    request,
)
from support.servers import COMMAND, Server, infer, occupied, running, wait_until

from fullconv.protos import open_inference_pb2 as oip

MODELS = ROOT / "models"
PIXELS = noise(90, 110, 1)
FILE = png(PIXELS)
RAW_FILE = struct.pack("<I", len(FILE)) + FILE
SECRET = "a token"  # noqa: S105 (of a test)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model with an HTTP port."""
    with running(MODELS, "--viewer", "127.0.0.1:0") as server:
        yield server


def call(server: Server, method: str, message: Message, kind: type[Message]) -> dict[str, Any]:
    """Call a method by gRPC; returns the answer as JSON in which 64-bit integers are strings."""
    with grpc.insecure_channel(server.address) as channel:
        data = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(message.SerializeToString())
    fields: dict[str, Any] = MessageToDict(
        kind.FromString(data), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return fields


def in_strings(value: Any) -> Any:  # noqa: ANN401 (JSON)
    """Return JSON in which integers are strings, as protobuf writes 64-bit integers."""
    if isinstance(value, dict):
        return {name: in_strings(each) for name, each in value.items()}
    if isinstance(value, list):
        return [in_strings(each) for each in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_metadata_are_those_of_grpc(server: Server) -> None:
    """Metadata, configuration, statistics and index have the fields of gRPC, with numbers for integers."""
    infer(server, grpc_request("UINT8", PIXELS.shape, PIXELS.tobytes()))
    name = {"name": "digits"}
    for path in ("/v2/models/digits", "/v2/models/digits/versions/1"):
        expected = call(server, "ModelMetadata", oip.ModelMetadataRequest(**name), oip.ModelMetadataResponse)
        assert in_strings(ask(server, path).document) == expected
        assert ask(server, path).document["inputs"][0]["shape"] == [-1, -1, -1, 1]
        config = call(server, "ModelConfig", oip.ModelConfigRequest(**name), oip.ModelConfigResponse)["config"]
        assert in_strings(ask(server, f"{path}/config").document) == config | {"max_batch_size": "0"}
        expected = call(server, "ModelStatistics", oip.ModelStatisticsRequest(**name), oip.ModelStatisticsResponse)
        statistics = ask(server, f"{path}/stats").document
        assert statistics["model_stats"][0]["inference_count"] > 0
        assert statistics["model_stats"][0]["inference_stats"]["fail"] == {"count": 0, "ns": 0}
        assert in_strings(statistics)["model_stats"][0].keys() == expected["model_stats"][0].keys()
        assert statistics == ask(server, "/v2/models/stats").document
    index = [{"name": "digits", "version": "1", "state": "READY", "reason": ""}]
    assert ask(server, "/v2/repository/index", b"").document == index
    assert ask(server, "/v2/repository/index", {"ready": True}).document == index
    assert "binary_tensor_data" in ask(server, "/v2").document["extensions"]


def test_readiness(server: Server) -> None:
    """Server, model and version are live and ready; the status of an unknown model or version is 400."""
    assert ask(server, "/v2/health/live").document == {"live": True}
    for path in ("/v2/health", "/v2/models/digits", "/v2/models/digits/versions/1"):
        ready = ask(server, f"{path}/ready")
        assert (ready.status, ready.document) == (200, {"ready": True})
    for path in ("/v2/models/cats", "/v2/models/digits/versions/2"):
        assert ask(server, f"{path}/ready").status == 400


def gzipped(server: Server, **fields: Any) -> Reply:
    """Send JSON that is compressed with gzip."""
    body = gzip.compress(json.dumps(request(PIXELS, **fields)).encode())
    return ask(server, INFER, body, {"Content-Encoding": "gzip"})


def deflated(server: Server, **fields: Any) -> Reply:
    """Send binary data that are compressed with zlib."""
    body, headers = binary_request("UINT8", PIXELS.shape, PIXELS.tobytes(), **fields)
    return ask(server, INFER, zlib.compress(body), headers | {"Content-Encoding": "deflate"})


def nested(server: Server, **fields: Any) -> Reply:
    """Send JSON with nested lists of numbers, to a version of the model."""
    body = request(PIXELS, **fields)
    body["inputs"][0]["data"] = PIXELS.tolist()
    return ask(server, "/v2/models/digits/versions/1/infer", body, {"Content-Type": "application/json; charset=utf-8"})


def chunked(server: Server, **fields: Any) -> Reply:
    """Send the request in chunks, without its length."""
    body, headers = binary_request("UINT8", PIXELS.shape, PIXELS.tobytes(), **fields)
    return ask(server, INFER, iter([body[:5], body[5:]]), headers)


FORMS: dict[str, Callable[..., Reply]] = {
    "numbers": lambda server, **fields: ask(server, INFER, request(PIXELS, **fields)),
    "nested": nested,
    "base64": lambda server, **fields: ask(server, INFER, base64_request(FILE, **fields)),
    "binary": lambda server, **fields: ask(
        server, INFER, *binary_request("UINT8", PIXELS.shape, PIXELS.tobytes(), **fields)
    ),
    "binary file": lambda server, **fields: ask(server, INFER, *binary_request("BYTES", (1,), RAW_FILE, **fields)),
    "gzip": gzipped,
    "deflate": deflated,
    "chunked": chunked,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_scores_are_those_of_grpc(server: Server, form: str) -> None:
    """Each form of a request has the same scores and averages as by gRPC, to the bit, as JSON and as binary data."""
    response = infer(server, grpc_request("UINT8", PIXELS.shape, PIXELS.tobytes()))
    expected = {each.name: raw for each, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
    in_json = FORMS[form](server)
    assert (in_json.status, in_json.headers["content-type"]) == (200, "application/json")
    assert in_json.tensors == expected
    assert [output["shape"] for output in in_json.document["outputs"]] == [list(o.shape) for o in response.outputs]
    binary = FORMS[form](server, parameters={"binary_data_output": True})
    assert (binary.status, binary.headers["content-type"]) == (200, "application/octet-stream")
    assert binary.tensors == expected


def test_outputs_ids_and_parameters(server: Server) -> None:
    """Outputs are chosen by name and form, options are parameters, an id is returned, best classes are strings."""
    outputs = [
        {"name": "average", "parameters": {"classification": 2}},
        {"name": "scores", "parameters": {"binary_data": True}},
    ]
    reply = ask(server, INFER, request(PIXELS, id="seven", outputs=outputs, parameters={"stride": 16, "flip": True}))
    fields = reply.document
    assert (fields["model_name"], fields["model_version"], fields["id"]) == ("digits", "1", "seven")
    average, scores = fields["outputs"]
    assert (average["datatype"], average["shape"]) == ("BYTES", [1, 2])
    assert [word.count(":") for word in average["data"]] == [2, 2]
    assert scores["shape"] == [1, 11, 2, 3]
    assert scores["parameters"]["binary_data_size"] == 4 * 11 * 6


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.8.8.8:80", "[::1]:9"])
def test_names_of_this_machine(server: Server, host: str) -> None:
    """A port with a loopback address accepts each name of this machine, and pages that it serves itself."""
    assert ask(server, "/v2", None, {"Host": host, "Origin": f"http://{host}"}).status == 200


def test_other_names_on_other_addresses() -> None:
    """A port that other machines reach accepts any name, and still no pages of other sites."""
    with running(MODELS, "--viewer", "0.0.0.0:0", "--insecure") as server:
        assert ask(server, "/v2", None, {"Host": "scores.example.org"}).status == 200
        assert ask(server, "/v2", None, {"Origin": "http://example.org"}).status == 403


def test_large_bodies_are_refused_while_they_arrive() -> None:
    """A body above the limit is refused by its announced length, by what has arrived, and by its decompressed size."""
    headers = {"Content-Type": "application/json"}
    with running(MODELS, "--viewer", "127.0.0.1:0", "--max-message-mib", "1") as server:
        host, _, port = server.log[0]["viewer"].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as announced:
            head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2 << 20}\r\n\r\n"
            announced.sendall(head.encode())
            assert announced.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
        endless = iter([b" " * (1 << 16)] * 20)
        assert ask(server, INFER, endless, headers).status == 413
        bomb = gzip.compress(b" " * (64 << 20))
        assert len(bomb) < 1 << 20
        refused = ask(server, INFER, bomb, headers | {"Content-Encoding": "gzip"})
        assert refused.status == 413
        assert "expected at most 1048576 bytes, also after decompression" in refused.document["error"]
        assert ask(server, INFER, request(PIXELS), headers).status == 200


def test_large_answers_are_refused_as_json(server: Server) -> None:
    """Scores above 4 MiB are refused as JSON before anything is computed, and sent as binary data."""
    large = noise(800, 800, 1)
    body, headers = binary_request("UINT8", large.shape, large.tobytes(), parameters={"stride": 2})
    refused = ask(server, INFER, body, headers)
    assert refused.status == 413
    assert "expected at most 4 MiB" in refused.document["error"]
    assert "request binary_data" in refused.document["error"]
    average, headers = binary_request("UINT8", large.shape, large.tobytes(), outputs=[{"name": "average"}])
    assert ask(server, INFER, average, headers).status == 200


@pytest.mark.slow
def test_busy_servers_say_when_to_retry() -> None:
    """A request to a busy server gets 429 with Retry-After, as RetryInfo states it by gRPC."""
    large = png(noise(3000, 3000, 1))
    with running(MODELS, "--viewer", "127.0.0.1:0", "--max-waiting", "1") as server:
        with occupied(server.address, large):
            reply = ask(server, INFER, base64_request(FILE))
        assert reply.status == 429
        assert reply.document["reason"] == "BUSY"
        assert int(reply.headers["retry-after"]) >= 1


def test_timeouts(server: Server) -> None:
    """A request that is not answered within its timeout, in microseconds, gets 504."""
    reply = ask(server, INFER, request(PIXELS, parameters={"timeout": 1}))
    assert (reply.status, reply.document["reason"]) == (504, "DEADLINE_EXCEEDED")


def test_a_client_that_leaves_cancels_its_request() -> None:
    """If the client closes the connection, the work for its request ends long before the answer would be ready."""
    large = noise(3000, 3000, 1)
    with running(MODELS, "--viewer", "127.0.0.1:0") as server:
        fields = {"outputs": [{"name": "average"}], "parameters": {"mode": "crops", "stride": 8}}
        body, headers = binary_request("UINT8", large.shape, large.tobytes(), **fields)
        host, _, port = server.log[0]["viewer"].rpartition(":")
        with socket.create_connection((host, int(port))) as leaving:
            lines = [f"POST {INFER} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            leaving.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            wait_until(lambda: b"fullconv_queue_requests 1.0" in metrics(server))
        wait_until(lambda: server.events("request"), 10)
        assert server.events("request")[0]["code"] == "CANCELLED"
        assert b"fullconv_queue_requests 0.0" in metrics(server)


def metrics(server: Server) -> bytes:
    """Return the metrics of a server."""
    host, _, port = server.log[0]["metrics"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_requests_are_logged_and_counted(server: Server) -> None:
    """A request over HTTP has the line of the log, and the metrics, of the same request by gRPC."""
    before = len(server.events("request"))
    infer(server, grpc_request("UINT8", PIXELS.shape, PIXELS.tobytes()))
    ask(server, INFER, *binary_request("UINT8", PIXELS.shape, PIXELS.tobytes()))
    wait_until(lambda: len(server.events("request")) == before + 2)
    by_grpc, by_http = server.events("request")[before:]
    assert by_grpc.keys() == by_http.keys()
    for name in ("method", "client", "code", "model", "version", "width", "height"):
        assert by_grpc[name] == by_http[name]


def test_shutdown() -> None:
    """After SIGTERM an admitted request is answered; meanwhile readiness is 503, as is every other answer."""
    large = noise(2000, 2000, 1)
    with running(MODELS, "--viewer", "127.0.0.1:0") as server:
        host, _, port = server.log[0]["viewer"].rpartition(":")
        body, headers = binary_request("UINT8", large.shape, large.tobytes(), outputs=[{"name": "average"}])
        lines = [f"POST {INFER} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with socket.create_connection((host, int(port)), timeout=60) as admitted:
            admitted.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            wait_until(lambda: b"fullconv_queue_requests 1.0" in metrics(server))
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.events("draining"))
            ready = ask(server, "/v2/health/ready")
            assert (ready.status, ready.document["reason"]) == (503, "DRAINING")
            assert admitted.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(60) == 0


def test_tokens(tmp_path: Path) -> None:
    """With tokens, every path needs the header Authorization, before the body is received; the log has the name."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"anna {hashlib.sha256(SECRET.encode()).hexdigest()}\n")
    with running(MODELS, "--viewer", "127.0.0.1:0", "--tokens", str(tokens)) as server:
        for path, header in (("/v2", ""), ("/v2/health/live", "Bearer wrong"), (INFER, f"Basic {SECRET}")):
            reply = ask(server, path, b"{}" if path == INFER else None, {"Authorization": header} if header else {})
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        allowed = {"Authorization": f"Bearer {SECRET}"}
        assert ask(server, INFER, request(PIXELS), allowed).status == 200
        wait_until(lambda: len(server.events("request")) == 4)
        assert server.events("request")[-1]["client"] == "anna"


@pytest.mark.slow
def test_tls(tmp_path: Path) -> None:
    """With TLS, the port has gRPC's certificate, also a renewed one, and requires client certificates if gRPC does."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, certificate in (
        ("server", authority.issue_cert("127.0.0.1")),
        ("client", authority.issue_cert("someone@example.org", common_name="someone")),
    ):
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}-key.pem")
    files = {"tls-cert": "server", "tls-key": "server-key", "tls-client-ca": "ca"}
    options = [word for flag, name in files.items() for word in (f"--{flag}", str(tmp_path / f"{name}.pem"))]
    stranger = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    known = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    known.load_cert_chain(tmp_path / "client.pem", tmp_path / "client-key.pem")
    with running(MODELS, "--viewer", "127.0.0.1:0", *options) as server:
        assert ask(server, INFER, request(PIXELS), tls=known).status == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(server, "/v2", tls=stranger)
        wait_until(lambda: server.events("request"))
        assert server.events("request")[0]["client"] == "someone"
        renewed = authority.issue_cert("127.0.0.1")
        (tmp_path / "new.pem").write_bytes(renewed.private_key_pem.bytes())
        renewed.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
        (tmp_path / "new.pem").replace(tmp_path / "server-key.pem")
        wait_until(lambda: [line for line in server.events("certificates") if "error" not in line])
        host, _, port = server.log[0]["viewer"].rpartition(":")
        with (
            socket.create_connection((host, int(port))) as plain,
            known.wrap_socket(plain, server_hostname=host) as tls,
        ):
            assert tls.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert((tmp_path / "server.pem").read_text())


def test_the_extra_is_loaded_only_for_the_port() -> None:
    """Without the extra the port is refused with what to install, status 3; without the port it is not imported."""
    script = "import sys; sys.modules['{}'] = None; from service.cli import main; main()"
    command = [sys.executable, "-c", script.format("uvicorn"), *COMMAND[3:], "--models", str(MODELS)]
    options = ["--listen", "127.0.0.1:0", "--viewer", "127.0.0.1:0"]
    ended = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 3
    assert ended.stderr.startswith("fullconv-serve: viewer: expected the extra 'viewer', got ")
    assert ended.stderr.endswith("; pip install starlette uvicorn\n")
    check = (
        "import sys, service.server.server; sys.exit(bool({'starlette', 'uvicorn', 'h11', 'anyio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=60).returncode == 0


def test_a_port_in_use_is_an_error(server: Server) -> None:
    """An address that is in use ends the program with one line that names the setting, status 1."""
    options = ["--models", str(MODELS), "--listen", "127.0.0.1:0", "--viewer", server.log[0]["viewer"]]
    ended = subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("fullconv-serve: viewer: cannot listen on 127.0.0.1:")
