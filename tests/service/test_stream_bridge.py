"""Raw rows that arrive in parts of any size, without a server."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv.protos import scoring_pb2
from service.errors import ImageError
from service.rpc.stream_bridge import StreamedRows

WIDTH = 3


class Parts:
    """A source of parts, in place of a StreamBridge."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts

    def receive(self) -> bytes | None:
        """Return the next part."""
        return next(self._parts, None)


def streamed(height: int, parts: list[bytes]) -> StreamedRows:
    """Return rows of three grey pixels of uint16 that arrive in parts."""
    raw = scoring_pb2.RawImage(height=height, width=WIDTH, channels=1, dtype="uint16")
    return StreamedRows("i", raw, Parts(iter(parts)))  # type: ignore[arg-type]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=20),
)
def test_rows_are_those_that_were_sent(parts: list[int], spans: list[tuple[int, int]]) -> None:
    """Rows are read in order for all sizes of parts, and for all numbers of rows that are read or skipped at once."""
    height = sum(parts)
    pixels = np.arange(height * WIDTH, dtype="<u2").reshape(height, WIDTH, 1)
    stops = np.cumsum(parts)
    rows = streamed(height, [pixels[stop - size : stop].tobytes() for size, stop in zip(parts, stops, strict=True)])
    at = 0
    for over, taken in spans:
        first, stop = min(height, at + over), min(height, at + over + taken)
        np.testing.assert_array_equal(rows.read(first, stop), pixels[first:stop], strict=True)
        at = stop
    rows.finish()


def test_rows_of_one_part_are_not_copied() -> None:
    """Reading a large part row by row takes views of it, so that the time does not grow with the part's square."""
    part = np.arange(1000 * WIDTH, dtype="<u2").tobytes()
    rows = streamed(1000, [part])
    whole = np.frombuffer(part, np.uint8)
    assert all(np.shares_memory(rows.read(row, row + 1), whole) for row in range(1000))
    rows.finish()


def test_surplus_rows_are_an_error() -> None:
    """Rows after the last announced one are an error, wherever the part began."""
    rows = streamed(2, [bytes(2 * WIDTH * 2), bytes(2 * WIDTH)])
    rows.read(0, 2)
    with pytest.raises(ImageError, match="expected 2 rows, got more"):
        rows.finish()
    rows = streamed(2, [bytes(2 * WIDTH * 3)])
    rows.read(0, 1)
    with pytest.raises(ImageError, match="expected 2 rows, got more"):
        rows.finish()


def test_parts_that_end_too_early() -> None:
    """The error states the number of rows that arrived, including the rows of an incomplete read."""
    rows = streamed(9, [bytes(2 * WIDTH * 3), bytes(2 * WIDTH)])
    rows.read(0, 2)
    with pytest.raises(ImageError, match="expected 9 rows, got 4: the stream ended"):
        rows.read(2, 9)
