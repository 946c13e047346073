"""A server whose answers are those of the shipped digits model, changed by the test."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import Message
from support.paths import ROOT
from support.scoring import plan_message

from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from service import encode
from service.limits import Limits
from service.scoring.grid import GridRows
from service.scoring.scorer import Scorer

Parts = list[scoring_pb2.ScoreLargeResponse]
Change = Callable[[Any], Any]
"""Changes a message. For a stream: changes the list of its messages, or returns the messages to send instead."""


class ChangedServicer(scoring_pb2_grpc.ScoringServicer):
    """Answers with the digits model, after the change that a test has set for the method."""

    def __init__(self) -> None:
        self._scorer = Scorer(ROOT / "models")
        self.changes: dict[str, Change] = {}
        """By the name of the method."""

    def Score(self, request: scoring_pb2.ScoreRequest, _: grpc.ServicerContext) -> Message:  # noqa: N802 (gRPC's)
        """Score one image."""
        return self._one("Score", self._answer(request))

    def ScoreMany(self, requests: Iterable[scoring_pb2.ScoreManyRequest], _: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """Score images; the answers are sent after the last request."""
        answers = [scoring_pb2.ScoreManyResponse(id=each.id, response=self._answer(each.request)) for each in requests]
        yield from self._several("ScoreMany", answers)

    def ScoreLarge(self, requests: Iterator[scoring_pb2.ScoreLargeRequest], _: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """Score one image that is sent as raw rows or as a file; every row of its grid is a part of its own."""
        start = next(requests).start
        data = b"".join(part.data for part in requests)
        image = scoring_pb2.Image(name=start.name, encoded=data)
        if start.HasField("raw"):
            image.raw.CopyFrom(start.raw)
            image.raw.data = data
        message = scoring_pb2.ScoreRequest(model=start.model, version=start.version, options=start.options, image=image)
        yield from self._several("ScoreLarge", self.parts(message))

    def GetModel(self, request: scoring_pb2.GetModelRequest, _: grpc.ServicerContext) -> Message:  # noqa: N802
        """Describe the model."""
        model = self._scorer.model(request.model, request.version)
        return self._one("GetModel", encode.model_response(model, Limits()))

    def ListModels(self, _request: scoring_pb2.ListModelsRequest, _: grpc.ServicerContext) -> Message:  # noqa: N802
        """List the models."""
        return self._one("ListModels", encode.models_response(self._scorer.registry))

    def _answer(self, message: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        return plan_message(self._scorer, message).complete()

    def parts(self, message: scoring_pb2.ScoreRequest) -> Parts:
        """The honest answer of ScoreLarge."""
        part, scoring = scoring_pb2.ScoreLargeResponse, plan_message(self._scorer, message)
        if message.options.plan_only:
            return [part(start=scoring.counted())]
        rows = [one for several in scoring.rows() for one in single_rows(several)]
        tiles = scoring.plan.tile_count
        begun, done = (part(progress=scoring_pb2.Progress(tiles=count, of=tiles)) for count in (0, tiles))
        return [part(start=scoring.response), begun, *rows, done, part(summary=scoring.answer())]

    def _one(self, method: str, honest: Message) -> Message:
        """The answer of a method that has one."""
        self.changes.get(method, _unchanged)(honest)
        return honest

    def _several(self, method: str, honest: list[Any]) -> Iterable[Any]:
        """The answers of a method that has several."""
        changed: Iterable[Any] | None = self.changes.get(method, _unchanged)(honest)
        return honest if changed is None else changed


def _unchanged(_: object) -> None:
    """Change nothing."""


def single_rows(rows: GridRows) -> Iterator[scoring_pb2.ScoreLargeResponse]:
    """Yield a message for each of several rows."""
    for number in range(len(rows.scores)):
        positions = None if rows.positions is None else rows.positions[number : number + 1]
        one = GridRows(rows.first + number, rows.scores[number : number + 1], positions)
        yield from encode.large_parts(one)


@contextmanager
def serving(servicer: scoring_pb2_grpc.ScoringServicer) -> Iterator[str]:
    """Run a server with a servicer; yields its address."""
    with _running(lambda server: scoring_pb2_grpc.add_ScoringServicer_to_server(servicer, server)) as address:
        yield address


@contextmanager
def babbling() -> Iterator[str]:
    """Run a server that answers every method with bytes that are no message; yields its address."""
    nonsense = b"\xff\xff\xff"
    handlers = {
        "Score": grpc.unary_unary_rpc_method_handler(lambda *_: nonsense),
        "ScoreMany": grpc.stream_stream_rpc_method_handler(lambda *_: iter([nonsense])),
        "ScoreLarge": grpc.stream_stream_rpc_method_handler(lambda *_: iter([nonsense])),
        "GetModel": grpc.unary_unary_rpc_method_handler(lambda *_: nonsense),
        "ListModels": grpc.unary_unary_rpc_method_handler(lambda *_: nonsense),
    }
    with _running(lambda server: server.add_registered_method_handlers("fullconv.v1.Scoring", handlers)) as address:
        yield address


@contextmanager
def _running(prepare: Callable[[grpc.Server], None]) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    prepare(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
