"""The servers of a client: asked in turn, again where one is busy or gone."""

from collections.abc import Callable
from itertools import count
from typing import Any

import grpc

from fullconv.errors import RequestError, ScoringError
from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from fullconv.remote.connection import CODES, UNTRUSTED, Security, channels, error_of
from fullconv.remote.details import reason_of
from fullconv.remote.retries import Retries

RETRIES = 8
"""Tries beside the first one, of a call that finds a server busy or gone."""


class Servers:
    """HOST:PORT, or several with commas between; raises RequestError for an address, or a number, that cannot be."""

    def __init__(
        self,
        names: str,
        security: Security,
        *,
        timeout: float | None,
        retries: int,
        insecure: Callable[..., Any] = grpc.insecure_channel,
        secure: Callable[..., Any] = grpc.secure_channel,
    ) -> None:
        self._names, self._timeout, self._more = names, timeout, retries
        if not isinstance(security, Security):
            raise RequestError(f"security: expected Security(...), got {security!r}")
        Retries(retries, timeout)  # what is wrong with them is said now, and not at the first call
        self.channels = channels(names, security, insecure, secure)
        self.metadata = security.metadata
        """What every call carries."""
        self._stubs = [scoring_pb2_grpc.ScoringStub(channel) for channel in self.channels]
        self._turns = count()
        self._lost = False

    def stub(self) -> Any:  # noqa: ANN401 (generated for calls that block and for those that are awaited)
        """The next server's calls; raises RequestError when they are closed."""
        stubs = self._stubs
        if not stubs:
            raise RequestError("client: expected one that is open, got one that was closed")
        return stubs[next(self._turns) % len(stubs)]

    def close(self) -> list[Any]:
        """Ask nobody any longer; returns the channels, which are to be closed."""
        self._stubs = []
        return self.channels

    def retries(self, timeout: float | None) -> Retries:
        """As many as there are; while no server was found the last time, each is asked once."""
        more = min(self._more, len(self.channels) - 1) if self._lost else self._more
        return Retries(more, self._timeout if timeout is None else timeout)

    def found(self) -> None:
        """One has answered."""
        self._lost = False

    def seconds_after(self, error: grpc.RpcError, retries: Retries) -> float:
        """Seconds to wait before the next try; raises what the error means if there is none."""
        untrusted = any(words in (error.details() or "") for words in UNTRUSTED)
        try:
            return retries.after(error, of=len(self.channels) if untrusted else None)
        except grpc.RpcError:
            self._lost = error.code() is grpc.StatusCode.UNAVAILABLE
            raise self.error(error) from None

    def error(self, error: grpc.RpcError) -> ScoringError:
        """What a status means."""
        return error_of(self._names, error.code(), error.details() or "", reason_of(error))

    def result(self, part: scoring_pb2.ScoreManyResponse) -> scoring_pb2.ScoreResponse | ScoringError:
        """An answer of ScoreMany, or what its failure means."""
        if part.WhichOneof("result") == "response":
            return part.response
        failure = part.failure
        return error_of(self._names, CODES[failure.code], failure.message, failure.reason)
