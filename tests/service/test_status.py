"""What a status carries for every error, and what a client makes of it."""

import re
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from support.servers import Failed

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
"""Bytes that gRPC lets a peer send after a call."""


def kinds(of: type[errors.ServiceError] = errors.ServiceError) -> list[type[errors.ServiceError]]:
    """Every kind of error below another one."""
    return [kind for child in of.__subclasses__() for kind in (child, *kinds(child))]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_reason_of_its_own(kind: type[errors.ServiceError]) -> None:
    """The client reads from the status what the server meant, whatever the code."""
    error = kind("field: expected more, got less")
    assert reason_in(Failed(*status_of(error))) == reason_of(error)
    assert list(REASONS.values()).count(reason_of(error)) == 1
    assert re.fullmatch("[A-Z][A-Z0-9_]+[A-Z0-9]", reason_of(error))  # as google.rpc.ErrorInfo wants it


def test_no_reason_is_without_an_error() -> None:
    """Each is given by one kind of error, and the proto file names it."""
    assert set(REASONS.values()) == set(CODES) == set(Reason)
    assert scoring_pb2.Failure(reason=Reason.OPTION_INVALID).reason == "OPTION_INVALID"


@pytest.mark.parametrize("letter", ["a", "é", "小", "\U0001f600"])
@pytest.mark.parametrize("seconds", [None, 1.0], ids=["plain", "busy"])
def test_statuses_fit_into_trailers(letter: str, seconds: float | None) -> None:
    """However long the message, and however many bytes its letters take."""
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
    """An older server's status is what its code says, and so is one whose reason is not known here."""
    assert type(error_of("a:1", code, "m", reason)) is kind


def test_reasons_decide() -> None:
    """An option that cannot be used is the request's fault, although its code is the image's too."""
    code = grpc.StatusCode.INVALID_ARGUMENT
    assert type(error_of("a:1", code, "m", Reason.OPTION_INVALID)) is RequestError
    assert type(error_of("a:1", code, "m", Reason.LIMIT_EXCEEDED)) is ImageError


def test_details_of_others_mean_nothing() -> None:
    """Another domain's reason, a changed message, and bytes that are no details are those of an older server."""
    code, detail = grpc.StatusCode.INVALID_ARGUMENT, AnyMessage()
    detail.Pack(ErrorInfo(reason="OPTION_INVALID", domain="elsewhere"))
    status = Status(code=code.value[0], message="m", details=[detail]).SerializeToString()
    broken = Status(code=code.value[0], message="m", details=[AnyMessage(type_url=detail.type_url, value=b"\xff")])
    for message, value in (("m", status), ("changed", status), ("m", broken.SerializeToString()), ("m", b"\xff\xff")):
        assert reason_in(Failed(code, message, (("grpc-status-details-bin", value),))) == ""
    assert reason_in(Failed(code, "m")) == ""


def test_a_busy_server_says_when_beside_why() -> None:
    """The delay is found, whichever detail comes first."""
    assert 0.5 <= Retries(1, None).after(Failed(*status_of(errors.BusyError("m", 0.5)))) <= 0.65
