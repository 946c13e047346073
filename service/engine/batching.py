"""How tiles are combined to batches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings import this module, and `fullconv-serve --help` needs no runtime
    from service.engine.session import Session

UNMEASURED_TILES = 32
"""Largest number of tiles in a batch for a session that was not measured."""


@dataclass(frozen=True)
class Batching:
    """Limits of a batch. A batch of one tile may exceed all of them."""

    max_tiles: int | None = None
    """None: the number with which the session computes fastest, or 32 if that was not measured."""
    delay_seconds: float = 0.0
    """Time for which a tile waits for further tiles of its key although a slot is free."""
    max_run_seconds: float = 0.5
    """Predicted run time of a batch."""
    max_activation_bytes: int = 2 << 30

    def most_tiles(self, session: "Session", shape: tuple[int, ...], seconds_per_tile: float, *, single: bool) -> int:
        """Return how many tiles of a shape (height, width, channels) fit into a batch, at least one.

        `seconds_per_tile` is the predicted run time in all threads; `single` batches compute in one thread.
        """
        if session.fixed_batch is not None:
            return session.fixed_batch
        height, width, _ = shape
        sizes, seconds = session.run_sizes, seconds_per_tile
        pixels = None if sizes is None else sizes.pixels
        if single and sizes is not None and sizes.single is not None:
            pixels, seconds = sizes.single.pixels, seconds_per_tile * sizes.single.most
        by_count: float = UNMEASURED_TILES if self.max_tiles is None else self.max_tiles
        if self.max_tiles is None and pixels is not None:
            by_count = pixels / (height * width)
        by_bytes = self.max_activation_bytes / (height * width * session.bytes_per_pixel)
        return max(1, int(min(by_count, by_bytes, self.max_run_seconds / seconds)))
