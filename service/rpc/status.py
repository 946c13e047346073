"""Which gRPC status each error becomes.

RESOURCE_EXHAUSTED carries RetryInfo, never UNAVAILABLE: proxies eject backends for that, and clients retry blindly.
"""

from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY

from service import errors

STATUSES: dict[type[errors.ServiceError], grpc.StatusCode] = {
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.ModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnreadableModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CapabilityError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OptionError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ImageError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.LimitError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    errors.LateError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.IdleError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AccessError: grpc.StatusCode.UNAUTHENTICATED,
    errors.DrainingError: grpc.StatusCode.UNAVAILABLE,
    errors.CancelledRunError: grpc.StatusCode.CANCELLED,
    errors.BugError: grpc.StatusCode.INTERNAL,
}
MESSAGE_LETTERS = 1000  # gRPC refuses trailers of more than 8 KiB


def printable(message: str) -> str:
    """One line of bounded length: what a request holds may be quoted in it."""
    text = "".join(letter if letter.isprintable() else "?" for letter in message)
    return text if len(text) <= MESSAGE_LETTERS else f"{text[:MESSAGE_LETTERS]}…"


def status_of(error: errors.ServiceError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Status code, message, and trailing metadata."""
    code, message = STATUSES[type(error)], printable(str(error))
    if not isinstance(error, errors.BusyError):
        return code, message, ()
    delay, detail = Duration(), Any()
    delay.FromTimedelta(timedelta(seconds=error.seconds))
    detail.Pack(RetryInfo(retry_delay=delay))
    status = Status(code=code.value[0], message=message, details=[detail])
    return code, message, ((GRPC_DETAILS_METADATA_KEY, status.SerializeToString()),)
