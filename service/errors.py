"""What can go wrong while scoring.

    ServiceError
    ├── NotFoundError      no such model, version or class
    ├── ModelError         a model's files cannot be served
    │   └── UnreadableModelError  they cannot be read now
    ├── CapabilityError    the model does not have this stride or mode
    ├── OptionError        an option's value cannot be used
    ├── ImageError         the image cannot be used
    │   └── LimitError     it, or the answer about it, is over a configured limit
    ├── UnsupportedError   this server does not do that
    ├── LateError          the time that the request gives is over
    ├── IdleError          the client does not go on
    ├── BusyError          too many requests are waiting
    ├── AccessError        no credentials, or wrong ones
    ├── DrainingError      shutting down
    ├── CancelledRunError  nobody waits for the answer any longer
    └── BugError           nobody foresaw this

Each message is one line: the field, what was expected, what was got, and the way out. None knows of gRPC.
"""


class ServiceError(Exception):
    """Base of everything below."""


class NotFoundError(ServiceError):
    """No such model, version or class."""


class ModelError(ServiceError):
    """A model's files are missing, damaged or not what the converter writes."""


class UnreadableModelError(ModelError):
    """A model's files cannot be read now, and may be later."""


class CapabilityError(ServiceError):
    """The model does not have the stride or mode that was asked for."""


class OptionError(ServiceError):
    """An option's value cannot be used, at all or with this model."""


class ImageError(ServiceError):
    """The image cannot be decoded, or does not fit the model."""


class LimitError(ImageError):
    """The image, or the answer about it, is over a configured limit."""


class UnsupportedError(ServiceError):
    """This server does not do that, at all or here."""


class LateError(ServiceError):
    """The time that the request gives is over."""


class IdleError(ServiceError):
    """The client neither sends nor takes."""


class BusyError(ServiceError):
    """Too many requests are waiting; worth another try after some seconds."""

    def __init__(self, message: str, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class AccessError(ServiceError):
    """There are no credentials, or they are wrong."""


class CancelledRunError(ServiceError):
    """Nobody waits for the answer any longer."""


class DrainingError(ServiceError):
    """The server is shutting down and takes no more requests."""


class BugError(ServiceError):
    """Nobody foresaw this; the details are in the log alone."""
