"""The command `fullconv-serve`."""

import asyncio
import os
import sys
from typing import NoReturn

import typer

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC reads it as it is imported; its lines would be no JSON

from fullconv import __version__
from service.engine.session import check_provider
from service.log import log, log_to_stderr
from service.rpc.access import TokenFileError
from service.server.certificates import CertificateError
from service.server.server import serve
from service.server.shutdown import Signals
from service.settings import ConfigurationError, Settings, read_settings


def main() -> None:
    """Run the command: exit status 2 for a wrong setting, 3 for files that cannot be used, 1 for anything else."""
    if sys.argv[1:] == ["--version"]:
        typer.echo(f"fullconv-serve {__version__}")
        return
    try:
        settings = read_settings(sys.argv[1:])
    except ConfigurationError as error:
        sys.exit(_complain(str(error), 2))
    if settings.print_config:
        print(settings.text(), end="")  # noqa: T201 (what was asked for)
        return
    try:
        check_provider(settings.provider)
        _check(settings)
        log_to_stderr()
        asyncio.run(_serve(settings))
    except (FileNotFoundError, NotADirectoryError, PermissionError, TokenFileError, CertificateError) as error:
        sys.exit(_complain(str(error), 3))
    except ImportError as error:
        sys.exit(_complain(str(error), 3))
    except OSError as error:
        sys.exit(_complain(str(error), 1))


async def _serve(settings: Settings) -> NoReturn:
    """Serve until the server has stopped, or until a signal ends it at once.

    Ends the process without waiting for its threads: all requests are answered, and a thread may still read a model.
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
    """Raise an OSError for files and directories that are not as they must be."""
    if not settings.models.is_dir():
        raise NotADirectoryError(f"models: expected a directory, got {settings.models}")
    if settings.images is not None and not settings.images.is_dir():
        raise NotADirectoryError(f"images: expected a directory, got {settings.images}")
    if not settings.spool.is_dir() or not os.access(settings.spool, os.W_OK | os.X_OK):
        raise NotADirectoryError(f"spool: expected a directory that can be written, got {settings.spool}")


def _complain(message: str, status: int) -> int:
    typer.echo(f"fullconv-serve: {message}", err=True)
    return status
