"""Which gRPC status each error becomes, and with which reason.

Every status carries ErrorInfo with the reason, since one status stands for several kinds of error. RESOURCE_EXHAUSTED
carries RetryInfo too, never UNAVAILABLE: proxies eject backends for that, and clients retry blindly.
"""

from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY

from fullconv.common.reasons import DOMAIN, Reason
from service import errors

Code = grpc.StatusCode
STATUSES: dict[type[errors.ServiceError], tuple[grpc.StatusCode, Reason]] = {
    errors.NotFoundError: (Code.NOT_FOUND, Reason.NOT_FOUND),
    errors.ModelError: (Code.FAILED_PRECONDITION, Reason.MODEL_INVALID),
    errors.UnreadableModelError: (Code.FAILED_PRECONDITION, Reason.MODEL_UNREADABLE),
    errors.CapabilityError: (Code.FAILED_PRECONDITION, Reason.CAPABILITY_MISSING),
    errors.OptionError: (Code.INVALID_ARGUMENT, Reason.OPTION_INVALID),
    errors.ImageError: (Code.INVALID_ARGUMENT, Reason.IMAGE_INVALID),
    errors.LimitError: (Code.INVALID_ARGUMENT, Reason.LIMIT_EXCEEDED),
    errors.UnsupportedError: (Code.UNIMPLEMENTED, Reason.UNSUPPORTED),
    errors.LateError: (Code.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED),
    errors.IdleError: (Code.DEADLINE_EXCEEDED, Reason.CLIENT_IDLE),
    errors.BusyError: (Code.RESOURCE_EXHAUSTED, Reason.BUSY),
    errors.AccessError: (Code.UNAUTHENTICATED, Reason.ACCESS_DENIED),
    errors.DrainingError: (Code.UNAVAILABLE, Reason.DRAINING),
    errors.CancelledRunError: (Code.CANCELLED, Reason.CANCELLED),
    errors.BugError: (Code.INTERNAL, Reason.INTERNAL),
}
MESSAGE_LETTERS, MESSAGE_BYTES = 1000, 1500
"""Of a message. A status holds it twice, once with three bytes for each that is not ASCII, and gRPC refuses trailers of
more than 8 KiB."""


def printable(message: str) -> str:
    """One line of bounded length: what a request holds may be quoted in it."""
    text = "".join(letter if letter.isprintable() else "?" for letter in message)
    short = text[:MESSAGE_LETTERS].encode()[:MESSAGE_BYTES].decode(errors="ignore")
    return text if short == text else f"{short}…"


def reason_of(error: errors.ServiceError) -> Reason:
    """Return what ErrorInfo says of an error."""
    return STATUSES[type(error)][1]


def status_of(error: errors.ServiceError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Status code, message, and trailing metadata."""
    (code, reason), message = STATUSES[type(error)], printable(str(error))
    status = Status(code=code.value[0], message=message)
    status.details.add().Pack(ErrorInfo(reason=reason, domain=DOMAIN))
    if isinstance(error, errors.BusyError):
        delay = Duration()
        delay.FromTimedelta(timedelta(seconds=error.seconds))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return code, message, ((GRPC_DETAILS_METADATA_KEY, status.SerializeToString()),)
