"""Engines for scoring without a server."""

from collections.abc import Callable

from service.engine.engine import InlineEngine


class Leaving(InlineEngine):
    """Runs tiles at once, until `gone` returns true: then the caller has left, and the run is cancelled."""

    def __init__(self, gone: Callable[[], bool]) -> None:
        self._gone = gone

    @property
    def cancelled(self) -> bool:
        """Whether the caller has left."""
        return self._gone()
