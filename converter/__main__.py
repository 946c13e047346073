"""The entry point of the command and of `python -m converter`. It handles signals even during imports and in C++."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from converter.supervision import supervise
from fullconv.common.interruption import Interruption
from fullconv.common.loading import begin_loading
from fullconv.common.temporary import remove_leftovers, temporary

COMMAND = "fullconv-convert"


def main() -> None:
    """Run the command."""
    interruption = Interruption(COMMAND)
    interruption.install()
    supervise(interruption)
    begin_loading()
    with _temporary_files_in_one_folder():
        from converter.cli import main as run  # noqa: PLC0415 (takes a second, in which a signal may come)

        run(silent=True)


@contextmanager
def _temporary_files_in_one_folder() -> Iterator[None]:
    """Let libraries, such as exporters, write temporary files into a folder that does not outlive this process."""
    with ExitStack() as made:
        with suppress(OSError):  # no directory for temporary files can be written; not every conversion needs one
            target = Path(tempfile.gettempdir()) / COMMAND
            remove_leftovers(target.parent)
            tempfile.tempdir = str(made.enter_context(temporary(target, partial(Path.mkdir, mode=0o700))))
        yield


if __name__ == "__main__":
    main()
