"""The time of a request by stage."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """The time of a request, in milliseconds for each stage."""

    decode_ms: float
    """Time to read and convert pixels."""
    queue_ms: float
    """Waiting for a thread and for the first batch."""
    compute_ms: float
    """Running the network, and waiting for further batches."""
    reduce_ms: float
    """Averaging, and selecting the scores of the answer."""
    total_ms: float
    """Time from the arrival of the request until the image is scored."""
