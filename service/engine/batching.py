"""How tiles are combined to batches."""

from dataclasses import dataclass


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
