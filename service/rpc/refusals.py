"""Delays the refusals of a client that sends refused requests at a high rate.

Receiving and refusing a message takes server time, which other clients then lack. If a client ignores the delay that a
refusal states and sends its next message at once, its refusals are delayed. Its other answers are not.
"""

import math
import time
from dataclasses import dataclass, field

import grpc

DELAYED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
}
"""Statuses of refusals that are counted: their cause is what the client sends, or how much it sends."""
FREE_PER_SECOND = 50.0
"""Refusals of a client in about a second that are not delayed."""
DELAY_EACH, MAX_DELAY = 0.01, 0.5
"""Seconds of delay for each refusal above that number, and the longest delay."""
KEPT_CLIENTS = 10_000
"""Largest number of clients whose counts are kept."""


@dataclass
class Refusals:
    """Counts the refusals of each client in about the last second."""

    _counts: dict[str, tuple[float, float]] = field(default_factory=dict)
    """For each client its count, which decays by a factor of e in a second, and the time of this count."""

    def delay(self, client: str, code: grpc.StatusCode) -> float:
        """Count a refusal; returns the seconds after which it should be sent."""
        if code not in DELAYED:
            return 0.0
        now = time.monotonic()
        count, at = self._counts.pop(client, (0.0, now))
        count = count * math.exp(at - now) + 1
        self._counts[client] = count, now
        if len(self._counts) > KEPT_CLIENTS:
            del self._counts[next(iter(self._counts))]  # the client whose last refusal is the oldest
        return min(MAX_DELAY, max(0.0, count - FREE_PER_SECOND) * DELAY_EACH)
