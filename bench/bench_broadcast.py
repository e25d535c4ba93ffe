"""Waking those who wait: ours, and what was tried instead.

Each bench wakes ``waiters`` tasks once and lets them wait again. The losers are kept
with their figures: a ``Condition`` takes its lock once per waiter; a shared future is
the cheapest by itself, but has to be shielded, since cancelling one waiter would cancel
it for all, and then costs more than a future each; a swapped ``Event`` makes a future
each too, and more around it.

The second group is a burst of a hundred publishes in as many turns of the loop: waking
per event against waking per interval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from webkit_core import Broadcast

WAITERS = [1, 10, 100, 1000]


class Wakes(Protocol):
    def waiter(self) -> Callable[[], Awaitable[None]]:
        """Return what one task calls again and again to wait."""

    async def publish(self) -> None: ...


class Ours:
    """A future per waiter, in a set per generation; no coroutine in between."""

    def __init__(self, interval_s: float = 0.0) -> None:
        self.broadcast = Broadcast(interval_s)

    def waiter(self) -> Callable[[], Awaitable[None]]:
        return self.broadcast.subscriber().arm

    async def publish(self) -> None:
        self.broadcast.publish()


class Conditions:
    """``asyncio.Condition.notify_all``."""

    def __init__(self) -> None:
        self.condition = asyncio.Condition()

    def waiter(self) -> Callable[[], Awaitable[None]]:
        return self.wait

    async def wait(self) -> None:
        async with self.condition:
            await self.condition.wait()

    async def publish(self) -> None:
        async with self.condition:
            self.condition.notify_all()


class SharedFuture:
    """One future per generation, shielded."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def waiter(self) -> Callable[[], Awaitable[None]]:
        return self.wait

    async def wait(self) -> None:
        await asyncio.shield(self.future)

    async def publish(self) -> None:
        future = self.future
        self.future = asyncio.get_running_loop().create_future()
        future.set_result(None)


class SwappedEvent:
    """One ``asyncio.Event`` per generation."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def waiter(self) -> Callable[[], Awaitable[None]]:
        return self.wait

    async def wait(self) -> None:
        await self.event.wait()

    async def publish(self) -> None:
        event, self.event = self.event, asyncio.Event()
        event.set()


@contextmanager
def loop_with(
    make: Callable[[], Any], waiters: int
) -> Iterator[tuple[asyncio.AbstractEventLoop, Any, list[int]]]:
    """A uvloop with tasks that wait, are woken, and wait again."""
    loop = uvloop.new_event_loop()
    woken = [0]

    async def set_up() -> Any:
        return make()

    wakes = loop.run_until_complete(set_up())

    async def wait_for_ever() -> None:
        wait = wakes.waiter()
        while True:
            await wait()
            woken[0] += 1

    tasks = [loop.create_task(wait_for_ever()) for _ in range(waiters)]
    loop.run_until_complete(asyncio.sleep(0))
    try:
        yield loop, wakes, woken
    finally:
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
        loop.close()


async def wake_once(wakes: Wakes, woken: list[int], waiters: int) -> None:
    goal = woken[0] + waiters
    await wakes.publish()
    while woken[0] < goal:
        await asyncio.sleep(0)


@pytest.mark.benchmark(group="wake all")
@pytest.mark.parametrize("waiters", WAITERS)
@pytest.mark.parametrize(
    "make",
    [Ours, SharedFuture, SwappedEvent, Conditions],
    ids=["ours", "shared future", "swapped event", "condition"],
)
def bench_wake(
    benchmark: BenchmarkFixture, make: Callable[[], Wakes], waiters: int
) -> None:
    """Wake everybody once."""
    with loop_with(make, waiters) as (loop, wakes, woken):
        benchmark(lambda: loop.run_until_complete(wake_once(wakes, woken, waiters)))


@pytest.mark.benchmark(group="burst of 100 publishes, 100 waiters")
@pytest.mark.parametrize("interval_ms", [0, 1, 2, 5])
def bench_burst(benchmark: BenchmarkFixture, interval_ms: int) -> None:
    """Publish in a hundred turns of the loop, as the pump does in a burst."""
    with loop_with(lambda: Ours(interval_ms / 1000), 100) as (loop, wakes, woken):

        async def burst() -> None:
            goal = woken[0] + 100
            for _ in range(100):
                await wakes.publish()
                await asyncio.sleep(0)
            while woken[0] < goal:
                await asyncio.sleep(0)

        benchmark(lambda: loop.run_until_complete(burst()))
        benchmark.extra_info["wake-ups per burst"] = woken[0]
