from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.unit.core.stepping import SteppedLoop, settle
from webkit_core.broadcast import Broadcast, Subscriber


def waiter(subject: Broadcast | Subscriber) -> asyncio.Task[None]:
    return asyncio.ensure_future(subject.wait())


async def test_publish_wakes_everybody_who_waits() -> None:
    broadcast = Broadcast()
    tasks = [waiter(broadcast) for _ in range(10)]
    await settle()
    assert broadcast.waiting == 10

    broadcast.publish()
    assert broadcast.waiting == 0
    await settle()

    assert all(task.done() for task in tasks)


async def test_publish_with_nobody_waiting_is_not_remembered() -> None:
    broadcast = Broadcast()

    broadcast.publish()
    task = waiter(broadcast)
    await settle()

    assert not task.done()
    broadcast.publish()
    await task


async def test_publish_wakes_a_waiter_once_per_generation() -> None:
    broadcast = Broadcast()
    wakes = 0

    async def count() -> None:
        nonlocal wakes
        while True:
            await broadcast.wait()
            wakes += 1

    task = asyncio.ensure_future(count())
    await settle()

    for _ in range(5):
        broadcast.publish()
    await settle()

    assert wakes == 1
    task.cancel()
    await asyncio.wait([task])


async def test_cancelled_waiter_disturbs_nobody() -> None:
    broadcast = Broadcast()
    first, second, third = (waiter(broadcast) for _ in range(3))
    await settle()

    second.cancel()
    await settle()

    assert second.cancelled()
    assert broadcast.waiting == 2
    assert not first.done()
    assert not third.done()
    broadcast.publish()
    await asyncio.gather(first, third)


async def test_publish_between_cancel_and_its_arrival_raises_nothing() -> None:
    broadcast = Broadcast()
    cancelled, other = waiter(broadcast), waiter(broadcast)
    await settle()

    cancelled.cancel()
    broadcast.publish()
    await settle()

    assert cancelled.cancelled()
    assert other.done()
    assert not other.cancelled()


async def test_waiter_cancelled_after_the_publish_leaves_nothing_behind() -> None:
    broadcast = Broadcast()
    task = waiter(broadcast)
    await settle()

    broadcast.publish()
    task.cancel()
    await settle()

    assert task.cancelled()
    assert broadcast.waiting == 0


async def test_time_out_of_one_waiter_reaches_no_other() -> None:
    broadcast = Broadcast()
    other = waiter(broadcast)
    await settle()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await broadcast.wait()

    assert broadcast.waiting == 1
    assert not other.done()
    broadcast.publish()
    await other


async def test_waiter_that_comes_back_in_the_same_tick_waits_for_the_next() -> None:
    broadcast = Broadcast()
    first = waiter(broadcast)
    await settle()

    broadcast.publish()
    second = waiter(broadcast)
    await settle()

    assert first.done()
    assert not second.done()
    second.cancel()
    await asyncio.wait([second])


async def test_wake_reaches_one_subscriber_alone() -> None:
    broadcast = Broadcast()
    one, two = broadcast.subscriber(), broadcast.subscriber()
    tasks = [waiter(one), waiter(two)]
    await settle()

    one.wake()
    await settle()

    assert [task.done() for task in tasks] == [True, False]
    assert broadcast.waiting == 1
    broadcast.publish()
    await tasks[1]


async def test_wake_of_one_that_does_not_wait_is_not_remembered() -> None:
    broadcast = Broadcast()
    subscriber = broadcast.subscriber()

    subscriber.wake()
    task = waiter(subscriber)
    await settle()

    assert not task.done()
    subscriber.wake()
    await task


async def test_wake_twice_and_publish_in_one_tick_wake_once() -> None:
    broadcast = Broadcast()
    subscriber = broadcast.subscriber()
    task = waiter(subscriber)
    await settle()

    subscriber.wake()
    subscriber.wake()
    broadcast.publish()
    subscriber.wake()
    await task

    assert broadcast.waiting == 0


async def test_wake_of_a_cancelled_subscriber_raises_nothing() -> None:
    broadcast = Broadcast()
    subscriber = broadcast.subscriber()
    task = waiter(subscriber)
    await settle()

    task.cancel()
    subscriber.wake()
    await settle()

    assert task.cancelled()
    assert broadcast.waiting == 0


async def test_subscriber_waits_again_after_each_wake() -> None:
    broadcast = Broadcast()
    subscriber = broadcast.subscriber()

    for wake in (subscriber.wake, broadcast.publish, subscriber.wake):
        task = waiter(subscriber)
        await settle()
        assert not task.done()
        wake()
        await task

    assert broadcast.waiting == 0


async def test_generations_wake_only_those_who_wait_in_them() -> None:
    broadcast = Broadcast()
    order: list[str] = []

    async def named(name: str) -> None:
        await broadcast.wait()
        order.append(name)

    first = asyncio.ensure_future(named("first"))
    await settle()
    broadcast.publish()
    await settle()
    second = asyncio.ensure_future(named("second"))
    await settle()
    assert order == ["first"]

    broadcast.publish()
    await asyncio.gather(first, second)

    assert order == ["first", "second"]


# --- bundles: publishes that come faster than the interval


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    assert loop.errors == []
    loop.close()


class Counting:
    """Waits again and again, and counts how often it was woken."""

    def __init__(self, loop: SteppedLoop, broadcast: Broadcast) -> None:
        self.wakes = 0
        self.task = loop.create_task(self.run(broadcast))

    async def run(self, broadcast: Broadcast) -> None:
        while True:
            await broadcast.wait()
            self.wakes += 1


def finish(loop: SteppedLoop, *counters: Counting) -> None:
    for counter in counters:
        counter.task.cancel()
    loop.turn(3)


def test_publish_after_a_quiet_time_is_not_held_back(loop: SteppedLoop) -> None:
    broadcast = Broadcast(interval_s=10)
    counter = Counting(loop, broadcast)
    loop.turn(3)

    for wakes in (1, 2, 3):
        broadcast.publish()
        loop.turn(3)
        assert counter.wakes == wakes
        loop.now_s += 10

    finish(loop, counter)


def test_publishes_within_the_interval_wake_once_when_it_is_over(
    loop: SteppedLoop,
) -> None:
    broadcast = Broadcast(interval_s=10)
    one, other = Counting(loop, broadcast), Counting(loop, broadcast)
    loop.turn(3)
    broadcast.publish()
    loop.turn(3)

    for _ in range(9):
        loop.now_s += 1
        broadcast.publish()
        loop.turn(3)
    assert (one.wakes, other.wakes) == (1, 1)

    loop.now_s += 1
    loop.turn(3)
    assert (one.wakes, other.wakes) == (2, 2)
    finish(loop, one, other)


def test_publish_behind_a_bundle_waits_for_the_next_interval(
    loop: SteppedLoop,
) -> None:
    broadcast = Broadcast(interval_s=10)
    counter = Counting(loop, broadcast)
    loop.turn(3)
    broadcast.publish()
    loop.turn(3)
    broadcast.publish()
    loop.now_s = 10
    loop.turn(3)
    assert counter.wakes == 2

    loop.now_s = 11
    broadcast.publish()
    loop.turn(3)
    assert counter.wakes == 2

    loop.now_s = 20
    loop.turn(3)
    assert counter.wakes == 3
    finish(loop, counter)


def test_wake_of_all_does_not_wait_for_the_interval(loop: SteppedLoop) -> None:
    broadcast = Broadcast(interval_s=10)
    counter = Counting(loop, broadcast)
    loop.turn(3)
    broadcast.publish()
    loop.turn(3)
    broadcast.publish()

    broadcast.wake()
    loop.turn(3)
    assert counter.wakes == 2

    loop.now_s = 10
    loop.turn(3)
    assert counter.wakes == 2, "the bundle was woken already"
    finish(loop, counter)


def test_wake_of_all_ahead_of_time_holds_later_publishes_back_no_longer(
    loop: SteppedLoop,
) -> None:
    """However often that happens, the next bundle is at most an interval away."""
    broadcast = Broadcast(interval_s=10)
    counter = Counting(loop, broadcast)
    loop.turn(3)
    broadcast.publish()
    loop.turn(3)
    for _ in range(5):
        broadcast.publish()
        broadcast.wake()
        loop.turn(3)
    before = counter.wakes

    broadcast.publish()
    loop.now_s += 10
    loop.turn(3)

    assert counter.wakes == before + 1
    finish(loop, counter)


def test_wake_of_all_without_an_interval_wakes_who_waits(loop: SteppedLoop) -> None:
    broadcast = Broadcast()
    counter = Counting(loop, broadcast)
    loop.turn(3)

    broadcast.wake()
    loop.turn(3)

    assert counter.wakes == 1
    finish(loop, counter)


def test_bundle_whose_waiters_are_gone_wakes_nobody(loop: SteppedLoop) -> None:
    broadcast = Broadcast(interval_s=10)
    counter = Counting(loop, broadcast)
    loop.turn(3)
    broadcast.publish()
    loop.turn(3)
    broadcast.publish()

    finish(loop, counter)
    loop.now_s = 10
    loop.turn(3)

    assert counter.wakes == 1
    assert broadcast.waiting == 0


# --- waiting without a coroutine


async def test_armed_subscriber_is_resolved_by_the_next_publish() -> None:
    broadcast = Broadcast()
    subscriber = broadcast.subscriber()

    future = subscriber.arm()
    assert broadcast.waiting == 1
    broadcast.publish()

    assert future.done()
    assert broadcast.waiting == 0


async def test_disarmed_subscriber_leaves_nothing_behind() -> None:
    broadcast = Broadcast()
    subscriber = broadcast.subscriber()
    future = subscriber.arm()

    subscriber.disarm()
    subscriber.disarm()
    broadcast.publish()

    assert broadcast.waiting == 0
    assert not future.done()


async def test_disarm_of_a_published_wait_does_not_reach_the_next_generation() -> None:
    broadcast = Broadcast()
    one, other = broadcast.subscriber(), broadcast.subscriber()
    one.arm()
    broadcast.publish()
    waiting = other.arm()

    one.disarm()

    assert broadcast.waiting == 1
    broadcast.publish()
    assert waiting.done()
