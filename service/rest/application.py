"""The application of the HTTP port: a table of its paths, and the answer to requests with other paths.

/v2 is the Open Inference Protocol. A method of the gRPC service answers each of its paths. The other paths are those of
the viewer.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fullconv.common.reasons import Reason
from fullconv.protos import open_inference_pb2 as oip
from service.dispatch.admission import Admission
from service.dispatch.call import Call
from service.errors import LimitError, OptionError
from service.limits import Limits
from service.rest.answers import BINARY, JSON, Answer
from service.rest.body import check_media_type, read_body
from service.rest.endpoint import Endpoint, MakeEndpoint, Work, received_body
from service.rest.guard import Guard
from service.rest.json_thread import SMALL_BYTES, JsonThread
from service.rest.line_stream import Lines
from service.rest.refusals import refused
from service.rest.requests import MOST_BYTES, binary_outputs, infer_request, parsed
from service.rest.responses import HEADER_LENGTH, document, infer_answer, json_answer
from service.rest.viewer import Viewer
from service.rpc.calls import Calls
from service.rpc.inference import InferenceServicer
from service.rpc.servicer import ScoringServicer
from service.rpc.tensors import AVERAGE, MOST_NUMBERS

FLOAT_BYTES = 4
MODEL = "/v2/models/{name}"
VERSION = f"{MODEL}/versions/{{version}}"
Form = Callable[[Any], Answer]
"""Makes the answer from the message that a method returns."""


def application(
    inference: InferenceServicer,
    scoring: ScoringServicer,
    calls: Calls,
    admission: Admission,
    limits: Limits,
    *,
    is_local: bool,
) -> Starlette:
    """Return the application. `is_local`: whether only this machine reaches its port."""
    endpoint = partial(Endpoint, calls, admission, limits.idle_seconds)
    json_thread = JsonThread()
    inference_paths, viewer = (
        Inference(inference, endpoint, calls, limits, json_thread),
        Viewer(scoring, endpoint, calls, limits, json_thread),
    )
    starlette = Starlette(
        routes=[*inference_paths.routes(), *viewer.routes()],
        middleware=[Middleware(Guard, is_local=is_local)],
        exception_handlers={HTTPException: _refuse, Exception: _report_bug},
    )
    starlette.router.redirect_slashes = False
    return starlette


class Inference:
    """The paths of the Open Inference Protocol, which a servicer answers."""

    def __init__(
        self, servicer: InferenceServicer, endpoint: MakeEndpoint, calls: Calls, limits: Limits, json_thread: JsonThread
    ) -> None:
        self._methods, self._endpoint = servicer.methods(), endpoint
        self._calls, self._limits, self._json = calls, limits, json_thread

    def routes(self) -> list[BaseRoute]:
        """Return the paths. A path that comes first takes precedence."""
        get = self._get
        models = [
            ("ModelReady", "/ready", _ready),
            ("ModelConfig", "/config", lambda response: json_answer(document(response.config))),
            ("ModelStatistics", "/stats", _document),
            ("ModelMetadata", "", _document),
        ]
        return [
            get("ServerMetadata", "/v2", _server),
            get("ServerLive", "/v2/health/live", _document),
            get("ServerReady", "/v2/health/ready", _ready),
            get("ModelStatistics", "/v2/models/stats", _document),
            *(get(method, f"{path}{end}", form) for method, end, form in models for path in (MODEL, VERSION)),
            *(self._post("ModelInfer", f"{path}/infer", self._infer) for path in (MODEL, VERSION)),
            self._post("RepositoryIndex", "/v2/repository/index", self._index),
        ]

    def _get(self, method: str, path: str, form: Form) -> Route:
        kind, answer = self._methods[method]

        async def work(request: Request, call: Call, _: Lines) -> Answer:
            return form(await answer(kind(**request.path_params), call))

        return self._route(method, path, work, "GET")

    def _post(self, method: str, path: str, work: Work) -> Route:
        return self._route(method, path, work, "POST")

    def _route(self, method: str, path: str, work: Work, verb: str) -> Route:
        return Route(path, self._endpoint(method, work), methods=[verb])

    async def _index(self, request: Request, call: Call, _: Lines) -> Answer:
        kind, answer = self._methods["RepositoryIndex"]
        fields = parsed(await received_body(request, call, self._calls, SMALL_BYTES) or b"{}")
        response = await answer(kind(ready=fields.get("ready") is True), call)
        return json_answer(document(response)["models"])

    async def _infer(self, request: Request, call: Call, _: Lines) -> Answer:
        """Receive a request, score its images and return the answer."""
        check_media_type(request, JSON, BINARY, default=JSON)
        header_bytes = _header_bytes(request)
        limit = self._limits.message_bytes if header_bytes is not None else min(MOST_BYTES, self._limits.message_bytes)
        name, version = request.path_params["name"], request.path_params.get("version", "")

        async def read() -> oip.ModelInferRequest:
            """Receive and convert the request, in one of the places for messages that arrive."""
            body = await read_body(request, limit)
            call.size = len(body)
            self._calls.received_bytes += call.size
            return await self._json.run(partial(infer_request, name, version, body, header_bytes), call.size)

        return await self._scored(await self._calls.receiver.read(call, read), call)

    async def _scored(self, message: oip.ModelInferRequest, call: Call) -> Answer:
        answer: Callable[[Any, Call], Awaitable[Any]] = self._methods["ModelInfer"][1]
        is_binary = binary_outputs(message)
        names = [output.name for output in message.outputs] or [""]
        if any(name != AVERAGE and not is_binary[name] for name in names):
            call.answer_bytes = MOST_NUMBERS * FLOAT_BYTES
        try:
            response = await answer(message, call)
        except LimitError as error:
            if call.answer_bytes is None or not error.of_answer:
                raise
            raise LimitError(f"{error}; as binary data, the answer may be larger; request binary_data") from None
        return await self._json.run(partial(infer_answer, message, response), response.ByteSize())


def _document(response: Message) -> Answer:
    return json_answer(document(response))


def _server(response: Message) -> Answer:
    fields = document(response)
    return json_answer(fields | {"extensions": [*fields["extensions"], "binary_tensor_data"]})


def _ready(response: Message) -> Answer:
    """Return the answer about a readiness. As the protocol requires, the status is 400 if it is false."""
    fields = document(response)
    return json_answer(fields, HTTPStatus.OK if fields["ready"] else HTTPStatus.BAD_REQUEST)


def _header_bytes(request: Request) -> int | None:
    """Return the size of the JSON in the body; None if the whole body is JSON. Raises OptionError."""
    value = request.headers.get(HEADER_LENGTH)
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 10):
        raise OptionError(f"{HEADER_LENGTH}: expected the size of the JSON in bytes, got {value[:40]!r}")
    return int(value)


async def _refuse(request: Request, error: Exception) -> Response:
    """Return the answer to a request with an unknown path, or with a method that the path does not have."""
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for this class)
    path = request.url.path[:80]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        message = f"method: expected {allowed}, got {request.method[:20]}"
        return refused(error.status_code, Reason.UNSUPPORTED, message, error.headers)
    message = f"path: expected a path of the Open Inference Protocol, such as /v2/models/NAME/infer, got {path!r}"
    return refused(error.status_code, Reason.NOT_FOUND, message, error.headers)


async def _report_bug(_: Request, __: Exception) -> Response:
    """Return the answer after an unexpected error in a path without a method, such as the page; uvicorn logs it."""
    message = "a bug in the server; its log has the details"
    return refused(HTTPStatus.INTERNAL_SERVER_ERROR, Reason.INTERNAL, message)
