"""ShutdownSignal: hear of SIGTERM before the server stops listening to anybody.

A server waits for its open connections before it tells the application to shut down,
and streams stay open until the application ends them: without this, neither happens.
So at start-up the application puts a handler of its own before the server's: the
streams are ended first, then the server's handler runs as it would have.

Rules: only in the main thread, only where a handler is set that can be called; the
previous handler always runs, once per signal, also when ours has been uninstalled but
somebody who came later still calls it.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class ShutdownSignal:
    """See the module.

    Args:
        on_signal: called on the event loop, once per signal.
    """

    def __init__(self, on_signal: Callable[[], object]) -> None:
        self._on_signal = on_signal
        self._previous: dict[int, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard = False

    def install(self) -> None:
        """Put our handler before the server's. Needs a running loop. Idempotent."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            previous = signal.getsignal(number)
            if number not in self._previous and callable(previous):
                self._previous[number] = previous
                signal.signal(number, self._handle)

    def uninstall(self) -> None:
        """Put the server's handlers back where ours still stand. Idempotent."""
        self._loop = None
        self._heard = False
        for number, previous in tuple(self._previous.items()):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
                del self._previous[number]

    def insist(self) -> None:
        """Ask the server to go without waiting for anybody, if a signal ended it.

        A second SIGINT is how a person does that. Nothing happens once uninstalled, or
        where the server has no handler of its own for it.
        """
        handler = self._previous.get(signal.SIGINT, signal.default_int_handler)
        installed = self._loop is not None
        if installed and self._heard and handler is not signal.default_int_handler:
            handler(signal.SIGINT, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_signal)
        self._previous[number](number, frame)
