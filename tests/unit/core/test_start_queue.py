from __future__ import annotations

import asyncio

import pytest

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.stepping import settle
from webkit_core import Draining, StartQueueTimeout
from webkit_core.start_queue import StartQueue


class Comers:
    """Tasks that want a turn, and who got one, in order."""

    def __init__(self, at_once: int, timeout_s: float = 60.0) -> None:
        self.queue = StartQueue(at_once, timeout_s)
        self.let_in: list[int] = []

    async def come(self, number: int) -> asyncio.Task[None]:
        async def enter() -> None:
            await self.queue.enter()
            self.let_in.append(number)

        task = asyncio.create_task(enter())
        await settle()
        return task


async def test_so_many_are_let_in_and_the_others_wait_in_order() -> None:
    comers = Comers(2)
    for number in range(5):
        await comers.come(number)
    assert (comers.let_in, comers.queue.waiting) == ([0, 1], 3)

    for _ in range(3):
        comers.queue.leave()
        await settle()

    assert (comers.let_in, comers.queue.waiting) == ([0, 1, 2, 3, 4], 0)


async def test_turn_that_is_given_back_is_there_for_the_next() -> None:
    comers = Comers(1)
    await comers.come(0)
    comers.queue.leave()

    await comers.come(1)
    await comers.come(2)

    assert comers.let_in == [0, 1]


async def test_waiter_counts_until_it_has_taken_its_turn_up() -> None:
    """Else there is a moment in which nobody counts it, and one too many gets in."""
    comers = Comers(1)
    await comers.come(0)
    await comers.come(1)

    comers.queue.leave()

    assert comers.queue.waiting == 1
    await settle()
    assert comers.queue.waiting == 0


def test_wait_ends_with_its_time() -> None:
    async def main() -> float:
        comers = Comers(1, timeout_s=7.0)
        await comers.come(0)
        late = await comers.come(1)
        await asyncio.wait({late})
        with pytest.raises(StartQueueTimeout, match="within 7 s"):
            late.result()
        assert comers.queue.waiting == 0
        comers.queue.leave()
        await comers.come(2)
        assert comers.let_in == [0, 2]
        return now_s()

    assert run_in_no_time(main()) == pytest.approx(7.0)


async def test_one_who_gives_up_waiting_costs_nobody_a_turn() -> None:
    comers = Comers(1)
    await comers.come(0)
    given_up, next_one = await comers.come(1), await comers.come(2)

    given_up.cancel()
    await settle()
    comers.queue.leave()
    await settle()

    assert given_up.cancelled()
    assert next_one.done()
    assert comers.let_in == [0, 2]


async def test_turn_that_comes_in_the_moment_of_giving_up_goes_on_to_the_next() -> None:
    comers = Comers(1)
    await comers.come(0)
    given_up = await comers.come(1)
    await comers.come(2)

    comers.queue.leave()
    given_up.cancel()
    await settle()

    assert given_up.cancelled()
    assert comers.let_in == [0, 2]


async def test_closed_queue_lets_nobody_in_and_tells_those_who_wait() -> None:
    comers = Comers(1)
    await comers.come(0)
    waiting = await comers.come(1)

    comers.queue.close()
    comers.queue.close()
    await settle()
    late = await comers.come(2)

    for task in (waiting, late):
        with pytest.raises(Draining):
            task.result()
    comers.queue.leave()
    assert (comers.let_in, comers.queue.waiting) == ([0], 0)


async def test_close_does_not_take_back_a_turn_that_was_given() -> None:
    comers = Comers(1)
    await comers.come(0)
    await comers.come(1)

    comers.queue.leave()
    comers.queue.close()
    await settle()

    assert comers.let_in == [0, 1]
