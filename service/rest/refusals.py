"""The HTTP status of each error, and its body: {"error": message, "reason": reason}.

The reasons are those in the statuses of gRPC.
"""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse, Response

from fullconv.common.reasons import Reason
from service.errors import BusyError, ServiceError
from service.reasons import message_of, reason_of
from service.rest.answers import JSON, Answer

STATUSES: dict[Reason, HTTPStatus] = {
    Reason.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.MODEL_INVALID: HTTPStatus.PRECONDITION_FAILED,
    Reason.MODEL_UNREADABLE: HTTPStatus.PRECONDITION_FAILED,
    Reason.CAPABILITY_MISSING: HTTPStatus.PRECONDITION_FAILED,
    Reason.OPTION_INVALID: HTTPStatus.BAD_REQUEST,
    Reason.MEDIA_TYPE_UNSUPPORTED: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Reason.IMAGE_INVALID: HTTPStatus.BAD_REQUEST,
    Reason.LIMIT_EXCEEDED: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.UNSUPPORTED: HTTPStatus.NOT_IMPLEMENTED,
    Reason.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Reason.CLIENT_IDLE: HTTPStatus.REQUEST_TIMEOUT,
    Reason.BUSY: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.SHORTAGE: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.ACCESS_DENIED: HTTPStatus.UNAUTHORIZED,
    Reason.DRAINING: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.CANCELLED: HTTPStatus.BAD_REQUEST,  # the client has closed the connection, and gets no answer
    Reason.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def refused(status: int, reason: Reason, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer to a request that no method of the protocol answers. Its status may be none of STATUSES."""
    return JSONResponse(_document(reason, message), status, headers)


def refusal(error: ServiceError) -> Answer:
    """Return the answer for an error. A refusal of a busy server says after how many seconds to retry."""
    reason = reason_of(error)
    headers = {"content-type": JSON}
    if isinstance(error, BusyError):
        headers["retry-after"] = str(max(1, math.ceil(error.seconds)))
    if reason is Reason.ACCESS_DENIED:
        headers["www-authenticate"] = "Bearer"
    body = json.dumps(_document(reason, message_of(error)))
    return Answer([body.encode()], headers, STATUSES[reason])


def _document(reason: Reason, message: str) -> dict[str, str]:
    return {"error": message, "reason": reason}
