"""Why an image was not scored.

ScoringError
├── ImageError          this image cannot be used; another one may be
├── RequestError        no such model, version or class, or an option that cannot be used: true for every image
└── UnavailableError    no answer: the server cannot be reached, is busy, or failed
"""


class ScoringError(Exception):
    """Base of everything below."""


class ImageError(ScoringError):
    """This image cannot be used."""


class RequestError(ScoringError):
    """The model, version, classes or options cannot be used, whatever the image."""


class UnavailableError(ScoringError):
    """There is no answer, which says nothing of the image."""
