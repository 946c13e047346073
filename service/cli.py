"""The command `fullconv-serve`: runs the server until a signal stops it."""

import asyncio
import os
import sys
from typing import NoReturn

import typer

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC reads it on import; its lines in the log would not be JSON

from fullconv import __version__
from service.log import log, log_to_stderr
from service.rpc.access import TokenFileError
from service.server.certificates import CertificateError
from service.server.server import serve
from service.server.shutdown import Signals
from service.settings import Settings, read_settings
from service.settings_file import ConfigurationError


def main() -> None:
    """Run the command. Exit status 2: an invalid setting; 3: files that cannot be used; 1: any other error."""
    if sys.argv[1:] == ["--version"]:
        typer.echo(f"fullconv-serve {__version__}")
        return
    try:
        settings = read_settings(sys.argv[1:])
    except ConfigurationError as error:
        sys.exit(_print_error(str(error), 2))
    if settings.print_config:
        print(settings.text(), end="")  # noqa: T201 (the requested output)
        return
    try:
        settings.backend.backends()
    except (ImportError, ValueError) as error:
        sys.exit(_print_error(str(error), 3))
    try:
        _check(settings)
        log_to_stderr()
        asyncio.run(_serve(settings))
    except (FileNotFoundError, NotADirectoryError, PermissionError, TokenFileError, CertificateError) as error:
        sys.exit(_print_error(str(error), 3))
    except ImportError as error:
        sys.exit(_print_error(str(error), 3))
    except OSError as error:
        sys.exit(_print_error(str(error), 1))


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


def _print_error(message: str, status: int) -> int:
    """Print an error on standard error; returns the exit status."""
    typer.echo(f"fullconv-serve: {message}", err=True)
    return status
