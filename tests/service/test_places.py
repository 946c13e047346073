"""Whose turn it is, without a server."""

import asyncio

import pytest

from service.dispatch.places import Owner, Place, Places, owner_of
from service.errors import BusyError

ANNA, BEN = owner_of("anna"), owner_of("ben")


async def asked(places: Places, *owners: Owner) -> list["asyncio.Task[None]"]:
    """Ask for places in this order; returns when each has a place or waits."""
    tasks = [asyncio.create_task(places.take(owner)) for owner in owners]
    await asyncio.sleep(0)
    return tasks


async def served(tasks: list["asyncio.Task[None]"]) -> list[int]:
    """The numbers of the tasks that have a place."""
    await asyncio.sleep(0)
    return [number for number, task in enumerate(tasks) if task.done()]


def test_a_client_has_its_share() -> None:
    """A client gets no more than its share of free places; other clients get the rest."""

    async def check() -> None:
        places = Places(4, 0.5, 100)
        tasks = await asked(places, ANNA, ANNA, ANNA, BEN)
        assert await served(tasks) == [0, 1, 3]
        places.free(ANNA)
        assert await served(tasks) == [0, 1, 2, 3]

    asyncio.run(check())


def test_a_connection_has_its_share_of_its_clients() -> None:
    """A connection gets no more than its share of the client's places; another connection of the client gets one."""

    async def check() -> None:
        places = Places(8, 0.5, 100)
        one, other = owner_of("anna", "one"), owner_of("anna", "other")
        tasks = await asked(places, one, one, one, other)
        assert await served(tasks) == [0, 1, 3]

    asyncio.run(check())


def test_places_go_round_by_client() -> None:
    """A place that becomes free goes to the client with the fewest, and within a client to the first that came."""

    async def check() -> None:
        places = Places(2, 1.0, 100)
        tasks = await asked(places, ANNA, ANNA, ANNA, ANNA, BEN)
        places.free(ANNA)
        assert await served(tasks) == [0, 1, 4]
        places.free(ANNA)
        assert await served(tasks) == [0, 1, 2, 4]

    asyncio.run(check())


def test_calls_that_leave_the_queue_take_no_place() -> None:
    """A place goes to the next call if the first is cancelled, also in the moment in which it becomes free."""

    async def check() -> None:
        places = Places(1, 1.0, 100)
        tasks = await asked(places, ANNA, ANNA, ANNA, ANNA)
        tasks[1].cancel()
        places.free(ANNA)
        tasks[2].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [False, True, True, False]
        places.free(ANNA)
        assert (places.held, places.waiting) == (0, 0)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("owners", "said"),
    [((ANNA,) * 4, "2 of your"), ((ANNA, ANNA, ANNA, BEN, BEN, owner_of("cleo")), "4 of all")],
    ids=["client", "all"],
)
def test_the_queue_is_bounded(owners: tuple[Owner, ...], said: str) -> None:
    """A call is refused if too many calls wait, of all clients or of its own."""

    async def check() -> None:
        places = Places(1, 0.5, 4)
        with pytest.raises(BusyError, match=said):
            await asyncio.gather(*(places.take(owner) for owner in owners))

    asyncio.run(check())


def test_a_place_is_given_back_once() -> None:
    """A place may be left and taken again within the block that holds it."""

    async def check() -> None:
        places = Places(1, 1.0, 100)
        async with Place(places, ANNA) as place:
            place.free()
            place.free()
            assert places.held == 0
            await place.take()
            await place.take()
            assert places.held == 1
        assert places.held == 0

    asyncio.run(check())
