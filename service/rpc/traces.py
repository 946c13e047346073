"""OpenTelemetry traces, an extra: a span for every request, the child of its caller's.

Where they go, the standard variables say, as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_SERVICE_NAME.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class Traced:
    """Sends spans to a collector."""

    def __init__(self) -> None:
        """Begin; raises ImportError without the extra."""
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
        """A span as long as the block, with the line of the log as its attributes."""
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
        """Send what is left."""
        self._provider.shutdown()
