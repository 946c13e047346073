"""Carries requests to servers over gRPC."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from fullconv.encode import with_image
from fullconv.errors import ScoringError
from fullconv.images import ArraySource, ImageSource
from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from fullconv.remote import validation
from fullconv.remote.large import LargeAnswerReader, RemoteStream, UploadParts, summary_missing
from fullconv.remote.outstanding import Outstanding
from fullconv.remote.retries import Retries
from fullconv.remote.servers import Servers
from fullconv.transport import ManyItem, ProgressCallback, WholeAnswer, ignore_progress

Result = TypeVar("Result")


class RemoteTransport:
    """Carries requests to one or more servers; safe to share between threads."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def score(self, request: scoring_pb2.ScoreRequest, source: ImageSource, timeout: float | None) -> WholeAnswer:
        """Send one image in one message."""
        message = with_image(request, source)

        def check(response: scoring_pb2.ScoreResponse) -> None:
            validation.check_response(response, request, source)

        return WholeAnswer(self._call("Score", message, timeout, check))

    def stream(
        self,
        request: scoring_pb2.ScoreRequest,
        source: ImageSource,
        timeout: float | None,
        progress: ProgressCallback,
    ) -> RemoteStream:
        """Send one image in parts, and wait for its plan."""

        def begin(stub: scoring_pb2_grpc.ScoringStub, seconds: float | None) -> RemoteStream:
            parts = UploadParts(request, source, progress)
            call = stub.ScoreLarge(iter(parts), timeout=seconds, metadata=self._servers.metadata)
            try:
                first = next(call, None)
                if first is None:
                    raise summary_missing()
                return RemoteStream(call, LargeAnswerReader(first, parts), self._servers.error)
            except grpc.RpcError:
                call.cancel()
                if parts.error is not None:
                    raise parts.error from None
                raise

        return self._retried(begin, timeout)

    def plan(
        self, request: scoring_pb2.ScoreRequest, source: ImageSource, timeout: float | None
    ) -> scoring_pb2.ScoreResponse:
        """Request the plan. An array whose pixels are read twice is sent in one message, since rows are sent once."""
        if isinstance(source, ArraySource) and not reads_once(request.options):
            return self.score(request, source, timeout).response
        stream = self.stream(request, source, timeout, ignore_progress)
        stream.close()
        return stream.start

    def score_many(
        self, items: Iterable[ManyItem], timeout: float | None
    ) -> Iterator[tuple[ManyItem, WholeAnswer | ScoringError]]:
        """Send images in one call; if the server goes away, images without an answer are sent to another server."""
        outstanding, retries = Outstanding(items), self._servers.retries(timeout)
        while True:
            call = self._servers.stub().ScoreMany(
                outstanding.requests(), timeout=retries.remaining, metadata=self._servers.metadata
            )
            try:
                yield from self._results(call, outstanding, retries)
                outstanding.check_complete()
                break
            except grpc.RpcError as error:
                if outstanding.raised is not None:
                    raise outstanding.raised from None
                time.sleep(self._servers.backoff(error, retries))
            finally:
                call.cancel()
        yield from outstanding.unusable

    def _results(
        self, call: Iterable[scoring_pb2.ScoreManyResponse], outstanding: Outstanding, retries: Retries
    ) -> Iterator[tuple[ManyItem, WholeAnswer | ScoringError]]:
        """Yield the answers of one call, and the errors of images that could not be sent during the call."""
        for part in call:
            retries.renew()
            self._servers.mark_reachable()
            while outstanding.unusable:
                yield outstanding.unusable.popleft()
            item = outstanding.answered(part.id)
            result = self._servers.result(part, item)
            yield item, result if isinstance(result, ScoringError) else WholeAnswer(result)

    def models(self) -> scoring_pb2.ListModelsResponse:
        """List the models of a server."""
        response: scoring_pb2.ListModelsResponse = self._call(
            "ListModels", scoring_pb2.ListModelsRequest(), None, validation.check_models
        )
        return response

    def model(self, request: scoring_pb2.GetModelRequest) -> scoring_pb2.GetModelResponse:
        """Describe a model of a server."""

        def check(response: scoring_pb2.GetModelResponse) -> None:
            validation.check_model(response, request)

        response: scoring_pb2.GetModelResponse = self._call("GetModel", request, None, check)
        return response

    def close(self) -> None:
        """Close the connections."""
        for channel in self._servers.close():
            channel.close()

    def _call(self, method: str, request: Message, timeout: float | None, check: Callable[[Any], None]) -> Any:  # noqa: ANN401 (as the method says)
        def ask(stub: scoring_pb2_grpc.ScoringStub, seconds: float | None) -> Any:  # noqa: ANN401
            response = getattr(stub, method)(request, timeout=seconds, metadata=self._servers.metadata_of(request))
            check(response)
            return response

        return self._retried(ask, timeout)

    def _retried(
        self, ask: Callable[[scoring_pb2_grpc.ScoringStub, float | None], Result], timeout: float | None
    ) -> Result:
        """Call one server after another, until there is an answer or no further try is allowed."""
        retries = self._servers.retries(timeout)
        while True:
            try:
                result = ask(self._servers.stub(), retries.remaining)
            except grpc.RpcError as error:
                time.sleep(self._servers.backoff(error, retries))
            else:
                self._servers.mark_reachable()
                return result


def reads_once(options: scoring_pb2.ScoreOptions) -> bool:
    """Return whether scoring reads the pixels of an image only once, from top to bottom."""
    return len(options.scales) <= 1 and not options.mask_otsu
