"""The gRPC status of each error.

Every status carries google.rpc.ErrorInfo with the error's reason, since one status code stands for several kinds of
error. RESOURCE_EXHAUSTED also carries RetryInfo. UNAVAILABLE never does: proxies eject a backend that returns it, and
clients retry it without waiting.
"""

from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import GRPC_DETAILS_METADATA_KEY

from fullconv.common.reasons import DOMAIN, Reason
from service.errors import BusyError, ServiceError
from service.reasons import message_of, reason_of

CODES: dict[Reason, grpc.StatusCode] = {
    Reason.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.MODEL_INVALID: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MODEL_UNREADABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CAPABILITY_MISSING: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.OPTION_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MEDIA_TYPE_UNSUPPORTED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.IMAGE_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.LIMIT_EXCEEDED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Reason.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.CLIENT_IDLE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.SHORTAGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.ACCESS_DENIED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


def status_of(error: ServiceError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Return the status code, the message and the trailing metadata of an error."""
    reason, message = reason_of(error), message_of(error)
    code = CODES[reason]
    status = Status(code=code.value[0], message=message)
    status.details.add().Pack(ErrorInfo(reason=reason, domain=DOMAIN))
    if isinstance(error, BusyError):
        delay = Duration()
        delay.FromTimedelta(timedelta(seconds=error.seconds))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return code, message, ((GRPC_DETAILS_METADATA_KEY, status.SerializeToString()),)
