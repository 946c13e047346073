"""Decoding in a process of its own, for files that a library decodes whole in one call that cannot be interrupted.

The process is ended as soon as its request has ended or was cancelled. It may use little more memory than was planned,
and is the first that Linux ends when memory is short. It writes all samples of the image, from top to bottom, into a
pipe.
"""

import os
import selectors
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from weakref import finalize

import numpy as np

from service.errors import ImageError, ShortageError
from service.images.decoding import STEP_PIXELS, Decoding, DecodingCost, EncodedFile
from service.images.pixels import BandLayout, SampleArray

CHECK_SECONDS = 0.1
"""Time between two pauses while the process decodes."""
PIPE_BYTES = 1 << 20
MEMORY_BYTES, TIMES = 1 << 30, 2
"""Address space of the process beside that of its program: bytes for threads and rows, and a multiple of the decoder's
memory, since decoders reserve memory that they do not use."""
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""Variables of the process: numpy starts no threads, which would be more than a third of the cost of the start."""
UNREADABLE = 3
"""Exit status of the process for an image that cannot be decoded; its standard error has the message."""


class DecoderProcess:
    """Reads the samples of a file from a process; a `SampleReader`. The process starts with the first call."""

    block_rows = 16

    def __init__(
        self,
        name: str,
        file: EncodedFile,
        shape: tuple[int, int],
        layout: BandLayout,
        cost: DecodingCost,
        decoding: Decoding,
    ) -> None:
        self._name, self._file, self._cost, self._decoding = name, file, cost, decoding
        self._row = (shape[1], layout.bands)
        self._dtype = np.dtype(layout.dtype)
        self._next = 0
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as (rows, cols, bands); raises ImageError if they cannot be decoded."""
        if self._process is None:
            self._next = first
            self._process = self._start(first)
        step = max(1, STEP_PIXELS // self._row[0])
        for start in range(self._next, first, step):  # the process writes skipped rows too
            self._take(self._process, min(step, first - start))
        self._next = stop
        return self._take(self._process, stop - first)

    def _take(self, process: "subprocess.Popen[bytes]", rows: int) -> SampleArray:
        """Return the next rows that the process writes."""
        samples = np.empty((rows, *self._row), self._dtype)
        self._fill(process, samples.data.cast("B"))
        return samples

    def _start(self, first: int) -> "subprocess.Popen[bytes]":
        descriptor = _descriptor(self._file.content)
        limit = TIMES * self._cost.held_bytes + MEMORY_BYTES
        numbers = [descriptor, self._file.page, first, limit]
        try:
            process = subprocess.Popen(  # noqa: S603 (this program)
                [sys.executable, "-m", "service.images.decode_file", self._name, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(descriptor,),
                env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        finally:
            os.close(descriptor)
        finalize(self, _kill_and_close, process)
        self._decoding.at_end(partial(_kill, process))
        return process

    def _fill(self, process: "subprocess.Popen[bytes]", buffer: memoryview) -> None:
        """Read from the pipe until the buffer is full, and call `pause` often. On any error, end the process at once.

        The traceback of the error may keep this object alive, and the process would keep its memory.
        """
        try:
            self._read_into(process, buffer)
        except BaseException:
            _kill_and_close(process)
            raise

    def _read_into(self, process: "subprocess.Popen[bytes]", buffer: memoryview) -> None:
        assert process.stdout is not None  # noqa: S101 (it is a pipe)
        filled = 0
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while filled < len(buffer):
                self._decoding.pause()
                if not selector.select(CHECK_SECONDS):
                    continue
                count = os.readv(process.stdout.fileno(), [buffer[filled : filled + PIPE_BYTES]])
                if not count:
                    raise self._error(process)
                filled += count

    def _error(self, process: "subprocess.Popen[bytes]") -> Exception:
        """Return why the process has ended early."""
        _, message = process.communicate()
        if process.returncode == UNREADABLE:
            return ImageError(message.decode())
        if process.returncode == -signal.SIGKILL:
            return ShortageError("memory")
        return ImageError(
            f"{self._name}: its decoder ended with status {process.returncode}: the file is damaged, or takes more "
            "memory than its size explains"
        )


def _descriptor(content: bytes | Path) -> int:
    """Return a descriptor of the file, for the process to inherit."""
    if isinstance(content, Path):
        return os.open(content, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("image")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    return descriptor


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process and wait for it, so that its memory is free; another thread may be reading its pipes."""
    process.kill()
    process.wait()


def _kill_and_close(process: "subprocess.Popen[bytes]") -> None:
    """End a process, and close its pipes."""
    process.kill()
    process.communicate()
