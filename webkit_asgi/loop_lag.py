"""LoopLag: how late the event loop is, measured by being late.

A timer that fires later than asked for has waited behind something that did not let go
of the loop: everybody else has waited too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 0.5


class LoopLag:
    """See the module. Belongs to one event loop.

    Args:
        record: told the lag in seconds, twice a second.
    """

    def __init__(self, record: Callable[[float], object]) -> None:
        self._record = record
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure. Idempotent; needs a running loop."""
        if self._timer is None:
            self._wait(asyncio.get_running_loop())

    def stop(self) -> None:
        """Measure no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not the loop's own time: it stands still while the loop is kept waiting.
        due_s = time.perf_counter() + INTERVAL_S
        self._timer = loop.call_later(INTERVAL_S, self._fired, loop, due_s)

    def _fired(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        self._record(max(0.0, time.perf_counter() - due_s))
        self._wait(loop)
