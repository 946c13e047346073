"""Traces that a collector receives."""

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
from support.paths import ROOT
from support.pictures import noise
from support.servers import SCORE, running

from fullconv import Client
from fullconv.encode import image_message
from fullconv.images import source_of
from fullconv.protos import scoring_pb2
from service.server.shutdown import GRACE_SECONDS

pytestmark = pytest.mark.extras

EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, Queue[Any]]]:
    """Run a collector of traces; yields its address, and the queue of received traces."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service  # noqa: PLC0415 (an extra)

    came: Queue[Any] = Queue()

    def export(request: object, _: object) -> object:
        came.put(request)
        return service.ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=service.ExportTraceServiceRequest.FromString,
        response_serializer=service.ExportTraceServiceResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(EXPORT, {"Export": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", came
    server.stop(None)


def test_requests_are_traced(collector: tuple[str, Queue[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is a span with its model and status, and a child of its caller's span."""
    address, came = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    request = scoring_pb2.ScoreRequest(model="digits", image=image_message(source_of(noise(80, 80, 1))))
    with running(Path(ROOT / "models"), "--traces") as server, grpc.insecure_channel(server.address) as channel:
        score = channel.unary_unary(SCORE)
        score(request.SerializeToString(), metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")], timeout=30)
        with pytest.raises(grpc.RpcError):
            score(b"\xff", timeout=30)
    spans = []
    while not came.empty():
        spans += [
            span for resource in came.get().resource_spans for scope in resource.scope_spans for span in scope.spans
        ]
    good, bad = spans
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {entry.key: entry.value for entry in good.attributes}
    assert attributes["fullconv.model"].string_value == "digits"
    assert attributes["fullconv.width"].int_value == 80
    assert good.name == "fullconv/Score"
    assert {entry.key: entry.value.string_value for entry in bad.attributes}["rpc.grpc.status"] == "INVALID_ARGUMENT"
    assert bad.status.code == 2


def test_a_silent_collector_can_be_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shutdown waits until spans are sent; a second signal ends the server without waiting."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://{}:{}".format(*silent.getsockname()))
        with running(Path(ROOT / "models"), "--traces", status=1) as server:
            with Client(server.address) as client:
                client.score(noise(80, 80, 1), model="digits")
            server.process.send_signal(signal.SIGTERM)
            host, _, port = server.address.rpartition(":")
            with suppress(ConnectionRefusedError):
                while True:
                    socket.create_connection((host, int(port))).close()
                    time.sleep(0.01)
            time.sleep(GRACE_SECONDS)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(5) == 1
    assert not server.events("stopped")
