"""Refuses requests that the pages of other sites make a browser send.

A browser shows the page of another site no answer, because the answers have no CORS headers. But it sends requests,
and a name of that site may point to this machine (DNS rebinding). Therefore a request whose Origin is another host is
refused; if only this machine reaches the port, so is a request whose Host is another name than that of this machine.
Requests without an Origin, such as those for pictures, are refused if Sec-Fetch-Site names another site. A link on a
page of another site may open the viewer's page, which is the same for everybody, in a window of its own.
"""

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fullconv.common.reasons import Reason
from service.rest.refusals import refused
from service.setting_types import is_loopback

OTHER_SITES = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site, which browsers set and pages cannot change, for requests by pages of other origins."""


@dataclass(frozen=True)
class Guard:
    """Middleware. `is_local`: whether the port has a loopback address."""

    app: ASGIApp
    is_local: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or hand it on."""
        response = self._refusal(Headers(scope=scope), scope.get("path", ""))
        await (response or self.app)(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.is_local and not _is_local(host):
            return refused(
                HTTPStatus.MISDIRECTED_REQUEST,
                Reason.ACCESS_DENIED,
                f"host: expected localhost or a loopback address, got {host[:80]!r}; other names require a server "
                "whose --viewer is not a loopback address",
            )
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return _forbidden(f"origin: expected a page of {host[:80]!r}, got {origin[:80]!r}")
        is_visit = path == "/" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site") in OTHER_SITES and not is_visit:
            return _forbidden("sec-fetch-site: expected no request by a page of another site")
        return None


def _forbidden(message: str) -> Response:
    return refused(HTTPStatus.FORBIDDEN, Reason.ACCESS_DENIED, message)


def _is_local(host: str) -> bool:
    try:
        return is_loopback(f"{urlsplit(f'//{host}').hostname}:0")
    except ValueError:  # brackets without an address
        return False
