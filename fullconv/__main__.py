"""The entry point of the command `fullconv-score` and of `python -m fullconv`."""

from fullconv.command.interrupting import interruption
from fullconv.common.loading import begin_loading


def main() -> None:
    """Run the command. Signals are handled before the command's modules are loaded, which takes a moment."""
    interruption.install()
    begin_loading()
    from fullconv.command.cli import main as run  # noqa: PLC0415 (after `begin_loading`)

    run()


if __name__ == "__main__":
    main()
