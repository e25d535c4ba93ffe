"""Broadcast: wake everybody who waits, once per generation.

Waiters of one generation stand in one set. ``publish`` takes the set away, installs
an empty one and resolves what it took. So a publish costs nothing when nobody waits,
many publishes in one loop tick wake each waiter once, and a waiter that comes back
late simply finds that the log has grown.

Rules:

1. A caller compares its cursor with the head and calls ``wait`` without an ``await``
   in between; then no wake-up is lost.
2. Each waiter owns its future, so one waiter's cancellation or time-out never reaches
   another, and ``publish`` never raises.
3. A wake-up is a hint: the waiter looks again.

Invariant: a future in the set belongs to a task that is suspended in ``wait``.

Why not ``asyncio.Condition``, a shared future or a swapped ``Event``: a Condition
re-acquires a lock per waiter; a shared future is cancelled for all when one waiter is,
unless it is shielded, which costs a future each anyway. Bench:
``bench/bench_broadcast.py``.
"""

from __future__ import annotations

import asyncio


class Broadcast:
    """The per-session condition. Belongs to one event loop."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def waiting(self) -> int:
        """How many tasks wait at this moment."""
        return len(self._waiters)

    def publish(self) -> None:
        """Wake everybody who waits now."""
        if self._waiters:
            waiters, self._waiters = self._waiters, set()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def subscriber(self) -> Subscriber:
        """Return a handle that can also be woken alone (a timer, a disconnect)."""
        return Subscriber(self)

    async def wait(self) -> None:
        """Suspend until the next ``publish``."""
        await Subscriber(self).wait()


class Subscriber:
    """One waiter: woken by the broadcast, or by whoever holds this handle."""

    __slots__ = ("_broadcast", "_waiter")

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Suspend until the next ``publish`` of the broadcast or ``wake`` of this."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        # The set is looked up again on the way out: publish may have replaced it.
        self._broadcast._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._broadcast._waiters.discard(waiter)
            self._waiter = None

    def wake(self) -> None:
        """Wake this waiter alone; nothing happens when it does not wait."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
