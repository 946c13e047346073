"""Why an image was not scored.

ScoringError
├── ImageError          this image cannot be used; another one may be
├── RequestError        no such model, version or class, or an option that cannot be used: true for every image
└── UnavailableError    no answer: the server cannot be reached, is busy, or failed
"""

from collections.abc import Mapping

from fullconv.common.reasons import Reason


class ScoringError(Exception):
    """Base of everything below."""


class ImageError(ScoringError):
    """This image cannot be used."""


class RequestError(ScoringError):
    """The model, version, classes or options cannot be used, whatever the image."""


class UnavailableError(ScoringError):
    """There is no answer, which says nothing of the image."""


KINDS: Mapping[str, type[ScoringError]] = {
    Reason.IMAGE_INVALID: ImageError,
    Reason.LIMIT_EXCEEDED: ImageError,
    Reason.NOT_FOUND: RequestError,
    Reason.OPTION_INVALID: RequestError,
    Reason.CAPABILITY_MISSING: RequestError,
    Reason.MODEL_INVALID: RequestError,
    Reason.MODEL_UNREADABLE: RequestError,
    Reason.UNSUPPORTED: RequestError,
    Reason.ACCESS_DENIED: RequestError,
}
"""What each reason is, here or on a server; the others say nothing of image or request."""
