"""The viewer: a page on which a user scores an image in a browser, and the requests that the page makes.

GET /                      the page
GET /viewer/models         the models and the limits of the server
GET /viewer/models/NAME    the description of a model, as GetModel returns it
POST /viewer/score         an encoded file; the answer is ScoreLarge's, as lines: plan, progress, rows, summary

The page itself needs no token, so that it can ask for one. The options of /viewer/score are in its query
(`service.rest.score_query`). If the mask is a file, the body begins with it.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from fullconv.common.pages import asset, page_of
from fullconv.protos import scoring_pb2
from service.dispatch.call import Call
from service.errors import LimitError, MediaTypeError, OptionError
from service.limits import Limits
from service.rest.answers import BINARY, Answer
from service.rest.body import body_parts, check_media_type, take
from service.rest.endpoint import MakeEndpoint
from service.rest.json_thread import JsonThread
from service.rest.line_stream import Lines, finite
from service.rest.responses import document, json_answer
from service.rest.score_query import ScoreQuery, score_query
from service.rest.shown_rows import MAX_PLANES, ShownRows
from service.rpc.calls import Calls
from service.rpc.servicer import ScoringServicer

SCRIPTS = ("cells", "panel", "page", "live_cells", "live", "live_form")
SOURCES = "img-src 'self' data: blob:; connect-src 'self'"
MARK = "<!-- data -->"
"""Stands in the template where the data belong."""


class Viewer:
    """The paths of the viewer, which a servicer answers."""

    def __init__(
        self, servicer: ScoringServicer, endpoint: MakeEndpoint, calls: Calls, limits: Limits, json_thread: JsonThread
    ) -> None:
        self._servicer, self._endpoint = servicer, endpoint
        self._calls, self._limits, self._json = calls, limits, json_thread

    def routes(self) -> list[BaseRoute]:
        """Return the paths."""
        return [
            Route("/", _page),
            Route("/viewer/models", self._endpoint("ListModels", self._models), methods=["GET"]),
            Route("/viewer/models/{name}", self._endpoint("GetModel", self._model), methods=["GET"]),
            Route("/viewer/score", self._endpoint("ScoreLarge", self._score), methods=["POST"]),
        ]

    async def _models(self, _: Request, call: Call, __: Lines) -> Answer:
        response = await self._servicer.list_models(scoring_pb2.ListModelsRequest(), call)
        limits = {
            "image_pixels": self._limits.image_pixels,
            "large_image_pixels": self._limits.large_pixels,
            "file_bytes": int(self._limits.spool_bytes * self._limits.client_share),
            "planes": MAX_PLANES,
        }
        return json_answer(document(response) | {"limits": limits})

    async def _model(self, request: Request, call: Call, _: Lines) -> Answer:
        name, version = request.path_params["name"], request.query_params.get("version", "")
        response = await self._servicer.get_model(scoring_pb2.GetModelRequest(model=name, version=version), call)
        return json_answer(finite(document(response)))

    async def _score(self, request: Request, call: Call, lines: Lines) -> None:
        """Receive an encoded file, score it and send the lines."""
        check_media_type(request, BINARY)
        if "content-encoding" in request.headers:
            raise MediaTypeError("content-encoding: expected none, got one; send the file as it is")
        query = score_query(request.query_params)
        if query.mask_bytes > self._limits.message_bytes:
            raise LimitError(f"mask: expected at most {self._limits.message_bytes} bytes, got {query.mask_bytes}")
        start = query.start
        described = scoring_pb2.GetModelRequest(model=start.model, version=start.version)
        model = await self._servicer.get_model(described, call)
        start.version = model.version
        delivery = _Delivery(lines, model, _planes(query.planes, model.spec.output.classes))
        await self._servicer.score_large(self._messages(query, request, call), delivery.send, call)

    async def _messages(
        self, query: ScoreQuery, request: Request, call: Call
    ) -> AsyncIterator[scoring_pb2.ScoreLargeRequest]:
        """Yield the body as the messages of ScoreLarge: the mask belongs to the first, the file follows."""
        parts = body_parts(request)
        mask, rest = await take(parts, query.mask_bytes)
        call.size = len(mask)
        self._calls.received_bytes += call.size
        await self._json.run(partial(query.set_mask, mask), call.size)
        yield scoring_pb2.ScoreLargeRequest(start=query.start)
        if rest:
            yield self._data(rest)
        async for part in parts:
            yield self._data(part)

    def _data(self, part: bytes) -> scoring_pb2.ScoreLargeRequest:
        self._calls.received_bytes += len(part)
        return scoring_pb2.ScoreLargeRequest(data=part)


class _Delivery:
    """Sends the messages of one ScoreLarge as lines."""

    def __init__(self, lines: Lines, model: scoring_pb2.GetModelResponse, planes: list[int]) -> None:
        self._lines, self._kind, self._planes = lines, model.spec.output.kind, planes
        self._rows: ShownRows | None = None

    async def send(self, message: Message) -> None:
        """Send a message of the answer as a line, except for rows that belong to incomplete blocks."""
        assert isinstance(message, scoring_pb2.ScoreLargeResponse)  # noqa: S101 (the servicer sends no other message)
        part = message.WhichOneof("part")
        if part == "start":
            self._rows = ShownRows(message.start.grid, self._kind, self._planes)
            shown = {"kind": self._kind, "step": self._rows.step, "planes": self._planes}
            await self._lines.send({"plan": _without_bytes(message.start), "shown": shown})
        elif part == "rows" and self._rows is not None:
            rows = await asyncio.to_thread(self._rows.add, message.rows)
            if rows is not None:
                await self._lines.send({"rows": rows})
        elif part == "progress":
            await self._lines.send({"progress": document(message.progress)})
        elif part == "summary":
            await self._lines.send({"summary": _without_bytes(message.summary)})


def _planes(wanted: list[int], classes: int) -> list[int]:
    """Return the classes whose values are shown. Default: all, or none if there are too many."""
    if len(wanted) > MAX_PLANES:
        raise OptionError(f"plane: expected at most {MAX_PLANES} classes, got {len(wanted)}")
    for plane in wanted:
        if plane >= classes:
            raise OptionError(f"plane: expected a class from 0 to {classes - 1}, got {plane}")
    return list(dict.fromkeys(wanted)) or (list(range(classes)) if classes <= MAX_PLANES else [])


def _without_bytes(response: scoring_pb2.ScoreResponse) -> dict[str, Any]:
    """Return a response without the fields for scores, which are empty in ScoreLarge."""
    return {name: value for name, value in document(response).items() if not isinstance(value, bytes)}


async def _page(_: Request) -> Response:
    page, policy = await asyncio.to_thread(page_of, "live", ["shared", "live"], SCRIPTS, "fullconv", SOURCES)
    data = f'<script type="text/plain" id="data-colour_maps">{asset("colour_maps.json")}</script>'
    headers = {
        "content-security-policy": f"{policy}; frame-ancestors 'none'",
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(page.replace(MARK, data), headers=headers)
