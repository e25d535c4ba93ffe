"""No wake-up is lost, and nobody is disturbed by another's end."""

from __future__ import annotations

import asyncio
from typing import Final

from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from tests.unit.core.stepping import SteppedLoop
from webkit_core.broadcast import Broadcast, Subscriber

INTERVAL_S: Final = 0.5


class Reader:
    """Follows a counter, as a stream follows the head of its log."""

    def __init__(self, model: BroadcastModel, cursor: int, *, handle: bool) -> None:
        self.model = model
        self.cursor = cursor
        self.looked = 0
        self.timed_out = 0
        self.cancelled = False
        self.deadline: asyncio.Timeout | None = None
        self.handle = handle
        self.subscriber: Subscriber | None = None

    async def run(self) -> None:
        if self.handle:
            self.subscriber = self.model.broadcast.subscriber()
        while True:
            self.looked += 1
            if self.cursor != self.model.head:
                self.cursor = self.model.head
                continue
            try:
                async with asyncio.timeout(None) as self.deadline:
                    if self.subscriber is None:
                        await self.model.broadcast.wait()
                    else:
                        await self.subscriber.wait()
            except TimeoutError:
                self.timed_out += 1
            finally:
                self.deadline = None

    def expire(self) -> None:
        """Let the deadline of the present wait pass now."""
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(self.model.loop.time() - 1)


class BroadcastModel(RuleBasedStateMachine):
    """Drives a loop of its own by hand, one turn at a time; no clock is read."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.head = 0
        self.readers: list[tuple[Reader, asyncio.Task[None]]] = []

    @initialize(interval_s=st.sampled_from([0.0, INTERVAL_S]))
    def begin(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.broadcast = Broadcast(interval_s)
        self.start(0, handle=False)

    def settle(self) -> None:
        """As many turns as the longest chain of callbacks here takes, and some."""
        self.loop.turn(8)
        # What was held back comes when its interval is over; then the next is free.
        for _ in range(2):
            self.loop.now_s += INTERVAL_S
            self.loop.turn(8)
        self.check()

    def live(self) -> list[Reader]:
        return [reader for reader, _ in self.readers if not reader.cancelled]

    def check(self) -> None:
        """Once nothing can run any more: all who live have seen all there is."""
        for reader, task in self.readers:
            if reader.cancelled:
                assert task.cancelled()
            else:
                assert not task.done()
                assert reader.cursor == self.head
        assert self.broadcast.waiting == len(self.live())
        assert self.loop.errors == []

    def looks(self) -> list[int]:
        return [reader.looked for reader, _ in self.readers]

    @rule(behind=st.integers(0, 3), handle=st.booleans())
    def start(self, behind: int, handle: bool) -> None:
        reader = Reader(self, max(0, self.head - behind), handle=handle)
        self.readers.append((reader, self.loop.create_task(reader.run())))

    @rule(times=st.integers(1, 3), turns=st.integers(0, 4))
    def publish(self, times: int, turns: int) -> None:
        """With some turns behind each, in which readers come back and wait again."""
        for _ in range(times):
            self.head += 1
            self.broadcast.publish()
            assert self.broadcast.waiting == 0 or self.interval_s
            self.loop.turn(turns)

    @rule(times=st.integers(2, 4))
    def publish_to_all_who_wait(self, times: int) -> None:
        """One after the other, each to readers that are back and wait again."""
        for _ in range(times):
            self.loop.turn(8)
            self.head += 1
            self.broadcast.publish()

    @rule()
    def wake_all(self) -> None:
        self.broadcast.wake()
        assert self.broadcast.waiting == 0

    @rule(passes=st.sampled_from([0.0, INTERVAL_S / 3, INTERVAL_S]))
    def go_on(self, passes: float) -> None:
        self.loop.now_s += passes
        self.loop.turn(2)

    @rule()
    def go_on_to_the_end(self) -> None:
        self.settle()

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.readers) - 1))
        reader, task = self.readers[position]
        reader.cancelled = True
        task.cancel()

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        reader, _ = data.draw(st.sampled_from(self.readers))
        if reader.subscriber is not None:
            reader.subscriber.wake()

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def time_out(self, data: st.DataObject) -> None:
        """A deadline that is already past fires in the loop's next turn."""
        self.loop.call_soon(data.draw(st.sampled_from(self.live())).expire)

    @rule(times=st.integers(1, 5))
    def publish_in_one_tick_wakes_each_once(self, times: int) -> None:
        self.settle()
        before = self.looks()
        for _ in range(times):
            self.head += 1
            self.broadcast.publish()
        self.settle()
        # It looks, takes what is new, looks again, and waits.
        expected = [
            looked + (0 if reader.cancelled else 2)
            for looked, (reader, _) in zip(before, self.readers, strict=True)
        ]
        assert self.looks() == expected

    @precondition(lambda self: self.live())
    @rule(data=st.data(), how=st.sampled_from(["wake", "time out", "cancel"]))
    def what_happens_to_one_happens_to_no_other(
        self, data: st.DataObject, how: str
    ) -> None:
        self.settle()
        chosen = data.draw(st.sampled_from(self.live()))
        before = self.looks()
        looks_again = 1
        if how == "cancel":
            looks_again = 0
            chosen.cancelled = True
            dict(self.readers)[chosen].cancel()
        elif how == "wake" and chosen.subscriber is not None:
            chosen.subscriber.wake()
        else:
            self.loop.call_soon(chosen.expire)
        timed_out = sum(reader.timed_out for reader, _ in self.readers)
        self.settle()
        expected = [
            looked + (looks_again if reader is chosen else 0)
            for looked, (reader, _) in zip(before, self.readers, strict=True)
        ]
        assert self.looks() == expected
        assert sum(reader.timed_out for reader, _ in self.readers) - timed_out <= 1

    def teardown(self) -> None:
        if not hasattr(self, "broadcast"):
            self.loop.close()
            return
        try:
            self.settle()
            for reader, task in self.readers:
                reader.cancelled = True
                task.cancel()
            self.settle()
            assert self.broadcast.waiting == 0
            self.broadcast.publish()
        finally:
            self.loop.close()


BroadcastModel.TestCase.settings = settings(stateful_step_count=30)
TestBroadcastModel = BroadcastModel.TestCase
