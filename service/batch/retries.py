"""Repeated tries of work whose failure may pass, such as a request that a bucket has refused for the moment."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from fullconv.common.files import OutputError
from fullconv.errors import ImageError, RequestError
from service.batch.stop import StoppedError

TRIES = 5
"""Number of tries of the same work."""
FIRST_SECONDS, GROWTH = 0.2, 4.0
"""The first wait in seconds, and the factor by which each further wait is longer."""
LASTING = (
    FileExistsError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
    TypeError,
    ImageError,
    OutputError,
    RequestError,
    StoppedError,
)
"""Errors that a further try would raise again. The backends of fsspec raise others of many kinds, which may pass."""
LASTING_NAMES = {
    "AuthenticationException",
    "BadHostKeyException",
    "ClientAuthenticationError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "ParamValidationError",
    "PartialCredentialsError",
    "PasswordRequiredException",
    "ProfileNotFound",
}
"""The names of such errors in libraries of the backends (botocore, google-auth, azure-core, paramiko), which are not
imported."""

Value = TypeVar("Value")


def is_lasting(error: Exception) -> bool:
    """Return whether a further try would raise this error again."""
    return isinstance(error, LASTING) or type(error).__name__ in LASTING_NAMES


def retry(work: Callable[[], Value], pause: Callable[[float], object] = time.sleep) -> Value:
    """Do work, and again after a wait while its error may pass; raises the last error.

    `pause` waits for a number of seconds, and may raise to stop.
    """
    seconds = FIRST_SECONDS
    for _ in range(TRIES - 1):
        try:
            return work()
        except Exception as error:  # the last try raises its error
            if is_lasting(error):
                raise
        pause(seconds * random.uniform(1.0, 1.3))  # noqa: S311 (no secret)
        seconds *= GROWTH
    return work()
