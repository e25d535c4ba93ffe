"""Reaper: does its round again and again, and does not stumble for good.

Rule: a round that raised is logged, and the next one comes all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from .tasks import is_being_cancelled

logger = logging.getLogger(__name__)


class Reaper:
    """See the module. Belongs to one event loop.

    Args:
        interval_s: how long to rest between two rounds.
        reap: one round.
    """

    def __init__(
        self, interval_s: float, reap: Callable[[], Awaitable[object]]
    ) -> None:
        self._interval_s = interval_s
        self._reap = reap
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first round is one interval away. Idempotent."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._go_round())

    def stop(self) -> None:
        """Do no more rounds. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _go_round(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self._reap()
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                logger.exception("the reaper stumbled; it goes on")
            except Exception:
                logger.exception("the reaper stumbled; it goes on")
