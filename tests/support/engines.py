"""Engines for scoring without a server."""

from collections.abc import Callable

from service.engine.engine import InlineEngine


class CancellableEngine(InlineEngine):
    """Runs tiles when they are submitted, until `is_cancelled` returns true; then the run is cancelled."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._gone = is_cancelled

    @property
    def cancelled(self) -> bool:
        """Whether the run is cancelled."""
        return self._gone()
