"""Errors as gRPC statuses: the table of status code and reason for each kind of error.

Every status carries an ErrorInfo with the reason, because one status code stands for several kinds of error. A busy
server answers RESOURCE_EXHAUSTED with RetryInfo, not UNAVAILABLE: for UNAVAILABLE proxies eject the server, and clients
retry without a delay.
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
"""Largest length of a message. A status contains its message twice, once with three bytes for each byte that is not
ASCII, and gRPC refuses trailers of more than 8 KiB."""


def printable(message: str) -> str:
    """Return a message as one printable line of limited length, since it may quote the contents of a request."""
    text = "".join(letter if letter.isprintable() else "?" for letter in message)
    short = text[:MESSAGE_LETTERS].encode()[:MESSAGE_BYTES].decode(errors="ignore")
    return text if short == text else f"{short}…"


def reason_of(error: errors.ServiceError) -> Reason:
    """Return the reason that ErrorInfo gives for an error."""
    return STATUSES[type(error)][1]


def status_of(error: errors.ServiceError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Return the status code, the message and the trailing metadata for an error."""
    (code, reason), message = STATUSES[type(error)], printable(str(error))
    status = Status(code=code.value[0], message=message)
    status.details.add().Pack(ErrorInfo(reason=reason, domain=DOMAIN))
    if isinstance(error, errors.BusyError):
        delay = Duration()
        delay.FromTimedelta(timedelta(seconds=error.seconds))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return code, message, ((GRPC_DETAILS_METADATA_KEY, status.SerializeToString()),)
