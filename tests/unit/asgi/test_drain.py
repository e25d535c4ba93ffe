from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import anyio
import pytest

from tests.unit.core.stepping import settle
from webkit_asgi.drain import SIGNALS, ShutdownSignal

from .driver import PATIENCE_S

each_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)


class Handler:
    """A server's handler."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bool]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.seen.append((number, frame is not None))


@pytest.fixture(autouse=True)
def handler() -> Iterator[Handler]:
    """Stands where a server's handler would; what was there before comes back."""
    handler = Handler()
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    yield handler
    for number, previous in before.items():
        signal.signal(number, previous)


async def soon(event: asyncio.Event) -> None:
    with anyio.fail_after(PATIENCE_S):
        await event.wait()


def test_signals_are_those_that_end_a_server() -> None:
    assert set(SIGNALS) == {signal.SIGTERM, signal.SIGINT}


@each_signal
async def test_signal_is_told_on_the_loop_and_then_the_server_hears_it(
    handler: Handler, number: signal.Signals
) -> None:
    told, threads = asyncio.Event(), []

    def on_signal() -> None:
        threads.append(asyncio.get_running_loop())
        told.set()

    shutdown = ShutdownSignal(on_signal)
    shutdown.install()

    signal.raise_signal(number)

    assert handler.seen == [(number, True)]
    assert not told.is_set()  # the loop's turn comes later: handlers do next to nothing
    await soon(told)
    assert threads == [asyncio.get_running_loop()]
    shutdown.uninstall()


async def test_signal_is_told_each_time(handler: Handler) -> None:
    told: list[None] = []
    twice = asyncio.Event()

    def on_signal() -> None:
        told.append(None)
        if len(told) == 2:
            twice.set()

    shutdown = ShutdownSignal(on_signal)
    shutdown.install()

    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)

    await soon(twice)
    assert [number for number, _ in handler.seen] == [signal.SIGTERM, signal.SIGINT]
    shutdown.uninstall()


@each_signal
async def test_uninstall_puts_the_handler_back(
    handler: Handler, number: signal.Signals
) -> None:
    shutdown = ShutdownSignal(lambda: None)
    shutdown.install()
    assert signal.getsignal(number) is not handler

    shutdown.uninstall()

    assert signal.getsignal(number) is handler
    shutdown.uninstall()
    assert signal.getsignal(number) is handler


async def test_uninstall_leaves_a_handler_that_came_later() -> None:
    shutdown = ShutdownSignal(lambda: None)
    shutdown.install()
    later = Handler()
    signal.signal(signal.SIGTERM, later)

    shutdown.uninstall()

    assert signal.getsignal(signal.SIGTERM) is later


def test_uninstall_without_install_changes_nothing(handler: Handler) -> None:
    ShutdownSignal(lambda: None).uninstall()

    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("previous", [signal.SIG_DFL, signal.SIG_IGN])
async def test_install_over_no_handler_changes_nothing(
    previous: signal.Handlers,
) -> None:
    """An application that is not served by anybody must not keep a process alive."""
    signal.signal(signal.SIGTERM, previous)
    shutdown = ShutdownSignal(lambda: None)

    shutdown.install()

    assert signal.getsignal(signal.SIGTERM) is previous
    shutdown.uninstall()


def test_install_in_another_thread_changes_nothing(handler: Handler) -> None:
    """Python lets the main thread alone set handlers; a server's thread still runs."""
    installed: list[ShutdownSignal] = []

    async def install() -> None:
        shutdown = ShutdownSignal(lambda: None)
        shutdown.install()
        shutdown.uninstall()
        installed.append(shutdown)

    thread = threading.Thread(target=lambda: asyncio.run(install()))
    thread.start()
    thread.join()

    assert len(installed) == 1
    assert signal.getsignal(signal.SIGTERM) is handler


def test_install_needs_a_running_loop(handler: Handler) -> None:
    with pytest.raises(RuntimeError):
        ShutdownSignal(lambda: None).install()

    assert signal.getsignal(signal.SIGTERM) is handler


async def test_install_after_uninstall_goes_before_the_next_server() -> None:
    told = asyncio.Event()
    shutdown = ShutdownSignal(told.set)
    shutdown.install()
    shutdown.uninstall()
    next_server = Handler()
    signal.signal(signal.SIGTERM, next_server)

    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    await soon(told)
    assert next_server.seen == [(signal.SIGTERM, True)]
    shutdown.uninstall()
    assert signal.getsignal(signal.SIGTERM) is next_server


# --- insisting


async def test_insist_after_a_signal_is_a_second_sigint_to_the_server(
    handler: Handler,
) -> None:
    shutdown = ShutdownSignal(lambda: None)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    shutdown.insist()

    assert [number for number, _ in handler.seen] == [signal.SIGTERM, signal.SIGINT]
    shutdown.uninstall()


async def test_insist_without_a_signal_does_nothing(handler: Handler) -> None:
    """Whoever ended the application did not end the server."""
    shutdown = ShutdownSignal(lambda: None)
    shutdown.insist()
    shutdown.install()

    shutdown.insist()

    assert handler.seen == []
    shutdown.uninstall()


async def test_insist_after_uninstall_does_nothing(handler: Handler) -> None:
    """The timer that calls it outlives the application in a loop that goes on."""
    shutdown = ShutdownSignal(lambda: None)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)
    shutdown.uninstall()

    shutdown.insist()

    assert handler.seen == [(signal.SIGTERM, True)]


@pytest.mark.parametrize(
    "sigint",
    [signal.default_int_handler, signal.SIG_IGN, signal.SIG_DFL],
    ids=["python's", "ignored", "none"],
)
async def test_insist_to_a_server_without_a_handler_of_sigint_does_nothing(
    handler: Handler, sigint: Any
) -> None:
    """Python's own would raise KeyboardInterrupt out of the loop."""
    signal.signal(signal.SIGINT, sigint)
    shutdown = ShutdownSignal(lambda: None)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    try:
        shutdown.insist()
    except KeyboardInterrupt:
        pytest.fail("interrupted")
    finally:
        shutdown.uninstall()

    assert handler.seen == [(signal.SIGTERM, True)]


# --- the previous handler always runs


def test_signal_after_the_loop_has_ended_still_reaches_the_server(
    handler: Handler,
) -> None:
    """A forced exit skips the lifespan's end, and with it ``uninstall``."""

    async def serve() -> None:
        ShutdownSignal(lambda: None).install()

    asyncio.run(serve())

    signal.raise_signal(signal.SIGTERM)

    assert handler.seen == [(signal.SIGTERM, True)]


async def test_signal_still_reaches_the_server_when_one_of_two_apps_has_ended(
    handler: Handler,
) -> None:
    told: list[str] = []
    first = ShutdownSignal(lambda: told.append("first"))
    second = ShutdownSignal(lambda: told.append("second"))
    first.install()
    second.install()
    first.uninstall()

    signal.raise_signal(signal.SIGTERM)
    assert handler.seen == [(signal.SIGTERM, True)]

    second.uninstall()
    signal.raise_signal(signal.SIGTERM)
    assert handler.seen == [(signal.SIGTERM, True)] * 2
    await settle()
    assert told == ["second"]


async def test_signal_reaches_the_server_once_when_installed_twice(
    handler: Handler,
) -> None:
    """An application that two servers of one process run is started twice."""
    shutdown = ShutdownSignal(lambda: None)
    shutdown.install()
    shutdown.install()

    signal.raise_signal(signal.SIGTERM)

    assert handler.seen == [(signal.SIGTERM, True)]
    shutdown.uninstall()
    assert signal.getsignal(signal.SIGTERM) is handler
