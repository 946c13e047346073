"""Scoring in this process by the messages of a request, step by step."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from fullconv.protos import scoring_pb2
from service import decode, encode
from service.engine.engine import Engine
from service.engine.repository import StoredModel
from service.engine.session import Session
from service.images.picture import Picture
from service.scoring.execution import Execution
from service.scoring.grid import GridRows
from service.scoring.masking import count_inside_mask
from service.scoring.outcome import Counted, Scored
from service.scoring.plan import Plan
from service.scoring.planned import PlannedImage
from service.scoring.scorer import Scorer


@dataclass
class Scoring:
    """One planned image: take `rows`, then `answer`; or `complete` alone."""

    planned: PlannedImage
    engine: Engine | None = None
    execution: Execution = field(init=False)

    def __post_init__(self) -> None:
        self.execution = Execution(self.planned, self.engine)

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.planned.plan

    @property
    def model(self) -> StoredModel:
        """The model that scores."""
        return self.planned.model

    @property
    def session(self) -> Session:
        """The session that runs the tiles."""
        return self.planned.session

    @property
    def response(self) -> scoring_pb2.ScoreResponse:
        """The part of the answer that is known before a pixel is decoded."""
        return encode.planned_response(self.planned)

    def rows(self) -> Iterator[GridRows]:
        """Return the rows of the grid, which are scored while the caller iterates."""
        return self.execution.rows()

    def answer(self) -> scoring_pb2.ScoreResponse:
        """Return the averages, after the last row."""
        return encode.summary(Scored(self.planned, (), self.execution.result()))

    def counted(self) -> scoring_pb2.ScoreResponse:
        """Return the answer to a request for the plan alone."""
        return encode.outcome_response(Counted(self.planned, tuple(count_inside_mask(self.planned, lambda: None))))

    def complete(self) -> scoring_pb2.ScoreResponse:
        """Return the whole answer at once."""
        if self.planned.options.requested.plan_only:
            return self.counted()
        rows = tuple(self.rows())
        return encode.outcome_response(Scored(self.planned, rows, self.execution.result()))


def plan_image(
    scorer: Scorer, picture: Picture, message: scoring_pb2.ScoreRequest, engine: Engine | None = None
) -> Scoring:
    """Plan a picture by the request in a message, whose own image is not used."""
    return Scoring(scorer.plan(picture, decode.scoring_request(message)), engine)


def plan_message(scorer: Scorer, message: scoring_pb2.ScoreRequest, engine: Engine | None = None) -> Scoring:
    """Plan the image of a message, as `Score` does."""
    request = decode.scoring_request(message)
    open_picture = partial(decode.open_image, message.image, request.options.selection)
    return Scoring(scorer.plan_whole(open_picture, request), engine)
