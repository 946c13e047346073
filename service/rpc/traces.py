"""OpenTelemetry traces, an optional extra: one span for each request, a child of the caller's span if it sends one.

OpenTelemetry's own environment variables configure it: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME and others.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class Traced:
    """Sends a span for each request to an OpenTelemetry collector."""

    def __init__(self) -> None:
        """Connect to the collector; raises ImportError if the extra 'traces' is not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 (extra)
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            raise ImportError(
                f"{error}; --traces needs pip install opentelemetry-exporter-otlp-proto-grpc opentelemetry-sdk"
            ) from None

        name = os.environ.get("OTEL_SERVICE_NAME", "fullconv")
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer: Tracer = self._provider.get_tracer("fullconv")

    @contextmanager
    def span(self, record: dict[str, Any], metadata: dict[str, str]) -> Iterator[None]:
        """Record a span for the duration of the block, with the fields of the request's log line as attributes."""
        from opentelemetry.propagate import extract  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415

        with self._tracer.start_as_current_span(
            f"fullconv/{record['method']}", context=extract(metadata), kind=SpanKind.SERVER, record_exception=False
        ) as span:
            try:
                yield
            finally:
                span.set_attributes({f"fullconv.{name}": value for name, value in record.items()})
                span.set_attribute("rpc.grpc.status", record["code"])
                span.set_status(StatusCode.OK if record["code"] == "OK" else StatusCode.ERROR)

    def close(self) -> None:
        """Send the remaining spans, and disconnect."""
        self._provider.shutdown()
