"""Errors of scoring.

ScoringError
├── ImageError          this image cannot be used; other images may be
├── RequestError        the model, the version, a class or an option is invalid, for every image
└── UnavailableError    there is no answer: the server cannot be reached, is busy, or has failed
"""

from collections.abc import Mapping

from fullconv.common.reasons import Reason


class ScoringError(Exception):
    """Base class of all errors of scoring."""


class ImageError(ScoringError):
    """This image cannot be used."""


class RequestError(ScoringError):
    """The model, the version, the classes or the options are invalid, for every image."""


class UnavailableError(ScoringError):
    """There is no answer, for a reason that is neither in the image nor in the request."""


KINDS: Mapping[str, type[ScoringError]] = {
    Reason.IMAGE_INVALID: ImageError,
    Reason.LIMIT_EXCEEDED: ImageError,
    Reason.NOT_FOUND: RequestError,
    Reason.OPTION_INVALID: RequestError,
    Reason.MEDIA_TYPE_UNSUPPORTED: RequestError,
    Reason.CAPABILITY_MISSING: RequestError,
    Reason.MODEL_INVALID: RequestError,
    Reason.MODEL_UNREADABLE: RequestError,
    Reason.UNSUPPORTED: RequestError,
    Reason.ACCESS_DENIED: RequestError,
}
"""The error of each reason, in this process or on a server. Other reasons stand for UnavailableError."""
