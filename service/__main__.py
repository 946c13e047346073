"""The entry point of the command `fullconv-serve` and of `python -m service`."""

from fullconv.common.loading import begin_loading


def main() -> None:
    """Run the command."""
    begin_loading()
    from service.cli import main as run  # noqa: PLC0415 (after `begin_loading`)

    run()


if __name__ == "__main__":
    main()
