"""The errors of scoring.

    ServiceError
    ├── NotFoundError      there is no such model, version, class or file
    ├── ModelError         a model's files cannot be served
    │   └── UnreadableModelError  they cannot be read now
    ├── CapabilityError    the model does not have the requested stride or mode
    ├── OptionError        the value of an option is invalid
    │   └── MediaTypeError  the type or the encoding of a body over HTTP is not supported
    ├── ImageError         the image cannot be used
    │   └── LimitError     the image, or its answer, exceeds a configured limit
    ├── UnsupportedError   this server does not support the call or parameter
    ├── LateError          the request's deadline has passed
    ├── IdleError          the client has stopped sending or receiving
    ├── BusyError          too many requests are waiting
    │   └── ShortageError  the server lacks memory, disk space, file descriptors or threads
    ├── AccessError        the credentials are missing or wrong
    ├── DrainingError      the server is shutting down
    ├── CancelledRunError  the request was cancelled
    └── BugError           an unexpected error

Each message is one line that names the field, the expected value, the actual value and the way out. The errors do not
depend on gRPC.
"""

RETRY_SECONDS = 1.0
"""Seconds after which a request is sent again that met a shortage."""


class ServiceError(Exception):
    """Base class of all errors of the service."""


class NotFoundError(ServiceError):
    """There is no such model, version, class or file."""


class ModelError(ServiceError):
    """A model's files are missing, damaged or not what the converter writes."""


class UnreadableModelError(ModelError):
    """A model's files cannot be read now; a later attempt may succeed."""


class CapabilityError(ServiceError):
    """The model does not have the requested stride or mode."""


class OptionError(ServiceError):
    """The value of an option is invalid, in general or for this model."""


class MediaTypeError(OptionError):
    """The type or the encoding of a body over HTTP is not supported."""


class ImageError(ServiceError):
    """The image cannot be decoded, or does not fit the model."""


class LimitError(ImageError):
    """The image, or its answer, exceeds a configured limit. `of_answer`: whether it is the answer."""

    def __init__(self, message: str, *, of_answer: bool = False) -> None:
        super().__init__(message)
        self.of_answer = of_answer


class UnsupportedError(ServiceError):
    """This server does not support the call or parameter, in general or on this port."""


class LateError(ServiceError):
    """The request's deadline has passed."""


class IdleError(ServiceError):
    """The client has stopped sending or receiving."""


class BusyError(ServiceError):
    """Too many requests are waiting; another attempt in `seconds` seconds may succeed."""

    def __init__(self, message: str, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class ShortageError(BusyError):
    """The server lacks `resource`, such as "memory" or "disk space"; another attempt may succeed."""

    def __init__(self, resource: str) -> None:
        super().__init__(f"server: expected {resource} for this request, got too little; retry later", RETRY_SECONDS)
        self.resource = resource


class AccessError(ServiceError):
    """The credentials are missing or wrong."""


class CancelledRunError(ServiceError):
    """The request was cancelled, so that nothing waits for its scores."""


class DrainingError(ServiceError):
    """The server is shutting down and accepts no more requests."""


class BugError(ServiceError):
    """An unexpected error; the details are in the log only."""
