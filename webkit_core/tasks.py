"""Tasks that go on when whoever asked for them is gone.

A set keeps them alive (the loop does not), and every exception is taken notice of, so
that none surfaces as "never retrieved" when nobody waits any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class OwnedTasks:
    """The tasks of one owner, named after it in the log."""

    __slots__ = (
        "_owner",
        "_tasks",
    )

    def __init__(self, owner: str) -> None:
        self._owner = owner
        # None before the first: an empty set takes 216 bytes of every session.
        self._tasks: set[asyncio.Task[Any]] | None = None

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run ``work`` in a task that is kept alive."""
        task = asyncio.get_running_loop().create_task(work)
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def cancel_all(self) -> None:
        """Cancel what still runs."""
        for task in self._tasks or ():
            task.cancel()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        if self._tasks is not None:
            self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waited has heard of it; this is for what nobody waited for.
            logger.debug("%s: %s", self._owner, error, exc_info=error)


def error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Return what a finished task raised, its cancellation included."""
    if task.cancelled():
        return asyncio.CancelledError("it was cancelled")
    return task.exception()


def text_of(error: BaseException) -> str:
    """Return what an error says, or at least what it is."""
    return str(error) or type(error).__name__


def is_being_cancelled() -> bool:
    """Return whether somebody cancels the current task, rather than what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
