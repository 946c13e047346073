"""The reason of each error, for gRPC and for scoring in this process, and its message in a form that can be sent."""

from fullconv.common.reasons import Reason
from fullconv.common.text import shortened_message
from service import errors

REASONS: dict[type[errors.ServiceError], Reason] = {
    errors.NotFoundError: Reason.NOT_FOUND,
    errors.ModelError: Reason.MODEL_INVALID,
    errors.UnreadableModelError: Reason.MODEL_UNREADABLE,
    errors.CapabilityError: Reason.CAPABILITY_MISSING,
    errors.OptionError: Reason.OPTION_INVALID,
    errors.MediaTypeError: Reason.MEDIA_TYPE_UNSUPPORTED,
    errors.ImageError: Reason.IMAGE_INVALID,
    errors.LimitError: Reason.LIMIT_EXCEEDED,
    errors.UnsupportedError: Reason.UNSUPPORTED,
    errors.LateError: Reason.DEADLINE_EXCEEDED,
    errors.IdleError: Reason.CLIENT_IDLE,
    errors.BusyError: Reason.BUSY,
    errors.ShortageError: Reason.SHORTAGE,
    errors.AccessError: Reason.ACCESS_DENIED,
    errors.DrainingError: Reason.DRAINING,
    errors.CancelledRunError: Reason.CANCELLED,
    errors.BugError: Reason.INTERNAL,
}


def reason_of(error: errors.ServiceError) -> Reason:
    """Return the reason of an error."""
    return REASONS[type(error)]


def message_of(error: errors.ServiceError) -> str:
    """Return an error's message as one printable line of bounded length; it may quote text from the request."""
    return shortened_message(str(error))
