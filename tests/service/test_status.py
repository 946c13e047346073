"""The contents of the status of every error, and the errors that a client raises for them."""

import re
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from support.servers import FailedCall

from fullconv.common.reasons import Reason
from fullconv.errors import ImageError, RequestError, ScoringError, UnavailableError
from fullconv.protos import scoring_pb2
from fullconv.remote.connection import error_of
from fullconv.remote.details import reason_of as reason_in
from fullconv.remote.retries import Retries
from service import errors
from service.reasons import REASONS, reason_of
from service.rpc.status import CODES, status_of

TRAILERS = 8 << 10
"""Largest number of bytes that gRPC accepts in the trailers of a call."""


def kinds(of: type[errors.ServiceError] = errors.ServiceError) -> list[type[errors.ServiceError]]:
    """Return all subclasses of a class of errors."""
    return [kind for child in of.__subclasses__() for kind in (child, *kinds(child))]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_reason_of_its_own(kind: type[errors.ServiceError]) -> None:
    """The client reads the reason from the status, independent of the status code."""
    error = kind("field: expected more, got less")
    assert reason_in(FailedCall(*status_of(error))) == reason_of(error)
    assert list(REASONS.values()).count(reason_of(error)) == 1
    assert re.fullmatch("[A-Z][A-Z0-9_]+[A-Z0-9]", reason_of(error))  # the format that google.rpc.ErrorInfo requires


def test_no_reason_is_without_an_error() -> None:
    """Each reason belongs to one class of errors, and the proto file names it."""
    assert set(REASONS.values()) == set(CODES) == set(Reason)
    assert scoring_pb2.Failure(reason=Reason.OPTION_INVALID).reason == "OPTION_INVALID"


@pytest.mark.parametrize("letter", ["a", "é", "小", "\U0001f600"])
@pytest.mark.parametrize("seconds", [None, 1.0], ids=["plain", "busy"])
def test_statuses_fit_into_trailers(letter: str, seconds: float | None) -> None:
    """A status fits for messages of any length and for characters of several bytes."""
    error = errors.OptionError(letter * 5000) if seconds is None else errors.BusyError(letter * 5000, seconds)
    _, message, trailers = status_of(error)
    assert message.startswith(letter * 300)
    assert message.endswith("…")
    assert len(quote(message)) + sum(len(name) + len(value) for name, value in trailers) < TRAILERS


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, ImageError),
        (grpc.StatusCode.NOT_FOUND, RequestError),
        (grpc.StatusCode.FAILED_PRECONDITION, RequestError),
        (grpc.StatusCode.UNAUTHENTICATED, RequestError),
        (grpc.StatusCode.UNIMPLEMENTED, UnavailableError),
        (grpc.StatusCode.INTERNAL, UnavailableError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("reason", ["", "SOMETHING_NEW"], ids=["none", "unknown"])
def test_servers_without_reasons(code: grpc.StatusCode, kind: type[ScoringError], reason: str) -> None:
    """The code determines the error for a status without a reason, from an older server, or with an unknown reason."""
    assert type(error_of("a:1", code, "m", reason)) is kind


def test_reasons_decide() -> None:
    """An invalid option is a RequestError, although images have the same status code."""
    code = grpc.StatusCode.INVALID_ARGUMENT
    assert type(error_of("a:1", code, "m", Reason.OPTION_INVALID)) is RequestError
    assert type(error_of("a:1", code, "m", Reason.LIMIT_EXCEEDED)) is ImageError


def test_foreign_details_are_ignored() -> None:
    """A reason of another domain, a changed message, and invalid details are treated as if they were missing."""
    code, detail = grpc.StatusCode.INVALID_ARGUMENT, AnyMessage()
    detail.Pack(ErrorInfo(reason="OPTION_INVALID", domain="elsewhere"))
    status = Status(code=code.value[0], message="m", details=[detail]).SerializeToString()
    broken = Status(code=code.value[0], message="m", details=[AnyMessage(type_url=detail.type_url, value=b"\xff")])
    for message, value in (("m", status), ("changed", status), ("m", broken.SerializeToString()), ("m", b"\xff\xff")):
        assert reason_in(FailedCall(code, message, (("grpc-status-details-bin", value),))) == ""
    assert reason_in(FailedCall(code, "m")) == ""


def test_a_busy_server_sends_a_delay_and_a_reason() -> None:
    """The client finds the delay of a retry in any order of the details."""
    assert 0.5 <= Retries(1, None).after(FailedCall(*status_of(errors.BusyError("m", 0.5)))) <= 0.65
