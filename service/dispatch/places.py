"""Places: a fixed number of things that may happen concurrently, given to clients in turn.

A client has at most `client_share` of all places, and a connection at most `client_share` of its client's places; each
has at least one. A call that finds no free place waits. A place that becomes free goes to the client with the fewest
places, and of this client to the connection with the fewest; among equals, first come, first served.

All methods are called on the event loop.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Self

from service.errors import BusyError

RETRY_SECONDS = 1.0
"""Delay in seconds after which a call may ask again if too many calls wait."""

Owner = tuple[tuple[str, ...], ...]
"""What a place counts for: everyone, `()`; a client, `("anna",)`; its connection, `("anna", "ipv4:10.0.0.7:51022")`."""


def owner_of(client: str, connection: str = "") -> Owner:
    """Return the owner for a client, or for a connection of a client."""
    return ((), (client,), (client, connection)) if connection else ((), (client,))


@dataclass(eq=False)
class Places:
    """`count` places. At most `queue` calls wait for a place, at most `client_share` of `queue` for one client."""

    count: int
    client_share: float
    queue: int
    _most: tuple[int, ...] = field(init=False)
    """Largest number of places for each part of an owner."""
    _held: dict[tuple[str, ...], int] = field(init=False, default_factory=dict)
    """Number of places of everyone, of each client, and of each connection."""
    _asking: dict[tuple[str, ...], int] = field(init=False, default_factory=dict)
    """Number of waiting calls of everyone, of each client, and of each connection."""
    _waiting: dict[Owner, "deque[asyncio.Future[None]]"] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Compute the largest numbers."""
        self._most = tuple(max(1, int(self.count * self.client_share**level)) for level in range(3))

    @property
    def held(self) -> int:
        """Number of places that are in use."""
        return self._held.get((), 0)

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a place."""
        return self._asking.get((), 0)

    async def take(self, owner: Owner) -> None:
        """Take a place, and wait for it if need be; raises BusyError if too many calls wait already."""
        if self.take_at_once(owner):
            return
        self._check_queue(owner)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        _count(self._asking, owner, 1)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(owner, turn)
            else:  # the place came in the same moment
                self.free(owner)
            raise

    def take_at_once(self, owner: Owner) -> bool:
        """Take a place if that is possible without waiting; returns whether it was."""
        has_room = owner not in self._waiting and self._has_room(owner)
        if has_room:
            _count(self._held, owner, 1)
        return has_room

    def free(self, owner: Owner) -> None:
        """Give a place back, and hand it to the call whose turn it is."""
        _count(self._held, owner, -1)
        if not self._waiting:
            return
        candidates = [each for each in self._waiting if self._has_room(each) and self._next_turn(each)]
        if candidates:
            chosen = min(candidates, key=lambda each: [self._held.get(part, 0) for part in each])
            turn = self._next_turn(chosen)
            assert turn is not None  # noqa: S101 (that made it a candidate)
            self._leave(chosen, turn)
            _count(self._held, chosen, 1)
            turn.set_result(None)

    def _next_turn(self, owner: Owner) -> "asyncio.Future[None] | None":
        """Return the first turn of a waiting owner. A cancelled call leaves the queue a moment after its turn."""
        return next((turn for turn in self._waiting[owner] if not turn.done()), None)

    def _has_room(self, owner: Owner) -> bool:
        held = self._held.get
        return all(held(part, 0) < most for part, most in zip(owner, self._most, strict=False))

    def _check_queue(self, owner: Owner) -> None:
        for part, share, whose in ((owner[0], 1.0, "all"), (owner[1], self.client_share, "your")):
            most = max(1, int(self.queue * share))
            if self._asking.get(part, 0) >= most:
                raise BusyError(
                    f"busy: expected at most {most} of {whose} requests to wait to be received, got more; retry later",
                    RETRY_SECONDS,
                )

    def _leave(self, owner: Owner, turn: "asyncio.Future[None]") -> None:
        """Remove a waiting call. The next turn of its owner comes after those of its equals."""
        turns = self._waiting.pop(owner)
        turns.remove(turn)
        if turns:
            self._waiting[owner] = turns
        _count(self._asking, owner, -1)


@dataclass(eq=False)
class Place:
    """One place of an owner, which may be given back and taken again. As a context manager, it is held by the block."""

    places: Places
    owner: Owner
    is_held: bool = False

    async def take(self) -> None:
        """Take the place unless it is held; see `Places.take`."""
        if not self.is_held:
            await self.places.take(self.owner)
            self.is_held = True

    def free(self) -> None:
        """Give the place back if it is held."""
        if self.is_held:
            self.is_held = False
            self.places.free(self.owner)

    async def __aenter__(self) -> Self:
        await self.take()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.free()


def _count(numbers: dict[tuple[str, ...], int], owner: Owner, more: int) -> None:
    for part in owner:
        number = numbers.get(part, 0) + more
        if number:
            numbers[part] = number
        else:
            del numbers[part]
