"""The command `fullconv-serve`. The server is loaded when its settings are known, so that --help is quick."""

import sys

from fullconv import __version__
from service.settings import read_settings
from service.settings_file import ConfigurationError


def main() -> None:
    """Run the command. Exit status 2: an invalid setting; 3: files that cannot be used; 1: any other error."""
    if sys.argv[1:] == ["--version"]:
        print(f"fullconv-serve {__version__}")  # noqa: T201 (the requested output)
        return
    try:
        settings = read_settings(sys.argv[1:])
    except ConfigurationError as error:
        sys.exit(_print_error(error, 2))
    if settings.print_config:
        print(settings.text(), end="")  # noqa: T201 (the requested output)
        return
    from service.program import UNUSABLE, run

    try:
        run(settings)
    except UNUSABLE as error:
        sys.exit(_print_error(error, 3))
    except OSError as error:
        sys.exit(_print_error(error, 1))


def _print_error(error: Exception, status: int) -> int:
    """Print an error on standard error; returns the exit status."""
    print(f"fullconv-serve: {error}", file=sys.stderr)  # noqa: T201 (this is where it is printed)
    return status
