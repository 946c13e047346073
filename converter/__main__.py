"""The entry point of the command and of `python -m converter`. It handles signals even during imports."""

from fullconv.common.interruption import Interruption


def main() -> None:
    """Run the command."""
    Interruption("fullconv-convert").install()
    from converter.cli import main as run  # noqa: PLC0415 (takes a second, in which a signal may come)

    run()


if __name__ == "__main__":
    main()
