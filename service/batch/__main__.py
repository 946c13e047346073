"""The entry point of the command `fullconv-batch` and of `python -m service.batch`."""

from fullconv.common.loading import begin_loading


def main() -> None:
    """Run the command."""
    begin_loading()
    from service.batch.cli import main as run  # noqa: PLC0415 (after `begin_loading`)

    run()


if __name__ == "__main__":
    main()
