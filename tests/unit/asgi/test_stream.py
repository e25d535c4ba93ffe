from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
import time
import weakref
from typing import Any

import pytest

from tests.unit.core.collecting import Collecting
from tests.unit.core.stepping import settle
from webkit_asgi import stream as stream_module
from webkit_asgi.exchange import Exchange
from webkit_asgi.open_streams import OpenStreams
from webkit_asgi.stream import (
    HEADERS,
    RETRY_AFTER_DRAIN_MS,
    RETRY_MS,
    EventStream,
)
from webkit_asgi.types import Headers, Message, Receive, Scope, Send
from webkit_core import Limits, Session, SessionConfig, event_log, sse
from webkit_core.testing import ScriptedFactory

from .driver import Call, Tasks, no_more_tasks_than, running
from .virtual_time import now_s, run_in_no_time

MANY = 100
"""More streams than any test opens."""


class Watched(EventStream):
    """Can be weakly referenced: a timer that was left behind would keep it alive."""


class Stream(Call):
    """A subscriber of a log.

    Attributes:
        blocks_at: ``send`` of the message of that number waits for the gate.
        takes_s: how long each ``send`` takes.
        cancelling: how many cancellations the task counted when the stream returned.
    """

    def __init__(
        self,
        session: Session,
        cursor: int = 0,
        *,
        keepalive_s: float = 15.0,
        send_timeout_s: float = 60.0,
        headers: Headers | None = None,
        among: OpenStreams | None = None,
        expires_at_s: float | None = None,
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            stream = Watched(
                session,
                cursor,
                headers or [],
                keepalive_s=keepalive_s,
                send_timeout_s=send_timeout_s,
                among=among or OpenStreams(MANY),
                expires_at_s=expires_at_s,
            )
            self.watched.append(weakref.ref(stream))
            await stream.answer(Exchange(scope, receive, send))
            task = asyncio.current_task()
            self.cancelling = 0 if task is None else task.cancelling()

        super().__init__(app)
        self.watched: list[weakref.ref[Watched]] = []
        self.cancelling = -1
        self.blocks_at: int | None = None
        self.takes_s = 0.0

    async def _send(self, message: Message) -> None:
        if self.blocks_at == len(self.sent):
            self.gate.clear()
            self._news.set()
        if self.takes_s:
            await asyncio.sleep(self.takes_s)
        await super()._send(message)

    async def began(self) -> None:
        await self.until(lambda: len(self.sent) >= 2)

    async def kept_alive(self, times: int) -> None:
        await self.until(lambda: self.keepalives >= times)

    async def blocked(self) -> None:
        await self.until(lambda: not self.gate.is_set())

    async def got(self, *ids: int) -> Stream:
        await self.until(lambda: self.ids == list(ids))
        return self

    @property
    def keepalives(self) -> int:
        return self.bodies.count(sse.KEEPALIVE)


def filled(count: int, max_size: int = 1000, told: Collecting | None = None) -> Session:
    """Return a session of so many events; its agent is never started."""
    session = Session(
        SessionConfig(session_id="a-session"),
        ScriptedFactory(),
        limits=Limits(buffer_events=max_size),
        telemetry=None if told is None else told.telemetry,
    )
    add(session, count)
    return session


def add(session: Session, count: int) -> None:
    log = session.log
    for _ in range(count):
        log.append("note", {"n": log.last_seq + 1})


# --- begin


async def test_first_bytes_leave_at_once() -> None:
    """No event yet, and none will come for long: the client learns that it is in."""
    stream = Stream(filled(0), headers=[(b"x-subscriber-id", b"tab")]).start()

    await stream.began()
    await settle()

    assert len(stream.sent) == 2
    assert stream.status == 200
    assert stream.sent[0]["headers"] == [*HEADERS, (b"x-subscriber-id", b"tab")]
    assert stream.sent[1]["more_body"] is True
    assert stream.bodies[0].startswith(b"retry: ")
    assert stream.parsed[0].retry_ms is not None
    assert not stream.task.done()
    stream.leave()
    await stream.done()


async def test_headers_keep_proxies_from_buffering_and_packing() -> None:
    assert dict(HEADERS) == {
        b"content-type": b"text/event-stream; charset=utf-8",
        b"cache-control": b"no-cache, no-transform",
        b"x-accel-buffering": b"no",
    }


async def test_clients_of_one_server_reconnect_at_different_times() -> None:
    session = filled(0)
    session.log.close()
    delays = set()
    for _ in range(50):
        stream = await Stream(session).done()
        delays.add((stream.parsed[0].retry_ms or 0) // 500)

    # 50 draws over 8 slots that all are alike: as good as never
    assert len(delays) > 1
    assert all(RETRY_MS[0] <= delay * 500 <= RETRY_MS[1] for delay in delays)


# --- replay and live


async def test_replay_goes_over_into_live_without_a_seam() -> None:
    session = filled(3)
    stream = await Stream(session).start().got(1, 2, 3)

    add(session, 1)
    await stream.got(1, 2, 3, 4)
    add(session, 2)
    await stream.got(1, 2, 3, 4, 5, 6)
    session.log.close()
    await stream.done()

    assert [json.loads(event.data)["n"] for event in stream.events] == stream.ids
    assert {event.type for event in stream.events} == {"note"}


@pytest.mark.parametrize("cursor", [0, 1, 2, 3])
async def test_replay_is_what_comes_after_the_cursor(cursor: int) -> None:
    session = filled(3)
    session.log.close()

    stream = await Stream(session, cursor).done()

    assert stream.ids == [1, 2, 3][cursor:]


async def test_replay_is_one_send() -> None:
    stream = await Stream(filled(100), 50).start().got(*range(51, 101))

    assert len(stream.bodies) == 2
    stream.leave()
    await stream.done()


@pytest.mark.parametrize(("cursor", "kind"), [(1, memoryview), (4, object)])
async def test_body_stays_as_it_was_when_its_events_are_evicted(
    cursor: int, kind: type[Any]
) -> None:
    """A server may still hold it: transports write later. It is a view of the log's
    memory when it has several events."""
    session = filled(5, max_size=5)
    stream = await Stream(session, cursor).start().got(*range(cursor + 1, 6))
    body: Any = stream.sent[2]["body"]
    before = bytes(body)

    add(session, 5000)
    await stream.done()

    assert session.log.oldest_seq > 5000
    assert bytes(body) == before
    assert isinstance(body, kind)


async def test_replay_of_much_comes_in_pieces_and_in_order() -> None:
    session = filled(0, 5000)
    for _ in range(1000):
        session.log.append("note", {"text": "x" * 1000})
    session.log.close()

    stream = await Stream(session).done()

    assert stream.ids == list(range(1, 1001))
    assert 3 < len(stream.bodies) < 20


async def test_events_of_one_moment_are_one_send() -> None:
    session = filled(1)
    stream = await Stream(session).start().got(1)
    sends = len(stream.sent)

    add(session, 50)
    await stream.got(*range(1, 52))

    assert len(stream.sent) == sends + 1
    stream.leave()
    await stream.done()


async def test_events_that_come_while_the_client_is_slow_follow_in_order() -> None:
    session = filled(2)
    stream = Stream(session)
    stream.blocks_at = 2
    await stream.start().blocked()

    stream.blocks_at = None
    add(session, 3)
    stream.gate.set()
    await stream.got(1, 2, 3, 4, 5)
    session.log.close()
    await stream.done()


async def test_many_subscribers_each_have_their_own_cursor() -> None:
    session = filled(10)
    readers = [Stream(session, index % 11).start() for index in range(220)]
    for reader in readers:
        await reader.began()

    add(session, 5)
    for reader in readers[::2]:
        reader.leave()
    add(session, 5)
    session.log.close()
    await asyncio.gather(*(reader.done() for reader in readers))

    for index, reader in list(enumerate(readers))[1::2]:
        assert reader.ids == list(range(index % 11 + 1, 21))
        assert reader.complete


async def test_slow_subscriber_delays_nobody() -> None:
    session = filled(1)
    slow, fast = Stream(session), Stream(session)
    slow.blocks_at = 2
    await slow.start().blocked()
    await fast.start().got(1)

    add(session, 3)
    await fast.got(1, 2, 3, 4)

    assert slow.ids == []
    for stream in (slow, fast):
        stream.leave()
        await stream.done()


# --- the end


@pytest.mark.parametrize("count", [0, 3])
async def test_log_that_has_ended_is_replayed_and_the_stream_ends(count: int) -> None:
    session = filled(count)
    session.log.close()

    stream = await Stream(session).done()

    assert stream.ids == list(range(1, count + 1))
    assert stream.complete
    assert stream.sent[-1]["body"] == b""


async def test_log_that_ends_ends_the_stream_behind_its_last_event() -> None:
    session = filled(1)
    stream = await Stream(session).start().got(1)

    session.log.append("done", {})
    session.log.close()
    await stream.done()

    assert stream.events[-1].type == "done"
    assert stream.complete
    assert stream.bodies[-1] == b""


async def test_subscriber_that_fell_behind_is_told_and_the_stream_ends() -> None:
    session = filled(1, max_size=3)
    stream = await Stream(session).start().got(1)

    add(session, 5)
    await stream.done()

    frame = stream.bodies[-2]
    assert frame.startswith(b"event: error\ndata: ")
    assert frame.endswith(b"\n\n")
    assert b"id:" not in frame
    last = stream.events[-1]
    assert (last.type, last.last_event_id) == ("error", "1")
    data = json.loads(last.data)
    assert data.pop("message")
    assert data == {"code": "evicted", "oldest": 4, "last": 6}
    assert stream.complete
    assert len(stream.events) == 2


async def test_subscriber_that_fell_behind_at_the_first_send_is_told() -> None:
    session = filled(3, max_size=3)
    stream = Stream(session)
    stream.blocks_at = 0
    await stream.start().blocked()

    add(session, 1)
    stream.blocks_at = None
    stream.gate.set()
    await stream.done()

    assert [event.type for event in stream.events] == ["error"]


async def test_subscriber_whose_next_event_is_the_oldest_held_missed_nothing() -> None:
    session = filled(1, max_size=3)
    stream = await Stream(session).start().got(1)

    add(session, 3)
    await stream.got(1, 2, 3, 4)

    stream.leave()
    await stream.done()


# --- the client leaves


async def left_nothing_behind(stream: Stream, before: Tasks) -> bool:
    """Whether no task and no timer holds on to a stream that has ended."""
    task = stream.task
    assert task.done()
    if not task.cancelled() and (error := task.exception()) is not None:
        error.with_traceback(None)  # its frames hold on to everything
    gc.collect()
    (watched,) = stream.watched
    return watched() is None and await no_more_tasks_than(before)


async def test_client_that_leaves_while_nothing_happens_ends_the_stream() -> None:
    before = running()
    stream = await Stream(filled(1)).start().got(1)
    sends = len(stream.sent)

    stream.leave()
    await stream.done()

    assert len(stream.sent) == sends
    assert await left_nothing_behind(stream, before)


async def test_client_that_left_before_the_start_ends_the_stream() -> None:
    before = running()
    stream = Stream(filled(1))
    stream.leave()

    await stream.done()

    assert not stream.complete
    assert await left_nothing_behind(stream, before)


async def test_client_that_leaves_while_it_is_sent_to_ends_the_stream() -> None:
    before = running()
    session = filled(1)
    stream = Stream(session)
    stream.blocks_at = 2
    await stream.start().blocked()

    add(session, 5)
    stream.blocks_at = None
    stream.leave()
    await stream.done()

    assert stream.ids in ([], [1])
    assert not stream.complete
    assert await left_nothing_behind(stream, before)


async def test_client_that_sends_more_of_a_body_is_not_gone() -> None:
    session = filled(1)
    stream = await Stream(session).start().got(1)

    stream.feed(b"what a GET has no use for")
    add(session, 1)
    await stream.got(1, 2)

    stream.leave()
    await stream.done()


async def test_stream_that_ends_by_itself_leaves_nothing_behind() -> None:
    before = running()
    session = filled(1)
    session.log.close()

    stream = await Stream(session).done()

    assert await left_nothing_behind(stream, before)


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_send_that_fails_ends_the_stream_and_leaves_nothing(at: int) -> None:
    """As servers of ASGI 2.4 do when the client is gone."""
    before = running()

    class Broken(Stream):
        async def _send(self, message: Message) -> None:
            if len(self.sent) == at:
                raise OSError("connection lost")
            await super()._send(message)

    stream = Broken(filled(1))

    with pytest.raises(OSError, match="connection lost"):
        await stream.done()

    assert await left_nothing_behind(stream, before)


@pytest.mark.parametrize("blocks_at", [None, 0, 1, 2])
async def test_cancellation_is_raised_again_and_leaves_nothing(
    blocks_at: int | None,
) -> None:
    before = running()
    session = filled(1)
    stream = Stream(session)
    stream.blocks_at = blocks_at
    stream.start()
    if blocks_at is None:
        await stream.got(1)
    else:
        await stream.blocked()

    stream.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.done()

    assert not stream.complete
    assert session.log._broadcast.waiting == 0
    assert session.subscribers == 0
    assert await left_nothing_behind(stream, before)


# --- the server goes away


def leaving() -> OpenStreams:
    """The streams of a server that is going away."""
    among = OpenStreams(MANY)
    among.going_away = True
    return among


async def test_stream_of_a_server_that_goes_away_ends_with_a_later_retry() -> None:
    session = filled(2)
    session.log.close()

    stream = await Stream(session, among=leaving()).done()

    retry_ms = stream.parsed[0].retry_ms
    assert retry_ms is not None
    assert stream.bodies[-2:] == [sse.retry(retry_ms), b""]
    assert stream.ids == [1, 2]
    assert stream.complete


async def test_server_that_goes_away_after_the_stream_began_counts() -> None:
    session, among = filled(1), OpenStreams(MANY)
    stream = await Stream(session, among=among).start().got(1)

    among.going_away = True
    session.log.close()
    await stream.done()

    assert stream.body.count(b"retry: ") == 2


async def test_clients_of_a_server_that_goes_away_come_back_at_different_times() -> (
    None
):
    session = filled(0)
    session.log.close()
    delays = set()
    for _ in range(50):
        stream = await Stream(session, among=leaving()).done()
        delays.add(stream.parsed[0].retry_ms or 0)

    low, high = RETRY_AFTER_DRAIN_MS
    assert all(low <= delay <= high for delay in delays)
    # 50 draws of 13 slots that all are alike: as good as never
    assert len({delay // 1000 for delay in delays}) > 1
    assert RETRY_AFTER_DRAIN_MS > RETRY_MS


async def test_stream_of_a_server_that_stays_has_one_retry() -> None:
    session = filled(1)
    session.log.close()

    stream = await Stream(session).done()

    assert stream.body.count(b"retry: ") == 1


async def test_subscriber_that_fell_behind_is_told_of_the_servers_end_too() -> None:
    session = filled(1, max_size=3)
    stream = await Stream(session, among=leaving()).start().got(1)

    add(session, 5)
    await stream.done()

    assert stream.bodies[-3].startswith(b"event: error\n")
    assert stream.bodies[-2].startswith(b"retry: ")
    assert stream.complete


async def test_client_that_left_is_told_nothing_of_a_server_that_goes_away() -> None:
    stream = await Stream(filled(1), among=leaving()).start().got(1)
    sends = len(stream.sent)

    stream.leave()
    await stream.done()

    assert len(stream.sent) == sends


class Transport:
    """What a server's connection stands on, as far as a stream makes use of it."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self.sock = sock
        self.aborted = 0

    def get_extra_info(self, name: str) -> Any:
        return self.sock if name == "socket" else None

    def abort(self) -> None:
        self.aborted += 1


class Connected(Stream):
    """A subscriber over a server that lets us at its transport, as uvicorn does."""

    def __init__(self, session: Session, **rest: Any) -> None:
        super().__init__(session, **rest)
        self.transport = Transport()


async def test_clients_that_do_not_take_their_end_are_given_up_together() -> None:
    before = running()
    told, among = Collecting(), OpenStreams(MANY)
    session = filled(1, told=told)
    streams = [Connected(session, among=among) for _ in range(3)]
    for stream in streams:
        await stream.start().got(1)
        stream.gate.clear()
    session.log.close()
    await settle()

    among.give_up()
    for stream in streams:
        await stream.done()

    assert [stream.transport.aborted for stream in streams] == [1, 1, 1]
    assert [stream.cancelling for stream in streams] == [0, 0, 0]
    assert not any(stream.complete for stream in streams)
    assert session.subscribers == 0
    assert evicted(told) == {"fell_behind": 0, "took_nothing": 3}
    assert await no_more_tasks_than(before)


async def test_give_up_leaves_those_alone_that_have_ended() -> None:
    """Their requests may go on behind the stream: in a middleware, or a server."""
    session, among = filled(1), OpenStreams(MANY)
    session.log.close()
    stream = Connected(session, among=among)
    inner = stream._app
    cancelled: list[bool] = []

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)
        among.give_up()
        try:
            await settle()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    stream._app = middleware
    await stream.done()

    assert cancelled == []
    assert stream.complete
    assert stream.transport.aborted == 0


async def test_give_up_twice_is_once() -> None:
    session, among = filled(1), OpenStreams(MANY)
    stream = Connected(session, among=among)
    stream.blocks_at = 2
    await stream.start().blocked()

    among.give_up()
    among.give_up()
    await stream.done()

    assert stream.transport.aborted == 1
    assert stream.cancelling == 0


async def test_streams_of_another_server_go_on() -> None:
    session, among = filled(1), OpenStreams(MANY)
    stream = await Stream(session, among=among).start().got(1)

    OpenStreams(MANY).give_up()
    add(session, 1)

    await stream.got(1, 2)
    stream.leave()
    await stream.done()


async def test_client_that_takes_nothing_has_its_connection_dropped() -> None:
    """A graceful close would wait for it for ever."""
    stream = Connected(filled(1), keepalive_s=0.01, send_timeout_s=0.01)
    stream.blocks_at = 2

    await stream.done()

    assert stream.transport.aborted == 1


@pytest.mark.parametrize("end", ["log", "client"])
async def test_stream_that_ends_otherwise_leaves_its_connection(end: str) -> None:
    """The next request comes over it."""
    session = filled(1)
    stream = Connected(session)
    await stream.start().got(1)

    if end == "log":
        session.log.close()
    else:
        stream.leave()
    await stream.done()

    assert stream.transport.aborted == 0


async def test_stream_lets_the_kernel_give_up_a_peer_that_vanished() -> None:
    session = filled(1)
    session.log.close()
    with socket.socket(socket.AF_INET) as sock:
        stream = Connected(session, send_timeout_s=30)
        stream.transport.sock = sock

        await stream.done()

        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if (name := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
            assert sock.getsockopt(socket.IPPROTO_TCP, name) == 30_000


# --- what is counted


def evicted(told: Collecting) -> dict[Any, float]:
    return told.numbers("agent_webkit.subscribers.evicted", "reason")


def lags(told: Collecting) -> tuple[int, float]:
    """How often a lag was recorded, and their sum in seconds."""
    return told.times("agent_webkit.events.lag").get(None, (0, 0.0))


async def test_traffic_is_events_and_their_bytes_and_nothing_else() -> None:
    """Neither what keeps a stream alive nor what it begins with."""
    session = filled(3)
    stream = Stream(session, keepalive_s=0.01).start()
    await stream.kept_alive(1)
    add(session, 2)
    await stream.got(1, 2, 3, 4, 5)

    assert session.traffic.frames == 5
    assert session.traffic.bytes == session.log.held_bytes
    stream.leave()
    await stream.done()


async def test_traffic_of_all_subscribers_is_one_sum() -> None:
    session = filled(4)
    session.log.close()
    for cursor in (0, 1, 4):
        await Stream(session, cursor).done()

    assert session.traffic.frames == 4 + 3 + 0


async def test_traffic_that_was_not_taken_is_not_counted() -> None:
    session = filled(3)
    stream = Stream(session)
    stream.blocks_at = 2
    await stream.start().blocked()

    assert (session.traffic.frames, session.traffic.bytes) == (0, 0)
    stream.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.done()
    assert (session.traffic.frames, session.traffic.bytes) == (0, 0)


async def test_subscriber_that_fell_behind_is_counted() -> None:
    told = Collecting()
    session = filled(1, max_size=3, told=told)
    stream = await Stream(session).start().got(1)

    add(session, 5)
    await stream.done()

    assert evicted(told) == {"fell_behind": 1, "took_nothing": 0}


async def test_subscriber_that_took_nothing_is_counted_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Collecting()
    stream = Stream(filled(1, told=told), keepalive_s=0.01, send_timeout_s=0.01)
    stream.blocks_at = 2

    with caplog.at_level(logging.WARNING, "webkit_asgi"):
        await stream.done()

    assert evicted(told) == {"fell_behind": 0, "took_nothing": 1}
    (record,) = caplog.records
    assert vars(record)["session_id"] == "a-session"


@pytest.mark.parametrize("end", ["log", "client", "cancelled"])
async def test_subscriber_that_ended_otherwise_is_not_counted(end: str) -> None:
    told = Collecting()
    session = filled(1, told=told)
    stream = await Stream(session).start().got(1)

    if end == "log":
        session.log.close()
    elif end == "client":
        stream.leave()
    else:
        stream.task.cancel()
    await asyncio.wait({stream.task})

    assert evicted(told) == {"fell_behind": 0, "took_nothing": 0}


class LoopClock:
    """Stands where ``time`` is, for a loop whose clock jumps."""

    def perf_counter(self) -> float:
        return now_s()


@pytest.fixture
def loops_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "time", LoopClock())


TICK_S = 15.0 / 4
"""How often a stream is looked at when the keepalive is as by default."""


@pytest.mark.usefixtures("loops_clock")
def test_lag_is_from_the_append_to_the_end_of_the_send() -> None:
    async def main() -> None:
        told = Collecting()
        session = filled(0, told=told)
        stream = Stream(session).start()
        await asyncio.sleep(TICK_S * 1.5)
        stream.takes_s = 2.0

        add(session, 1)
        await asyncio.sleep(2.5)

        count, total_s = lags(told)
        assert count == 1
        assert total_s == pytest.approx(2.0)
        stream.leave()
        await stream.done()

    run_in_no_time(main())


@pytest.mark.usefixtures("loops_clock")
def test_lag_is_of_one_event_from_one_tick_to_the_next() -> None:
    """So that it costs an event nothing."""

    async def main() -> None:
        told = Collecting()
        session = filled(3, told=told)
        stream = Stream(session).start()
        await asyncio.sleep(TICK_S / 2)
        add(session, 1)
        await settle()
        assert lags(told)[0] == 0  # nobody has looked at the clock yet

        for ticks in range(1, 4):
            await asyncio.sleep(TICK_S)
            for _ in range(20):
                add(session, 1)
                await settle()
            assert lags(told)[0] == ticks
        assert lags(told)[1] == pytest.approx(0)
        stream.leave()
        await stream.done()

    run_in_no_time(main())


@pytest.mark.usefixtures("loops_clock")
def test_lag_of_an_event_that_leaves_among_others_counts() -> None:
    """A subscriber that is behind gets everything it missed in one send."""

    async def main() -> None:
        told = Collecting()
        session = filled(0, told=told)
        stream = Stream(session).start()
        await asyncio.sleep(TICK_S * 1.5)

        add(session, 50)
        await stream.got(*range(1, 51))

        assert lags(told)[0] == 1
        stream.leave()
        await stream.done()

    run_in_no_time(main())


@pytest.mark.usefixtures("loops_clock")
def test_lag_is_that_of_each_subscriber() -> None:
    async def main() -> None:
        told = Collecting()
        session = filled(0, told=told)
        slow, fast = Stream(session), Stream(session)
        for stream in (slow, fast):
            stream.start()
        await asyncio.sleep(TICK_S * 1.5)
        slow.takes_s = 3.0

        add(session, 1)
        await asyncio.sleep(3.5)

        count, total_s = lags(told)
        assert count == 2
        assert total_s == pytest.approx(3.0)
        for stream in (slow, fast):
            stream.leave()
            await stream.done()

    run_in_no_time(main())


def test_lag_of_a_quiet_stream_is_none() -> None:
    async def main() -> None:
        told = Collecting()
        session = filled(2, told=told)
        stream = Stream(session).start()
        await asyncio.sleep(TICK_S * 20)
        session.log.close()
        await stream.done()

        assert lags(told) == (0, 0.0)

    run_in_no_time(main())


# --- keepalive: on the real loops, then to the second


async def test_quiet_stream_is_kept_alive() -> None:
    session = filled(1)
    stream = Stream(session, keepalive_s=0.01).start()

    await stream.kept_alive(3)

    add(session, 1)
    await stream.got(1, 2)
    assert stream.parsed[0].comments[0] == " keepalive"
    stream.leave()
    await stream.done()


@pytest.mark.parametrize("keepalive_s", [0.1, 15.0, 50.0])
def test_keepalive_comes_before_a_stream_was_quiet_for_too_long(
    keepalive_s: float,
) -> None:
    """A proxy counts from the last byte, to the second: late is as bad as never."""

    async def main() -> None:
        session = filled(0)
        stream = Stream(session, keepalive_s=keepalive_s)
        stream.patience_s = 1000
        stream.start()

        last_s = now_s()
        for count in range(1, 20):
            await stream.kept_alive(count)
            assert keepalive_s / 2 < now_s() - last_s <= keepalive_s * 1.001
            last_s = now_s()
            if count % 4 == 0:
                await asyncio.sleep(keepalive_s * 0.37)
                add(session, 1)
                await stream.until(lambda: len(stream.ids) == session.log.last_seq)
                last_s = now_s()
        stream.leave()
        await stream.done()

    run_in_no_time(main())


def test_keepalive_does_not_come_while_events_do() -> None:
    async def main() -> None:
        session = filled(0)
        stream = Stream(session).start()

        for _ in range(100):
            await asyncio.sleep(7)
            add(session, 1)
        await stream.got(*range(1, 101))

        assert stream.keepalives == 0
        stream.leave()
        await stream.done()

    run_in_no_time(main())


def test_keepalive_of_a_stream_that_ended_does_not_come() -> None:
    async def main() -> None:
        session = filled(1)
        session.log.close()
        stream = await Stream(session).done()
        sends = len(stream.sent)

        await asyncio.sleep(100)

        assert len(stream.sent) == sends

    run_in_no_time(main())


# --- a client that takes nothing


async def test_client_that_takes_nothing_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = running()
    stream = Stream(filled(1), keepalive_s=0.01, send_timeout_s=0.02)
    stream.blocks_at = 2

    with caplog.at_level(logging.WARNING, "webkit_asgi"):
        await stream.done()

    assert len(stream.sent) == 2
    assert "given up" in caplog.text
    assert await left_nothing_behind(stream, before)


AT = {0: "start", 1: "retry", 2: "replay", 3: "live", 4: "end"}


def given_up_in_time(began_s: float, send_timeout_s: float = 60.0) -> bool:
    """Whether now is not before, and not long after a client should be given up."""
    return send_timeout_s <= now_s() - began_s + 0.001 <= 2 * send_timeout_s + 0.01


@pytest.mark.parametrize("blocks_at", AT, ids=AT.values())
def test_client_that_takes_nothing_is_given_up_wherever_it_stopped(
    blocks_at: int,
) -> None:
    """A server may make any ``send`` wait for what was sent before to be taken."""

    async def main() -> None:
        session = filled(1)
        stream = Stream(session)
        stream.patience_s = 1000
        stream.blocks_at = blocks_at
        stream.start()
        await asyncio.sleep(5)
        add(session, 1)
        await asyncio.sleep(5)
        session.log.close()
        await asyncio.sleep(5)
        began_s = 0 if blocks_at < 3 else 5 * (blocks_at - 2)

        await stream.done()

        assert len(stream.sent) == blocks_at
        assert given_up_in_time(began_s)

    run_in_no_time(main())


def test_client_that_fell_behind_and_takes_nothing_is_given_up() -> None:
    """Most of those that fall behind do so because they take nothing."""

    async def main() -> None:
        session = filled(1, max_size=3)
        stream = Stream(session)
        stream.patience_s = 1000
        stream.blocks_at = 3
        await stream.start().got(1)
        add(session, 5)

        await stream.done()

        assert len(stream.sent) == 3
        assert given_up_in_time(0)

    run_in_no_time(main())


@pytest.mark.parametrize("keepalive_s", [1.0, 15.0, 59.0, 60.0, 61.0, 3600.0])
def test_client_that_takes_nothing_is_given_up_in_time(keepalive_s: float) -> None:
    """However seldom the stream is kept alive."""

    async def main() -> None:
        stream = Stream(filled(1), keepalive_s=keepalive_s)
        stream.patience_s = 10_000
        stream.blocks_at = 2

        await stream.done()

        assert given_up_in_time(0)

    run_in_no_time(main())


def test_client_that_takes_no_keepalive_is_given_up() -> None:
    async def main() -> None:
        stream = Stream(filled(0))
        stream.patience_s = 1000
        stream.blocks_at = 2
        await stream.start().blocked()
        began_s = now_s()

        await stream.done()

        assert given_up_in_time(began_s)

    run_in_no_time(main())


@pytest.mark.parametrize("quiet_s", [0.5, 4.0, 7.2, 10.9, 11.2, 14.5])
@pytest.mark.parametrize("send_timeout_s", [2.0, 5.0, 10.0])
def test_client_that_is_slow_for_a_moment_after_a_quiet_time_is_not_given_up(
    quiet_s: float, send_timeout_s: float
) -> None:
    """What counts is how long it takes nothing, not how long there was nothing."""

    async def main() -> None:
        session = filled(0)
        stream = Stream(session, send_timeout_s=send_timeout_s)
        stream.start()
        await asyncio.sleep(quiet_s)
        stream.takes_s = send_timeout_s * 0.9
        add(session, 1)
        await asyncio.sleep(send_timeout_s)

        assert stream.ids == [1]
        stream.takes_s = 0
        stream.leave()
        await stream.done()

    run_in_no_time(main())


def test_client_that_is_slow_but_takes_something_is_not_given_up() -> None:
    async def main() -> None:
        session = filled(1)
        stream = Stream(session)
        stream.patience_s = 10_000
        stream.takes_s = 50
        stream.start()
        for expected in range(2, 7):
            await stream.got(*range(1, expected))
            add(session, 1)
        session.log.close()

        await stream.done()

        assert stream.ids == [1, 2, 3, 4, 5, 6]
        assert stream.complete
        assert now_s() > 60 * 5

    run_in_no_time(main())


async def test_giving_up_leaves_the_task_uncancelled() -> None:
    """The stream cancelled its own task; a middleware's time-out or task group around
    it counts cancellations, and would take the leftover one for its own."""
    stream = Stream(filled(1), keepalive_s=0.01, send_timeout_s=0.01)
    stream.blocks_at = 2

    await stream.done()

    assert stream.cancelling == 0


def test_cancellation_is_raised_again_though_the_client_is_being_given_up() -> None:
    """Both in one moment: the server's word is not swallowed."""

    async def given_up_at() -> float:
        stream = Stream(filled(1))
        stream.patience_s = 1000
        stream.blocks_at = 2
        await stream.done()
        return now_s()

    async def main(at_s: float) -> None:
        stream = Stream(filled(1))
        stream.patience_s = 1000
        stream.blocks_at = 2
        stream.start()
        asyncio.get_running_loop().call_at(at_s, stream.task.cancel)

        with pytest.raises(asyncio.CancelledError):
            await stream.done()
        assert now_s() == at_s

    run_in_no_time(main(run_in_no_time(given_up_at())))


# --- a token that expires


EPOCH_S = 1_800_000_000.0
"""Unix time when the loop's clock begins."""


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes as the loop's does."""

    class WallClock:
        def time(self) -> float:
            return EPOCH_S + now_s()

    monkeypatch.setattr(stream_module, "time", WallClock())


def expiring(session: Session, in_s: float, **more: Any) -> Stream:
    """Return a stream whose token expires in so many seconds."""
    stream = Stream(session, expires_at_s=EPOCH_S + now_s() + in_s, **more)
    stream.patience_s = 1e8
    return stream


def expiries(stream: Stream) -> int:
    """Return how often a stream said that its token has expired."""
    codes = [
        json.loads(event.data)["code"]
        for event in stream.events
        if event.type == "error"
    ]
    assert set(codes) <= {"token_expired"}
    return len(codes)


@pytest.mark.usefixtures("wall_clock")
@pytest.mark.parametrize("in_s", [0.001, 2.0, 14.9, 15.0, 3600.0])
def test_quiet_stream_ends_when_its_token_does(in_s: float) -> None:
    """To the moment, whenever it was last looked at or kept alive."""

    async def main() -> None:
        await asyncio.sleep(1.3)
        began_s = now_s()

        stream = await expiring(filled(2), in_s).done()

        assert now_s() == pytest.approx(began_s + in_s, abs=1e-4)
        assert (stream.ids[:2], expiries(stream)) == ([1, 2], 1)
        assert stream.complete

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
def test_stream_goes_on_until_its_token_ends() -> None:
    async def main() -> None:
        session = filled(1)
        stream = expiring(session, 10.0).start()
        await asyncio.sleep(9.99)
        add(session, 1)
        await settle()
        assert stream.ids == [1, 2]
        assert not stream.task.done()

        await asyncio.sleep(0.02)
        add(session, 1)
        await stream.done()

        assert stream.ids == [1, 2, 2]
        assert stream.events[-1].type == "error"

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
def test_busy_stream_ends_when_its_token_does() -> None:
    async def main() -> None:
        session = filled(0, max_size=10)
        stream = expiring(session, 5.0).start()
        while not stream.task.done():
            add(session, 1)
            await asyncio.sleep(0.01)

        assert now_s() == pytest.approx(5.0, abs=0.02)
        assert expiries(stream) == 1
        assert stream.events[-1].type == "error"

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
def test_frame_of_an_expiry_has_no_id_and_leaves_the_cursor_alone() -> None:
    async def main() -> None:
        session = filled(3)
        stream = await expiring(session, 1.0).done()

        frame = stream.bodies[-2]
        assert frame.startswith(b"event: error\ndata: ")
        assert frame.endswith(b"\n\n")
        assert b"id:" not in frame
        last = stream.events[-1]
        assert (last.type, last.last_event_id) == ("error", "3")
        data = json.loads(last.data)
        assert data.keys() == {"code", "message"}
        assert data["code"] == "token_expired"
        assert stream.complete
        assert session.log.last_seq == 3

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
def test_stream_that_is_resumed_after_an_expiry_misses_nothing() -> None:
    async def main() -> None:
        session = filled(2)
        first = await expiring(session, 1.0).done()
        add(session, 2)

        second = Stream(session, first.ids[-1]).start()
        await second.got(3, 4)

        second.leave()
        await second.done()

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
@pytest.mark.parametrize("blocks_at", [0, 1, 2])
def test_blocked_stream_ends_when_its_client_takes_something_again(
    blocks_at: int,
) -> None:
    """What came since the token ended is not sent."""

    async def main() -> None:
        session = filled(1)
        stream = expiring(session, 5.0)
        stream.blocks_at = blocks_at
        stream.start()
        await asyncio.sleep(10)
        assert len(stream.sent) == blocks_at
        add(session, 1)

        stream.blocks_at = None
        stream.gate.set()
        await stream.done()

        assert now_s() == 10
        # At 2 the first event was on its way before the token ended.
        ids = [event.last_event_id for event in stream.events]
        assert ids == (["1", "1"] if blocks_at == 2 else [""])
        assert expiries(stream) == 1
        assert stream.complete

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
@pytest.mark.parametrize("blocks_at", [2, 3])
def test_blocked_stream_whose_token_ended_is_given_up_in_time(blocks_at: int) -> None:
    """At 3 it is the frame of the expiry that is not taken."""

    async def main() -> None:
        stream = expiring(filled(1), 5.0)
        stream.blocks_at = blocks_at

        await stream.start().done()

        assert len(stream.sent) == blocks_at
        assert given_up_in_time(0 if blocks_at == 2 else 5.0)

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
@pytest.mark.parametrize("ago_s", [0.0, 20.0, 1e9])
def test_stream_of_a_token_that_has_expired_ends_at_once(ago_s: float) -> None:
    """A verifier may let one in that expired a moment ago."""

    async def main() -> None:
        stream = await expiring(filled(0), -ago_s).done()

        assert now_s() < 0.01
        assert expiries(stream) == 1
        assert stream.complete

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
@pytest.mark.parametrize("in_s", [1e10, float("inf")])
def test_stream_of_a_token_without_an_end_in_sight_goes_on_for_days(
    in_s: float,
) -> None:
    """No loop takes a timer of any length; who comes back after a month is let in."""

    async def main() -> None:
        stream = expiring(
            filled(0), in_s, keepalive_s=50_000.0, send_timeout_s=50_000.0
        )

        await stream.start().done()

        assert now_s() == 30 * 86_400
        assert expiries(stream) == 1

    run_in_no_time(main())


def timers() -> int:
    """Return how many timers of streams the loop has."""
    scheduled: list[Any] = getattr(asyncio.get_running_loop(), "_scheduled")  # noqa: B009
    return sum(
        "EventStream" in repr(handle) for handle in scheduled if not handle._cancelled
    )


@pytest.mark.usefixtures("wall_clock")
@pytest.mark.parametrize(("expires", "count"), [(False, 1), (True, 2)])
def test_stream_has_a_timer_for_its_token_only_if_that_expires(
    expires: bool, count: int
) -> None:
    async def main() -> None:
        stream = expiring(filled(1), 100.0) if expires else Stream(filled(1))
        await stream.start().got(1)
        assert timers() == count

        stream.leave()
        await stream.done()
        assert timers() == 0

    run_in_no_time(main())


@pytest.mark.parametrize("end", ["log", "client", "cancelled"])
async def test_stream_that_ends_before_its_token_leaves_nothing_behind(
    end: str,
) -> None:
    before = running()
    session = filled(1)
    stream = await Stream(session, expires_at_s=time.time() + 1000).start().got(1)

    match end:
        case "log":
            session.log.close()
        case "client":
            stream.leave()
        case "cancelled":
            stream.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stream.done()

    assert expiries(stream) == 0
    assert session.subscribers == 0
    assert await left_nothing_behind(stream, before)


@pytest.mark.usefixtures("wall_clock")
def test_stream_that_expires_leaves_nothing_behind() -> None:
    async def main() -> None:
        before = running()
        session = filled(1)
        among = OpenStreams(1)
        stream = await expiring(session, 1.0, among=among).done()

        assert session.subscribers == 0
        assert session.log._broadcast.waiting == 0
        among.check_room()
        assert await left_nothing_behind(stream, before)

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
def test_stream_that_expires_at_a_server_that_goes_away_is_told_both() -> None:
    async def main() -> None:
        stream = await expiring(filled(1), 1.0, among=leaving()).done()

        assert expiries(stream) == 1
        assert stream.bodies[-2].startswith(b"retry: ")
        assert stream.complete

    run_in_no_time(main())


@pytest.mark.usefixtures("wall_clock")
def test_client_that_left_is_not_told_that_its_token_has_expired() -> None:
    async def main() -> None:
        stream = expiring(filled(1), 5.0)
        stream.blocks_at = 2
        stream.start()
        await asyncio.sleep(6)

        stream.blocks_at = None
        stream.leave()
        await stream.done()

        assert expiries(stream) == 0
        assert not stream.complete

    run_in_no_time(main())


async def test_streams_of_other_tokens_go_on() -> None:
    session = filled(1)
    lasting = await Stream(session).start().got(1)

    await Stream(session, expires_at_s=time.time()).done()
    add(session, 1)

    await lasting.got(1, 2)
    lasting.leave()
    await lasting.done()
