"""The entry point of the command `fullconv-score` and of `python -m fullconv`."""

from fullconv.common.loading import begin_loading


def main() -> None:
    """Run the command."""
    begin_loading()
    from fullconv.command.cli import main as run  # noqa: PLC0415 (after `begin_loading`)

    run()


if __name__ == "__main__":
    main()
