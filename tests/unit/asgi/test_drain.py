from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import anyio
import pytest
from uvicorn import Config, Server as UvicornServer

from tests.unit.core.stepping import settle
from webkit_asgi.drain import SIGNALS, PatientServer, ShutdownSignal

from .driver import PATIENCE_S
from .patient_server import Uvicorn

each_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)


class Handler:
    """A server's handler."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bool]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.seen.append((number, frame is not None))


class Told:
    """What ``on_signal`` was told: whether the end is to come at once."""

    def __init__(self) -> None:
        self.at_once: list[bool] = []
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self._news = asyncio.Event()

    def __call__(self, at_once: bool) -> None:
        self.at_once.append(at_once)
        self.loops.add(asyncio.get_running_loop())
        self._news.set()

    async def times(self, count: int) -> list[bool]:
        with anyio.fail_after(PATIENCE_S):
            while len(self.at_once) < count:
                self._news.clear()
                await self._news.wait()
        return self.at_once


def nothing(at_once: bool) -> None:
    """What is done where the test is about something else."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[Handler]:
    """Stands where a server's handler would; what was there before comes back."""
    handler = Handler()
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    yield handler
    for number, previous in before.items():
        signal.signal(number, previous)


@pytest.fixture
def uvicorn(handler: Handler) -> Uvicorn:
    """Stands there instead of it."""
    server = Uvicorn()
    for number in SIGNALS:
        signal.signal(number, server.handle_exit)
    return server


def test_signals_are_those_that_end_a_server() -> None:
    assert set(SIGNALS) == {signal.SIGTERM, signal.SIGINT}


# --- a server that hears of the signal as it would have


@each_signal
async def test_signal_is_told_on_the_loop_and_then_the_server_hears_it(
    handler: Handler, number: signal.Signals
) -> None:
    """It does not wait, so the end has to come at once."""
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()

    signal.raise_signal(number)

    assert handler.seen == [(number, True)]
    assert (
        told.at_once == []
    )  # the loop's turn comes later: handlers do next to nothing
    assert await told.times(1) == [True]
    assert told.loops == {asyncio.get_running_loop()}
    shutdown.uninstall()


async def test_signal_is_told_each_time(handler: Handler) -> None:
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()

    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)

    assert await told.times(2) == [True, True]
    assert [number for number, _ in handler.seen] == [signal.SIGTERM, signal.SIGINT]
    shutdown.uninstall()


# --- a server that waits


def test_uvicorn_is_a_server_that_waits() -> None:
    """By what we ask of it: a flag each, and handlers that are its methods."""
    server = UvicornServer(Config("nothing:app"))

    assert isinstance(server, PatientServer)
    assert (server.should_exit, server.force_exit) == (False, False)
    assert getattr(server.handle_exit, "__self__", None) is server


@each_signal
async def test_first_signal_is_kept_from_a_server_that_waits(
    uvicorn: Uvicorn, number: signal.Signals
) -> None:
    """It goes on as before, while the sessions drain."""
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()

    signal.raise_signal(number)

    assert await told.times(1) == [False]
    assert told.loops == {asyncio.get_running_loop()}
    assert uvicorn.seen == []
    assert uvicorn.flags == (False, False)
    shutdown.uninstall()


@pytest.mark.parametrize("first", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("second", SIGNALS, ids=lambda n: n.name)
async def test_second_signal_ends_at_once_and_is_kept_from_the_server_too(
    uvicorn: Uvicorn, first: signal.Signals, second: signal.Signals
) -> None:
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()

    signal.raise_signal(first)
    signal.raise_signal(second)

    assert await told.times(2) == [False, True]
    assert uvicorn.seen == []
    shutdown.uninstall()


@each_signal
async def test_later_signals_are_the_servers_own(
    uvicorn: Uvicorn, number: signal.Signals
) -> None:
    """Whoever presses the key a third time wants it to end, whatever we think."""
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()

    for _ in range(4):
        signal.raise_signal(number)

    assert await told.times(4) == [False, True, True, True]
    assert uvicorn.seen == [number, number]
    shutdown.uninstall()


async def test_server_is_known_by_one_of_its_handlers(uvicorn: Uvicorn) -> None:
    """Somebody may have put a handler of their own before it, for one signal."""
    signal.signal(signal.SIGTERM, Handler())
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()

    signal.raise_signal(signal.SIGINT)

    assert await told.times(1) == [False]
    shutdown.release()
    assert uvicorn.should_exit
    shutdown.uninstall()


async def test_handler_of_something_without_those_flags_is_not_kept_waiting() -> None:
    class Other:
        should_exit = False

        def __init__(self) -> None:
            self.seen: list[int] = []

        def handle(self, number: int, frame: FrameType | None) -> None:
            self.seen.append(number)

    other = Other()
    signal.signal(signal.SIGTERM, other.handle)
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()

    signal.raise_signal(signal.SIGTERM)

    assert await told.times(1) == [True]
    assert other.seen == [signal.SIGTERM]
    shutdown.uninstall()


async def test_signals_are_counted_anew_after_uninstall(uvicorn: Uvicorn) -> None:
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)
    await told.times(1)
    shutdown.uninstall()

    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    assert await told.times(2) == [False, False]
    assert uvicorn.seen == []
    shutdown.uninstall()


# --- releasing


async def test_release_lets_the_server_go_by_its_flag(uvicorn: Uvicorn) -> None:
    """Its handler would have it end with the signal's exit code instead of 0."""
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    shutdown.release()

    assert uvicorn.flags == (True, False)
    assert uvicorn.seen == []
    shutdown.uninstall()


async def test_release_without_a_signal_does_nothing(uvicorn: Uvicorn) -> None:
    """Whoever drained the application did not end the server."""
    shutdown = ShutdownSignal(nothing)
    shutdown.release()
    shutdown.install()

    shutdown.release()

    assert uvicorn.flags == (False, False)
    shutdown.uninstall()


async def test_release_after_uninstall_does_nothing(uvicorn: Uvicorn) -> None:
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)
    shutdown.uninstall()

    shutdown.release()

    assert uvicorn.flags == (False, False)


async def test_release_of_a_server_that_did_not_wait_does_nothing(
    handler: Handler,
) -> None:
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    shutdown.release()

    assert handler.seen == [(signal.SIGTERM, True)]
    shutdown.uninstall()


async def test_release_lets_every_server_go(uvicorn: Uvicorn) -> None:
    other = Uvicorn()
    signal.signal(signal.SIGINT, other.handle_exit)
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    shutdown.release()

    assert (uvicorn.should_exit, other.should_exit) == (True, True)
    shutdown.uninstall()


# --- install and uninstall


@each_signal
async def test_uninstall_puts_the_handler_back(
    handler: Handler, number: signal.Signals
) -> None:
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    assert signal.getsignal(number) is not handler

    shutdown.uninstall()

    assert signal.getsignal(number) is handler
    shutdown.uninstall()
    assert signal.getsignal(number) is handler


async def test_uninstall_leaves_a_handler_that_came_later() -> None:
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    later = Handler()
    signal.signal(signal.SIGTERM, later)

    shutdown.uninstall()

    assert signal.getsignal(signal.SIGTERM) is later


def test_uninstall_without_install_changes_nothing(handler: Handler) -> None:
    ShutdownSignal(nothing).uninstall()

    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("previous", [signal.SIG_DFL, signal.SIG_IGN])
async def test_install_over_no_handler_changes_nothing(
    previous: signal.Handlers,
) -> None:
    """An application that is not served by anybody must not keep a process alive."""
    signal.signal(signal.SIGTERM, previous)
    shutdown = ShutdownSignal(nothing)

    shutdown.install()

    assert signal.getsignal(signal.SIGTERM) is previous
    shutdown.uninstall()


def test_install_in_another_thread_changes_nothing(handler: Handler) -> None:
    """Python lets the main thread alone set handlers; a server's thread still runs."""
    installed: list[ShutdownSignal] = []

    async def install() -> None:
        shutdown = ShutdownSignal(nothing)
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
        ShutdownSignal(nothing).install()

    assert signal.getsignal(signal.SIGTERM) is handler


async def test_install_after_uninstall_goes_before_the_next_server() -> None:
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()
    shutdown.uninstall()
    next_server = Handler()
    signal.signal(signal.SIGTERM, next_server)

    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    await told.times(1)
    assert next_server.seen == [(signal.SIGTERM, True)]
    shutdown.uninstall()
    assert signal.getsignal(signal.SIGTERM) is next_server


# --- insisting


async def test_insist_after_a_signal_is_a_second_sigint_to_the_server(
    handler: Handler,
) -> None:
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    shutdown.insist()

    assert [number for number, _ in handler.seen] == [signal.SIGTERM, signal.SIGINT]
    shutdown.uninstall()


async def test_insist_sets_the_flag_of_a_server_that_has_one(uvicorn: Uvicorn) -> None:
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)
    shutdown.release()

    shutdown.insist()

    assert uvicorn.flags == (True, True)
    assert uvicorn.seen == []
    shutdown.uninstall()


async def test_insist_by_a_flag_without_a_signal_does_nothing(uvicorn: Uvicorn) -> None:
    shutdown = ShutdownSignal(nothing)
    shutdown.install()

    shutdown.insist()

    assert uvicorn.flags == (False, False)
    shutdown.uninstall()


async def test_insist_without_a_signal_does_nothing(handler: Handler) -> None:
    """Whoever ended the application did not end the server."""
    shutdown = ShutdownSignal(nothing)
    shutdown.insist()
    shutdown.install()

    shutdown.insist()

    assert handler.seen == []
    shutdown.uninstall()


async def test_insist_after_uninstall_does_nothing(handler: Handler) -> None:
    """The timer that calls it outlives the application in a loop that goes on."""
    shutdown = ShutdownSignal(nothing)
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
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    signal.raise_signal(signal.SIGTERM)

    try:
        shutdown.insist()
    except KeyboardInterrupt:
        pytest.fail("interrupted")
    finally:
        shutdown.uninstall()

    assert handler.seen == [(signal.SIGTERM, True)]


# --- the server hears it when we are not there


def test_signal_after_the_loop_has_ended_reaches_a_server_that_waited(
    uvicorn: Uvicorn,
) -> None:
    """Nobody would ever let it go."""

    async def serve() -> None:
        ShutdownSignal(nothing).install()

    asyncio.run(serve())

    signal.raise_signal(signal.SIGTERM)

    assert uvicorn.seen == [signal.SIGTERM]


async def test_signal_after_uninstall_reaches_a_server_that_waits(
    uvicorn: Uvicorn,
) -> None:
    """Also by a handler of ours that somebody has kept."""
    told = Told()
    shutdown = ShutdownSignal(told)
    shutdown.install()
    ours: Any = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
    shutdown.uninstall()

    signal.raise_signal(signal.SIGTERM)

    await settle()
    assert uvicorn.seen == [signal.SIGTERM]
    assert told.at_once == []


def test_signal_after_the_loop_has_ended_still_reaches_the_server(
    handler: Handler,
) -> None:
    """A forced exit skips the lifespan's end, and with it ``uninstall``."""

    async def serve() -> None:
        ShutdownSignal(nothing).install()

    asyncio.run(serve())

    signal.raise_signal(signal.SIGTERM)

    assert handler.seen == [(signal.SIGTERM, True)]


async def test_signal_still_reaches_the_server_when_one_of_two_apps_has_ended(
    handler: Handler,
) -> None:
    told: list[str] = []
    first = ShutdownSignal(lambda at_once: told.append("first"))
    second = ShutdownSignal(lambda at_once: told.append("second"))
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
    shutdown = ShutdownSignal(nothing)
    shutdown.install()
    shutdown.install()

    signal.raise_signal(signal.SIGTERM)

    assert handler.seen == [(signal.SIGTERM, True)]
    shutdown.uninstall()
    assert signal.getsignal(signal.SIGTERM) is handler


# --- two applications in one process


def pair() -> tuple[ShutdownSignal, ShutdownSignal, Told, Told]:
    """Return what two applications have that were started one after the other."""
    told = Told(), Told()
    first, second = (ShutdownSignal(one) for one in told)
    first.install()
    second.install()
    return first, second, *told


@each_signal
async def test_both_of_two_applications_hear_of_the_signal_and_the_server_waits(
    uvicorn: Uvicorn, number: signal.Signals
) -> None:
    first, second, told_first, told_second = pair()

    signal.raise_signal(number)

    assert await told_first.times(1) == [False]
    assert await told_second.times(1) == [False]
    assert uvicorn.seen == []
    assert uvicorn.flags == (False, False)
    second.uninstall()
    first.uninstall()


async def test_second_signal_ends_both_of_two_applications_at_once(
    uvicorn: Uvicorn,
) -> None:
    first, second, told_first, told_second = pair()

    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)

    assert await told_first.times(2) == [False, True]
    assert await told_second.times(2) == [False, True]
    assert uvicorn.seen == []
    second.uninstall()
    first.uninstall()


async def test_later_signals_reach_the_server_of_two_applications_once_each(
    uvicorn: Uvicorn,
) -> None:
    first, second, told_first, told_second = pair()

    for _ in range(4):
        signal.raise_signal(signal.SIGTERM)

    assert await told_first.times(4) == [False, True, True, True]
    assert await told_second.times(4) == [False, True, True, True]
    assert uvicorn.seen == [signal.SIGTERM] * 2
    second.uninstall()
    first.uninstall()


@pytest.mark.parametrize("of_first", [True, False])
async def test_each_of_two_applications_reaches_the_server_through_the_other(
    uvicorn: Uvicorn, of_first: bool
) -> None:
    first, second, *_ = pair()
    signal.raise_signal(signal.SIGTERM)
    one = first if of_first else second

    one.release()
    assert uvicorn.flags == (True, False)
    one.insist()
    assert uvicorn.flags == (True, True)
    second.uninstall()
    first.uninstall()


async def test_server_that_does_not_wait_hears_of_the_signal_of_two_once(
    handler: Handler,
) -> None:
    first, second, told_first, told_second = pair()

    signal.raise_signal(signal.SIGTERM)

    assert await told_first.times(1) == [True]
    assert await told_second.times(1) == [True]
    assert handler.seen == [(signal.SIGTERM, True)]
    second.uninstall()
    first.uninstall()


async def test_two_applications_that_end_as_they_began_leave_the_servers_handler(
    uvicorn: Uvicorn,
) -> None:
    first, second, told_first, told_second = pair()

    second.uninstall()
    signal.raise_signal(signal.SIGTERM)

    assert await told_first.times(1) == [False]
    assert told_second.at_once == []
    first.uninstall()
    assert signal.getsignal(signal.SIGTERM) == uvicorn.handle_exit


async def test_application_that_ends_before_a_later_one_is_left_out(
    uvicorn: Uvicorn,
) -> None:
    """Its handler stands between the other's and the server's, and cannot be drawn."""
    first, second, told_first, told_second = pair()

    first.uninstall()
    signal.raise_signal(signal.SIGTERM)

    assert await told_second.times(1) == [False]
    assert uvicorn.seen == []
    assert told_first.at_once == []
    second.release()
    assert uvicorn.flags == (True, False)
    second.uninstall()
