"""The limits of requests, and the sizes of the parts into which admitted work is cut."""

from dataclasses import dataclass

from service import machine

MIB, GIB = 1 << 20, 1 << 30
MAX_TILE_BYTES = 4 * GIB
"""Most bytes of activations of a tile whose size follows from the memory of the machine."""


@dataclass(frozen=True)
class Limits:
    """Limits of a server, or of scoring in this process. A request beyond a limit is refused, except where noted."""

    image_pixels: int = 256_000_000
    """Pixels of an image in one message, or of a file that can only be decoded whole."""
    large_pixels: int = 1 << 40
    """Pixels of an image that is read from top to bottom: a tiled file or a stream of rows."""
    message_bytes: int = 64 * MIB
    """Bytes of one message in either direction."""
    plan_bytes: int = 8 << 30
    """Bytes of memory for one image beside the model, as planned."""
    waiting: int = 256
    """Number of requests that are admitted and not answered."""
    waiting_bytes: int = 1 << 30
    """Bytes of the messages of these requests together."""
    waiting_seconds: float = 900.0
    """Predicted compute of these requests together in seconds, without that of ScoreLarge."""
    held_bytes: int = 4 << 30
    """Bytes of pixels and scores of these requests together while they are scored, as planned."""
    client_share: float = 0.5
    """Share of each of these four limits, and of `streams`, `large` and `spool_bytes`, that one client may use, 0 to 1.

    The same share of the messages that are received at the same time, and of a client's part of them for a connection.
    """
    receive_seconds: float = 120.0
    """Seconds in which one message of a call must arrive."""
    streams: int = 64
    """Number of open calls of ScoreMany, ScoreLarge and ModelStreamInfer together; see also `messages`."""
    large: int = 4
    """Number of images of ScoreLarge that are scored concurrently; further images wait."""
    spool_bytes: int = 16 << 30
    """Bytes on disk of encoded files that arrive in parts, together."""
    idle_seconds: float = 60.0
    """Seconds that a client may take to send the next part of its image, or to take the next answer of a stream."""
    upload_seconds: float = 14_400.0
    """Seconds for which the server may wait for the parts of one image together."""
    upload_rate: float = 16.0 * 1024
    """Least rate in bytes per second at which the parts of an image arrive, after `idle_seconds` seconds of waiting."""

    @property
    def messages(self) -> int:
        """Number of messages that may arrive at the same time, and of open calls of ScoreMany and ModelStreamInfer.

        The message of such a call may arrive at any time, and gRPC holds it meanwhile.
        """
        return max(2, self.waiting_bytes // self.message_bytes)


@dataclass(frozen=True)
class Tuning:
    """Sizes of tiles and strips. Smaller parts need less memory and time each, and repeat more work at their edges."""

    tile_bytes: int = 2 * GIB
    """Bytes of activations of one tile. Larger tiles repeat less work in their halos."""
    tile_seconds: float | None = None
    """Seconds that one tile may run, as measured, unless more than half of it would be halo. None: no limit."""
    strip_bytes: int = 128 * MIB
    """Bytes of one strip of the image, and bytes of the scores of the rows of the grid that it gives."""
    prefetch: int = 2
    """Batches of one image that are submitted before the first result is taken, if their scores fit into `strip_bytes`;
    at least two: while one batch runs, the next one is cut from the image and the previous one is reduced."""

    @classmethod
    def of_memory(cls, share: float) -> "Tuning":
        """Return tiles that need a share of the memory of the machine or container, at most `MAX_TILE_BYTES`."""
        return cls(tile_bytes=min(MAX_TILE_BYTES, int(share * machine.memory_bytes()) // MIB * MIB))
