"""ShutdownSignal: hear of SIGTERM before the server does, and let it wait.

A server that is told to end closes its listeners and waits for its connections before
it says a word to the application; streams stay open until the application ends them,
and clients that come back find nobody. So at start-up the application puts a handler
of its own before the server's: the sessions drain first, with the server at work as
before, and only then the server is let go.

That needs a server that can be told later, which uvicorn can. Any other hears of the
signal as it would have, and the application ends its sessions at the same time; there,
``POST /admin/drain`` is how to drain first.

Rules: only in the main thread, only where a handler is set that can be called; the
first signal drains, the second ends at once, and those after that are the server's own.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Protocol, runtime_checkable

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_OURS: Final = 2
"""Signals that are kept from a server that waits for us."""


@runtime_checkable
class PatientServer(Protocol):
    """A server that ends when its flag is set: ``uvicorn.Server``."""

    should_exit: bool
    force_exit: bool


class ShutdownSignal:
    """See the module.

    Args:
        on_signal: called on the event loop, once per signal, with whether the end is
            to come at once: on the second signal, or when the server does not wait.
    """

    def __init__(self, on_signal: Callable[[bool], object]) -> None:
        self._on_signal = on_signal
        self._previous: dict[int, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard = 0

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
        self._heard = 0
        for number, previous in tuple(self._previous.items()):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
                del self._previous[number]

    def release(self) -> None:
        """Let a server go that a signal was kept from.

        By its flag and not by its handler: it would raise the signal once more when
        it is done, and end with the signal's exit code instead of 0.
        """
        if self._loop is not None and self._heard:
            for server in self._servers():
                server.should_exit = True

    def insist(self) -> None:
        """Ask the server to go without waiting for anybody, if a signal ended it.

        Nothing happens once uninstalled. A server that is not told by a flag hears a
        second SIGINT, which is how a person does that.
        """
        if self._loop is None or not self._heard:
            return
        handler = self._previous.get(signal.SIGINT, signal.default_int_handler)
        if servers := self._servers():
            for server in servers:
                server.force_exit = True
        elif handler is not signal.default_int_handler:
            handler(signal.SIGINT, None)

    def _servers(self) -> list[PatientServer]:
        """Return the servers whose handlers stood before ours."""
        servers = []
        for owner in map(_owner, self._previous.values()):
            if isinstance(owner, ShutdownSignal):  # another application's
                servers += owner._servers()
            elif isinstance(owner, PatientServer):
                servers.append(owner)
        return servers

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._heard += 1
        running = self._loop is not None and not self._loop.is_closed()
        waits = running and self._heard <= _OURS and bool(self._servers())
        if running:
            assert self._loop is not None
            at_once = not waits or self._heard > 1
            self._loop.call_soon_threadsafe(self._on_signal, at_once)
        previous = self._previous[number]
        if not waits:
            previous(number, frame)
        elif isinstance(earlier := _owner(previous), ShutdownSignal):
            earlier._hear_too(number)

    def _hear_too(self, number: int) -> None:
        """Hear a signal from a later application, which keeps it from the server."""
        if self._loop is not None and not self._loop.is_closed():
            self._heard += 1
            self._loop.call_soon_threadsafe(self._on_signal, self._heard > 1)
        if isinstance(earlier := _owner(self._previous.get(number)), ShutdownSignal):
            earlier._hear_too(number)


def _owner(handler: Any) -> object:
    """Return what a signal handler is a method of, if it is one."""
    return getattr(handler, "__self__", None)
