"""Broadcast: wake everybody who waits, once per generation.

The waiters of one generation stand in one set. ``publish`` takes the set away, installs
an empty one and resolves what it took. So a publish costs nothing when nobody waits,
many publishes in one loop tick wake each waiter once, and a waiter that comes back
late simply finds that the log has grown.

Publishes that come faster than ``interval_s`` are bundled: the first wakes at once, the
next generation not before the interval is over. So a burst costs each subscriber a few
large sends instead of many small ones, and a lone event is never held back.

Rules:

1. A caller compares its cursor with the head and begins to wait without an ``await``
   in between; then no wake-up is lost.
2. Each waiter owns its future, so one waiter's cancellation or time-out never reaches
   another, and ``publish`` never raises.
3. A wake-up is a hint: the waiter looks again.

Invariant: after a publish, every future that was in the set is resolved, at once or by
the timer that is then set.

Why not ``asyncio.Condition``, a shared future or a swapped ``Event``: a Condition
re-acquires a lock per waiter; a shared future is cancelled for all when one waiter is,
unless it is shielded, which costs a future each anyway. Figures:
``bench/bench_broadcast.py``.
"""

from __future__ import annotations

import asyncio


class Broadcast:
    """The per-session condition. Belongs to one event loop.

    Args:
        interval_s: generations are woken no faster than this; 0 is at once, always.
    """

    __slots__ = ("_interval_s", "_loop", "_not_before_s", "_timer", "_waiters")

    def __init__(self, interval_s: float = 0.0) -> None:
        self._interval_s = interval_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._not_before_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def waiting(self) -> int:
        """How many tasks wait at this moment."""
        return len(self._waiters)

    def publish(self) -> None:
        """Wake everybody who waits now: at once, or when the interval is over."""
        if not self._waiters or self._timer is not None:
            return
        if self._interval_s and self._loop is not None:
            now_s = self._loop.time()
            if now_s < self._not_before_s:
                self._timer = self._loop.call_at(self._not_before_s, self.wake)
                return
            self._not_before_s = now_s + self._interval_s
        self._release()

    def wake(self) -> None:
        """Wake everybody who waits now, at once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._interval_s and self._loop is not None:
            self._not_before_s = self._loop.time() + self._interval_s
        self._release()

    def _release(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def subscriber(self) -> Subscriber:
        """Return a handle that can also be woken alone (a timer, a disconnect)."""
        # Asking for the running loop costs a system call: once, not once per event.
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return Subscriber(self, self._loop)

    async def wait(self) -> None:
        """Suspend until the next wake-up."""
        await self.subscriber().wait()


class Subscriber:
    """One waiter: woken by the broadcast, or by whoever holds this handle."""

    __slots__ = ("_broadcast", "_new_future", "_waiter")

    def __init__(self, broadcast: Broadcast, loop: asyncio.AbstractEventLoop) -> None:
        self._broadcast = broadcast
        self._new_future = loop.create_future
        self._waiter: asyncio.Future[None] | None = None

    def arm(self) -> asyncio.Future[None]:
        """Begin to wait; return the future to await.

        For the loop that delivers events, where a coroutine per event would show. The
        caller calls :meth:`disarm` when it is done with waiting for good.
        """
        self._waiter = waiter = self._new_future()
        self._broadcast._waiters.add(waiter)
        return waiter

    def disarm(self) -> None:
        """Leave nothing behind with the broadcast. Idempotent."""
        if self._waiter is not None:
            self._broadcast._waiters.discard(self._waiter)
            self._waiter = None

    async def wait(self) -> None:
        """Suspend until the broadcast's next wake-up, or :meth:`wake` of this."""
        waiter = self.arm()
        try:
            await waiter
        finally:
            self.disarm()

    def wake(self) -> None:
        """Wake this waiter alone; nothing happens when it does not wait."""
        waiter = self._waiter
        if waiter is not None:
            self.disarm()
            if not waiter.done():
                waiter.set_result(None)
