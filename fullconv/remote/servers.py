"""The servers of a client: each call goes to the next server, and is repeated if a server is busy or gone."""

from collections.abc import Callable
from itertools import count
from typing import Any

import grpc
from google.protobuf.message import Message

from fullconv.common.metadata import MESSAGE_BYTES
from fullconv.errors import RequestError, ScoringError
from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from fullconv.remote import validation
from fullconv.remote.connection import CODES, UNTRUSTED, error_of, open_channels
from fullconv.remote.details import reason_of
from fullconv.remote.expectations import MalformedAnswerError
from fullconv.remote.retries import Retries
from fullconv.remote.security import Security
from fullconv.transport import ManyItem

RETRIES = 8
"""Number of times that a call is repeated when servers are busy or gone."""


class Servers:
    """Channels to one or more servers, and the state that calls share."""

    def __init__(
        self,
        addresses: str,
        security: Security | None,
        *,
        timeout: float | None,
        retries: int,
        insecure: Callable[..., Any] = grpc.insecure_channel,
        secure: Callable[..., Any] = grpc.secure_channel,
    ) -> None:
        """Open channels to HOST:PORT, or to several addresses separated by commas; raises RequestError.

        `insecure` and `secure` are the functions of gRPC, or of its asyncio module, that open a channel.
        """
        security = Security() if security is None else security
        if not isinstance(security, Security):
            raise RequestError(f"security: expected Security(...), got {security!r}")
        Retries(retries, timeout)  # raises for invalid numbers now, and not at the first call
        self._addresses, self._timeout, self._retries = addresses, timeout, retries
        self.channels = open_channels(addresses, security, insecure, secure)
        self.metadata = security.metadata
        """Metadata of every call."""
        self._stubs = [scoring_pb2_grpc.ScoringStub(channel) for channel in self.channels]
        self._turns = count()
        self._unreachable = False
        """Whether the last call reached no server."""

    def stub(self) -> Any:  # noqa: ANN401 (generated, for blocking calls and for asyncio)
        """Return the methods of the next server; raises RequestError after `close`."""
        stubs = self._stubs
        if not stubs:
            raise RequestError("client: expected an open client, got a closed client; make a new client")
        return stubs[next(self._turns) % len(stubs)]

    def metadata_of(self, message: Message) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call with one message, whose size they announce."""
        return (*self.metadata, (MESSAGE_BYTES, str(message.ByteSize())))

    def close(self) -> list[Any]:
        """Make no more calls; returns the channels, which the caller closes."""
        self._stubs = []
        return self.channels

    def retries(self, timeout: float | None) -> Retries:
        """Return the tries of a new call. If the last call reached no server, each server is tried only once."""
        more = min(self._retries, len(self.channels) - 1) if self._unreachable else self._retries
        return Retries(more, self._timeout if timeout is None else timeout)

    def mark_reachable(self) -> None:
        """Record that a server has answered."""
        self._unreachable = False

    def backoff(self, error: grpc.RpcError, retries: Retries) -> float:
        """Return the seconds to wait before the next try; raises ScoringError if there is no further try."""
        untrusted = any(words in (error.details() or "") for words in UNTRUSTED)
        try:
            return retries.after(error, of=len(self.channels) if untrusted else None)
        except grpc.RpcError:
            self._unreachable = error.code() is grpc.StatusCode.UNAVAILABLE
            raise self.error(error) from None

    def error(self, error: grpc.RpcError) -> ScoringError:
        """Return the error for a status."""
        return error_of(self._addresses, error.code(), error.details() or "", reason_of(error))

    def result(self, part: scoring_pb2.ScoreManyResponse, item: ManyItem) -> scoring_pb2.ScoreResponse | ScoringError:
        """Return the response of one image of ScoreMany, or the error for its failure or for a malformed answer."""
        try:
            if part.WhichOneof("result") == "response":
                validation.check_response(part.response, *item.made)
                return part.response
            validation.check_failure(part.failure, CODES)
        except MalformedAnswerError as error:
            return self.error(error)
        failure = part.failure
        return error_of(self._addresses, CODES[failure.code], failure.message, failure.reason)
