"""What a status of a server says beside its code and message, in google.rpc's messages."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from fullconv.common.reasons import DOMAIN


def retry_seconds(error: grpc.RpcError) -> float | None:
    """Seconds after which the server is to be asked again; None if it does not say."""
    retry = RetryInfo()
    if not _unpacked(error, retry):
        return None
    return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)


def reason_of(error: grpc.RpcError) -> str:
    """Returns the reason, one of `fullconv.common.reasons`; empty for a proxy or an older server, which gives none."""
    info = ErrorInfo()
    return str(info.reason) if _unpacked(error, info) and info.domain == DOMAIN else ""


def _unpacked(error: grpc.RpcError, message: Any) -> bool:  # noqa: ANN401 (generated)
    """Whether a status has a detail of a message's type, which is then in the message."""
    try:
        return any(detail.Unpack(message) for detail in _details(error))
    except DecodeError:
        return False


def _details(error: grpc.RpcError) -> Iterable[Any]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # something on the way has changed the message
        return ()
    return () if status is None else status.details
