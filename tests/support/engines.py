"""Engines for runs without a server."""

from collections.abc import Callable

from service.engine.engine import InlineEngine


class Leaving(InlineEngine):
    """Runs tiles until `gone` says that nobody waits for them any longer."""

    def __init__(self, gone: Callable[[], bool]) -> None:
        self._gone = gone

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits."""
        return self._gone()
