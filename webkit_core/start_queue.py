"""StartQueue: so many sessions start at a time; the others wait for their turn.

Starting an agent takes a core for half a second: twenty at once take ten seconds, each
of them, and the first one could have been at work after one.

Rules: turns are given in order; a turn that is handed to somebody who has just given up
waiting goes on to the next; once closed, nobody gets one any more.

Invariant: every turn that was given is given back, or still held.
"""

from __future__ import annotations

import asyncio

from .errors import Draining, StartQueueTimeout


class StartQueue:
    """See the module. Belongs to one event loop.

    Args:
        at_once: how many turns there are.
        timeout_s: how long a turn is waited for.
    """

    def __init__(self, at_once: int, timeout_s: float) -> None:
        self._free = at_once
        self._timeout_s = timeout_s
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiters)

    async def enter(self) -> None:
        """Wait for a turn; whoever got one has to :meth:`leave`.

        Raises:
            StartQueueTimeout: none came in time.
            Draining: the queue is closed.
        """
        if self._closed:
            raise Draining
        if self._free:
            self._free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            async with asyncio.timeout(self._timeout_s):
                await waiter
        except TimeoutError:
            self._give_on(waiter)
            raise StartQueueTimeout(self._timeout_s) from None
        except asyncio.CancelledError:
            self._give_on(waiter)
            raise
        finally:
            self._waiters.pop(waiter, None)

    def leave(self) -> None:
        """Give a turn back: to the next one who waits, if anybody does."""
        # It counts as waiting until it takes its turn up: nobody slips in between.
        waiter = next((w for w in self._waiters if not w.done()), None)
        if waiter is None:
            self._free += 1
        else:
            waiter.set_result(None)

    def close(self) -> None:
        """Let nobody in any more; those who wait hear so. Idempotent."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(Draining())

    def _give_on(self, waiter: asyncio.Future[None]) -> None:
        """Give back a turn that came in the moment in which waiting ended."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.leave()
