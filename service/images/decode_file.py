"""The program of `DecoderProcess`: decodes one file and writes its samples to standard output, from top to bottom.

python -m service.images.decode_file NAME DESCRIPTOR PAGE FIRST_ROW MEMORY_BYTES
"""

import os
import sys
from pathlib import Path

from service import machine
from service.errors import ImageError
from service.images.decoder_process import UNREADABLE
from service.images.decoding import STEP_PIXELS
from service.images.encoded import open_file
from service.images.picture import PageSelection

FIRST_TO_END = "1000"
"""Largest score of Linux's out-of-memory killer."""


def main() -> None:
    """Decode the file of the command line; exit status UNREADABLE, with a message, if that is not possible."""
    name, (descriptor, page, first, memory) = sys.argv[1], map(int, sys.argv[2:])
    _limit(memory)
    try:
        _write_samples(name, descriptor, page, first)
    except ImageError as error:
        sys.stderr.write(str(error))
        sys.exit(UNREADABLE)
    except BrokenPipeError:  # nobody waits for the pixels
        os._exit(0)


def _limit(memory: int) -> None:
    machine.lower_priority()
    machine.limit_memory(memory)
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text(FIRST_TO_END, "ascii")


def _write_samples(name: str, descriptor: int, page: int, first: int) -> None:
    picture = open_file(Path(f"/proc/self/fd/{descriptor}"), PageSelection(page), name=name)
    rows = picture.open_samples(lambda: None)
    step = max(rows.block_rows, STEP_PIXELS // picture.width)
    for start in range(first, picture.height, step):
        samples = rows.read(start, min(start + step, picture.height))
        sys.stdout.buffer.write(samples.tobytes())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
