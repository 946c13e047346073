"""Channels to servers, and the errors for gRPC statuses."""

import re
from collections.abc import Callable
from typing import Any

import grpc

from fullconv.common.text import shortened_message
from fullconv.errors import KINDS, ImageError, RequestError, ScoringError, UnavailableError
from fullconv.remote.addresses import addresses
from fullconv.remote.security import Security

LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|\[::1\]")
"""Names of this machine: no HTTP proxy reaches it, and no other machine can read the data that is sent."""
OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # the server's limits apply
    ("grpc.max_send_message_length", -1),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),  # for a name with several addresses
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5000),
]
HTTP = "Failed parsing HTTP/2"
"""Stands in gRPC's messages for a server that answers in another protocol."""
UNTRUSTED = {
    HTTP: "it does not speak gRPC",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not signed by a trusted authority, or has expired",
    "Hostname Verification Check failed": "its certificate is for another name",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
}
"""Phrases in gRPC's messages for failures that a retry would only repeat, and their explanations."""
HINTS = {
    **UNTRUSTED,
    "backends failing; last error: UNAVAILABLE": "a server with TLS closes connections without TLS; a server that "
    "requires client certificates closes connections whose certificate is missing, has expired or is not trusted",
}
"""Phrases in gRPC's messages, and their possible explanations."""
UNCONNECTED = re.compile(
    r"(connections to all backends failing|failed to connect to all addresses|errors resolving|DNS resolution failed)"
)
"""The beginning of gRPC's messages for a server to which there is no connection."""
CHECK_ADDRESS = "check the address"
CAUSES = {
    "resol": ("name unknown", f"{CHECK_ADDRESS} and the name service of this machine"),
    "refused": ("connection refused", f"start fullconv-serve there, or {CHECK_ADDRESS}"),
    "timed out": ("timed out", f"{CHECK_ADDRESS} and the firewalls, and whether another program listens there"),
    "unreachable": ("network unreachable", f"{CHECK_ADDRESS} and the network of this machine"),
    "No route to host": ("no route to the host", f"{CHECK_ADDRESS} and the network of this machine"),
}
"""Phrases in these messages; for each, the cause in words and the way out. The first that occurs is used."""
LATE = "Deadline Exceeded"
"""Stands in gRPC's messages for a call whose timeout has passed without an answer."""
CODES = {code.value[0]: code for code in grpc.StatusCode}
"""Statuses by their numbers."""


def open_channels(
    server: str, security: Security, insecure: Callable[..., Any], secure: Callable[..., Any]
) -> list[Any]:
    """Open a channel to each server, by `secure` if TLS is used and else by `insecure`.

    Raises RequestError for an invalid address, and for a token that would be sent to another machine without TLS.
    """
    opened = []
    for address in addresses(server):
        local = LOOPBACK.fullmatch(address.removeprefix("dns:///").rpartition(":")[0]) is not None
        options = [*OPTIONS, *([("grpc.enable_http_proxy", 0)] if local else [])]
        if security.encrypted:
            opened.append(secure(address, security.credentials(), options=options))
            continue
        if security.token is not None and not local:
            raise RequestError(
                f"token: expected TLS, got a connection to {address} on which others can read the token; use TLS"
            )
        opened.append(insecure(address, options=options))
    return opened


def error_of(server: str, code: grpc.StatusCode, details: str, reason: str = "") -> ScoringError:
    """Return the error for a status, with the server's message, made printable and cut if it is long.

    The reason determines the class of the error. For a status without a reason, from an older server, the code
    determines it.
    """
    hints = [f" ({hint})" for words, hint in HINTS.items() if words in details]
    details = shortened_message(details)
    if reason in KINDS:
        return KINDS[reason](details)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return ImageError(details)
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAUTHENTICATED):
        return RequestError(details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger" in details:
        return ImageError(
            f"image and mask: expected a message that {server} accepts, got a larger message: {details}; use "
            "score_large, or scale or cut the image; save a mask as PNG"
        )
    return UnavailableError(_unanswered(server, details) or f"{server}: {code.name}: {details}{''.join(hints)}")


def _unanswered(server: str, details: str) -> str:
    """Return the message for a server that gives no answer in gRPC; empty for failures whose details say more."""
    if HTTP in details:
        return f"server {server}: expected gRPC, got HTTP; give the port of --listen, not of --metrics or --viewer"
    if LATE in details:
        cause = ("timed out", f"allow more time with timeout, or {CHECK_ADDRESS}")
    elif UNCONNECTED.match(details):
        cause = next((cause for words, cause in CAUSES.items() if words in details), ("", ""))
    else:
        return ""
    names = server.split(",")
    who = f"server {server} does" if len(names) == 1 else f"servers {', '.join(names)} do"
    return f"{who} not answer ({cause[0]}); {cause[1]}" if cause[0] else ""
