"""The command, and `python -m converter`: a signal ends it in one line, also while it imports what it needs."""

import signal
import sys


def main() -> None:
    """Run the command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("fullconv-convert: interrupted"))
    from converter.cli import main as run  # noqa: PLC0415 (takes a second)

    run()


if __name__ == "__main__":
    main()
