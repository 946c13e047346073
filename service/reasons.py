"""The reason of each error, which is the same here and on a server, and its message as others get it."""

from fullconv.common.reasons import Reason
from service import errors

REASONS: dict[type[errors.ServiceError], Reason] = {
    errors.NotFoundError: Reason.NOT_FOUND,
    errors.ModelError: Reason.MODEL_INVALID,
    errors.UnreadableModelError: Reason.MODEL_UNREADABLE,
    errors.CapabilityError: Reason.CAPABILITY_MISSING,
    errors.OptionError: Reason.OPTION_INVALID,
    errors.ImageError: Reason.IMAGE_INVALID,
    errors.LimitError: Reason.LIMIT_EXCEEDED,
    errors.UnsupportedError: Reason.UNSUPPORTED,
    errors.LateError: Reason.DEADLINE_EXCEEDED,
    errors.IdleError: Reason.CLIENT_IDLE,
    errors.BusyError: Reason.BUSY,
    errors.AccessError: Reason.ACCESS_DENIED,
    errors.DrainingError: Reason.DRAINING,
    errors.CancelledRunError: Reason.CANCELLED,
    errors.BugError: Reason.INTERNAL,
}
MESSAGE_LETTERS, MESSAGE_BYTES = 1000, 1500
"""Bounds of a message. A gRPC status holds it twice, once with up to three bytes for each letter that is not ASCII, and
gRPC refuses trailers of more than 8 KiB."""


def reason_of(error: errors.ServiceError) -> Reason:
    """Return the reason of an error."""
    return REASONS[type(error)]


def message_of(error: errors.ServiceError) -> str:
    """Return an error's message as one printable line of bounded length, since it may quote what a request holds."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(error))
    short = text[:MESSAGE_LETTERS].encode()[:MESSAGE_BYTES].decode(errors="ignore")
    return text if short == text else f"{short}…"
