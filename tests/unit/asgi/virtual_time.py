"""An event loop that does not wait: when nothing else can run, its clock jumps.

So a test of what happens after a minute takes no time, and finds it happening at the
exact second. Nothing outside the loop (threads, sockets, processes) can be waited for.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _NoWait(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen again"
        self.now_s += max(timeout, 0.0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._no_wait = _NoWait()
        super().__init__(self._no_wait)

    def time(self) -> float:
        return self._no_wait.now_s


def run_in_no_time(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end; ``loop.time()`` starts at 0."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)


def now_s() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()
