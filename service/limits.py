"""What a request may ask for, and how much memory it may take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server, or of scoring in this process."""

    image_pixels: int = 256_000_000
    """Of one image, in one message, or of a file that can only be decoded whole."""
    large_pixels: int = 1 << 40
    """Of one image that is read from top to bottom, as a tiled file or a stream."""
    message_bytes: int = 64 << 20
    idle_seconds: float = 60.0
    """That a client may take to send the next part of its image, or to take the next answer of a stream."""
    waiting: int = 256
    """Requests that are admitted and not finished."""
    waiting_bytes: int = 1 << 30
    """Their messages together."""
    waiting_seconds: float = 900.0
    """Their compute together, as predicted, but that of large images in parts."""
    held_bytes: int = 4 << 30
    """Their pixels and scores together, as planned, while they are scored."""
    client_share: float = 0.5
    """Of each of these that one client may have."""
    streams: int = 64
    """Calls of ScoreMany and ScoreLarge at once."""
    large: int = 2
    """Images that come in parts and are scored at once; others wait."""
    spool_bytes: int = 16 << 30
    """Encoded files that come in parts, together, on disk."""
    tile_bytes: int = 2 << 30
    """Activations of one tile. A larger tile computes less halo twice; a smaller one fits a smaller machine."""
    tile_seconds: float | None = None
    """That one tile may take, as measured, if its halo is not most of it; None: however long."""
    plan_bytes: int = 8 << 30
    """Memory that one image may take beside the model, as its plan says."""
    strip_bytes: int = 128 << 20
    """Pixels of one strip of the image, and scores of the rows of the grid that it gives: either."""
