"""The program of `fullconv-serve`: runs the server until a signal stops it, and ends the process."""

import asyncio
import os
from typing import NoReturn

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC reads it on import; its lines in the log would not be JSON

from fullconv.common.loading import end_loading
from service.engine.requested_backend import MissingBackendError
from service.log import log, log_to_stderr
from service.rpc.access import TokenFileError
from service.server.certificates import CertificateError
from service.server.server import serve
from service.server.shutdown import Signals
from service.settings import Settings

UNUSABLE = (
    FileNotFoundError, NotADirectoryError, PermissionError, TokenFileError, CertificateError, ImportError,
    MissingBackendError,
)  # fmt: skip
"""Errors of `run` for files and packages that the user has to correct."""


def run(settings: Settings) -> None:
    """Run the server; the process ends when it has stopped. Raises OSError, and the errors of `UNUSABLE`."""
    end_loading()
    settings.backend.backends()
    _check(settings)
    log_to_stderr()
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> NoReturn:
    """Serve until the server has stopped, or until a second signal stops it at once; then end the process.

    Does not wait for the process's threads: all requests are answered, but a thread may still be reading a model.
    """
    signals = Signals()
    serving, again = asyncio.create_task(serve(settings, signals)), asyncio.create_task(signals.again())
    await asyncio.wait({serving, again}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        log.info("stopped at once")
        os._exit(1)
    await serving
    os._exit(0)


def _check(settings: Settings) -> None:
    """Raise NotADirectoryError if a directory in the settings is missing or cannot be used."""
    if not settings.models.is_dir():
        raise NotADirectoryError(f"models: expected a directory, got {settings.models}")
    if settings.images is not None and not settings.images.is_dir():
        raise NotADirectoryError(f"images: expected a directory, got {settings.images}")
    if not settings.spool.is_dir() or not os.access(settings.spool, os.W_OK | os.X_OK):
        raise NotADirectoryError(f"spool: expected a writable directory, got {settings.spool}")
