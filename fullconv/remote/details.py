"""The details of a failed call's status beside its code and message, in google.rpc's messages."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from fullconv.common.reasons import DOMAIN


def retry_seconds(error: grpc.RpcError) -> float | None:
    """Return the seconds after which the server is to be called again; None if the status does not say."""
    retry = RetryInfo()
    if not _unpack(error, retry):
        return None
    return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason, one of `fullconv.common.reasons`; empty if a proxy or an older server gives no reason."""
    info = ErrorInfo()
    return str(info.reason) if _unpack(error, info) and info.domain == DOMAIN else ""


def _unpack(error: grpc.RpcError, message: Any) -> bool:  # noqa: ANN401 (generated)
    """Fill a message from the status's detail of the same type; returns whether there is such a detail."""
    try:
        return any(detail.Unpack(message) for detail in _details(error))
    except DecodeError:
        return False


def _details(error: grpc.RpcError) -> Iterable[Any]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # a proxy has changed the message
        return ()
    return () if status is None else status.details
