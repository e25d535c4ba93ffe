from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.sse_parser import ParsedEvent, SseParser
from tests.unit.core.stepping import settle
from webkit_core.errors import CursorAheadError, EvictedError, LogClosed
from webkit_core.event_log import EventLog, LoggedEvent
from webkit_core.protocol import SessionReady, SessionState


def log_of(count: int, **limits: int) -> EventLog:
    log = EventLog(**limits)
    for number in range(1, count + 1):
        log.append("e", {"n": number})
    return log


def test_append_numbers_events_from_one() -> None:
    log = EventLog()

    first = log.append("a", {"x": 1})
    second = log.append("b", {})

    assert first == LoggedEvent(1, "a", {"x": 1})
    assert second == LoggedEvent(2, "b", {})
    assert log.last_seq == 2


def test_append_writes_one_frame_per_event() -> None:
    log = EventLog()
    log.append("session_ready", SessionReady("s", "1.0"))
    log.append("session_state", SessionState("idle"))

    data, cursor = log.read(0)

    assert bytes(data) == (
        b"id: 1\nevent: session_ready\n"
        b'data: {"session_id":"s","protocol_version":"1.0"}\n\n'
        b'id: 2\nevent: session_state\ndata: {"state":"idle"}\n\n'
    )
    assert cursor == 2


def test_append_encodes_at_once_so_that_later_changes_do_not_show() -> None:
    log = EventLog()
    data = {"n": 1}
    log.append("e", data)

    data["n"] = 2

    assert b'{"n":1}' in bytes(log.read(0)[0])


def test_append_of_a_bad_name_leaves_the_log_as_it_was() -> None:
    log = log_of(1)

    with pytest.raises(UnicodeEncodeError):
        log.append("naïve", {})

    assert log.last_seq == 1
    assert log.append("e", {}).seq == 2


def test_append_of_odd_text_is_logged_with_replacements() -> None:
    log = EventLog()

    log.append("e", {"text": "cut \ud83d"})

    assert SseParser().feed(bytes(log.read(0)[0])) == [
        ParsedEvent("e", '{"text":"cut \ufffd"}', "1")
    ]


def test_append_after_close_is_refused_and_changes_nothing() -> None:
    log = log_of(2)
    log.close()

    with pytest.raises(LogClosed):
        log.append("e", {})

    assert log.last_seq == 2


def test_close_twice_is_as_close_once() -> None:
    log = log_of(1)

    log.close()
    log.close()

    assert log.closed
    assert log.read(0)[1] == 1


def test_log_bounds_are_those_of_its_ring() -> None:
    log = log_of(5, max_size=2)

    assert (log.oldest_seq, log.last_seq) == (4, 5)
    assert log.held_bytes == len(log.read(3)[0])


def test_log_bounded_by_bytes_evicts_whole_events() -> None:
    log = log_of(50, max_bytes=200)

    assert log.held_bytes <= 200
    assert len(SseParser().feed(bytes(log.read(log.oldest_seq - 1)[0]))) == (
        log.last_seq - log.oldest_seq + 1
    )


def test_read_of_what_is_gone_or_never_was_raises() -> None:
    log = log_of(5, max_size=2)

    with pytest.raises(EvictedError):
        log.read(0)
    with pytest.raises(CursorAheadError):
        log.read(6)


def test_bytes_read_stay_as_they_are_after_eviction() -> None:
    log = log_of(2, max_size=2)
    data, _ = log.read(0)
    before = bytes(data)

    for _ in range(1000):
        log.append("other", {"filler": "x" * 100})

    assert bytes(data) == before


async def test_wait_ends_when_something_is_appended() -> None:
    log = EventLog()
    task = asyncio.ensure_future(log.wait())
    await settle()
    assert not task.done()

    log.append("e", {})

    await task


async def test_wait_ends_when_the_log_ends() -> None:
    log = EventLog()
    task = asyncio.ensure_future(log.wait())
    await settle()

    log.close()

    await task


async def test_subscriber_can_be_woken_alone() -> None:
    log = EventLog()
    one, other = log.subscriber(), log.subscriber()
    tasks = [asyncio.ensure_future(one.wait()), asyncio.ensure_future(other.wait())]
    await settle()

    one.wake()
    await settle()

    assert [task.done() for task in tasks] == [True, False]
    log.append("e", {})
    await tasks[1]


async def collect(log: EventLog, after_seq: int, into: list[Any]) -> None:
    async for event in log.subscribe(after_seq):
        parts = event.seq, event.event, event.data
        into.append(parts)


async def test_subscribe_replays_then_goes_live_then_ends_with_the_log() -> None:
    log = log_of(2)
    seen: list[Any] = []
    task = asyncio.ensure_future(collect(log, 0, seen))
    await settle()
    assert seen == [(1, "e", {"n": 1}), (2, "e", {"n": 2})]

    log.append("live", {"n": 3})
    await settle()
    assert seen[2:] == [(3, "live", {"n": 3})]

    log.append("last", {})
    log.close()
    await task
    assert seen[3:] == [(4, "last", {})]


async def test_subscribe_starts_behind_its_cursor() -> None:
    log = log_of(5)
    log.close()
    seen: list[Any] = []

    await collect(log, 3, seen)

    assert [seq for seq, _, _ in seen] == [4, 5]


async def test_subscribe_to_a_closed_log_drains_it_and_ends() -> None:
    log = log_of(3)
    log.close()

    assert [event.seq async for event in log.subscribe()] == [1, 2, 3]
    assert [event.seq async for event in log.subscribe(3)] == []


async def test_subscribe_gives_data_as_clients_see_it() -> None:
    log = EventLog()
    log.append("session_ready", SessionReady("s", "1.0"))

    event = await anext(log.subscribe())

    assert event.data == {"session_id": "s", "protocol_version": "1.0"}


async def test_subscribe_over_several_segments_gives_every_event_once() -> None:
    log = EventLog()
    for number in range(40):
        log.append("e", {"n": number, "filler": "x" * 20_000})
    log.close()

    seen = [event.data["n"] async for event in log.subscribe()]

    assert seen == list(range(40))


@pytest.mark.parametrize("cursor", [0, -1])
async def test_subscribe_behind_what_is_held_raises(cursor: int) -> None:
    with pytest.raises(EvictedError):
        await anext(log_of(5, max_size=2).subscribe(cursor))


@pytest.mark.parametrize("closed", [False, True])
async def test_subscribe_ahead_of_the_log_raises(closed: bool) -> None:
    log = log_of(2)
    if closed:
        log.close()

    with pytest.raises(CursorAheadError):
        await anext(log.subscribe(3))


async def test_subscribe_that_fell_behind_raises_and_is_over() -> None:
    log = log_of(2, max_size=2)
    events = log.subscribe()
    assert (await anext(events)).seq == 1

    log.append("e", {})
    log.append("e", {})

    with pytest.raises(EvictedError) as caught:
        await anext(events)
    assert (caught.value.after_seq, caught.value.oldest) == (1, 3)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_cancelled_subscriber_leaves_the_others_alone() -> None:
    log = EventLog()
    gone: list[Any] = []
    stays: list[Any] = []
    tasks = [
        asyncio.ensure_future(collect(log, 0, gone)),
        asyncio.ensure_future(collect(log, 0, stays)),
    ]
    await settle()

    tasks[0].cancel()
    log.append("e", {})
    log.close()
    await asyncio.wait(tasks)

    assert tasks[0].cancelled()
    assert (gone, stays) == ([], [(1, "e", {})])


async def test_burst_wakes_its_readers_before_it_pushes_them_out_of_the_buffer() -> (
    None
):
    """However fast events come, a reader that the loop lets run keeps up."""
    log = EventLog(max_size=8, wake_interval_s=3600)

    async def read() -> list[int]:
        return [event.seq async for event in log.subscribe()]

    reader = asyncio.ensure_future(read())
    for number in range(100):
        log.append("x", {"n": number})
        await asyncio.sleep(0)
    log.close()

    assert await reader == list(range(1, 101))


# --- samples: how long events take to their readers


def test_sample_is_the_next_event_with_the_time_of_its_append() -> None:
    log = log_of(3)
    sample = log.sample_next()
    assert sample.seq == 4

    before = time.perf_counter()
    seq = log.append("e", {}).seq
    after = time.perf_counter()

    assert seq == sample.seq
    assert before <= sample.at_s <= after
    assert 0 <= sample.age_s() <= time.perf_counter() - before


def test_sample_is_stamped_once() -> None:
    log = EventLog()
    sample = log.sample_next()
    log.append("e", {})
    stamped_s = sample.at_s

    for _ in range(1000):
        log.append("e", {})

    assert (sample.seq, sample.at_s) == (1, stamped_s)


def test_sample_is_shared_until_it_is_stamped() -> None:
    """However many readers ask: one event is measured, not one for each."""
    log = EventLog()
    one = log.sample_next()
    assert log.sample_next() is one

    log.append("e", {})
    other = log.sample_next()

    assert other is not one
    assert (one.seq, other.seq) == (1, 2)
    log.append("e", {})
    assert one.at_s <= other.at_s


def test_sample_of_a_log_that_has_ended_is_never_stamped() -> None:
    log = log_of(2)
    log.close()

    sample = log.sample_next()

    assert (sample.seq, sample.at_s) == (3, 0)


async def test_append_of_a_sampled_event_wakes_its_readers() -> None:
    log = EventLog()
    for _ in range(3):
        log.sample_next()
        waiting = asyncio.ensure_future(log.wait())
        await settle()
        assert not waiting.done()

        log.append("e", {})

        async with asyncio.timeout(5):
            await waiting


async def test_append_of_a_sampled_event_wakes_no_faster_than_any_other() -> None:
    log = EventLog(wake_interval_s=3600)
    waiting = asyncio.ensure_future(log.wait())
    await settle()
    log.append("e", {})
    await waiting
    waiting = asyncio.ensure_future(log.wait())
    await settle()

    log.sample_next()
    log.append("e", {})
    await settle()

    assert not waiting.done()
    log.close()
    await waiting


@pytest.mark.parametrize("every", [1, 2, 3, 8])
async def test_burst_of_sampled_events_is_not_lost_on_its_readers(every: int) -> None:
    log = EventLog(max_size=8, wake_interval_s=3600)

    async def read() -> list[int]:
        return [event.seq async for event in log.subscribe()]

    reader = asyncio.ensure_future(read())
    for number in range(100):
        if number % every == 0:
            log.sample_next()
        log.append("x", {"n": number})
        await asyncio.sleep(0)
    log.close()

    assert await reader == list(range(1, 101))


def calls_of(work: Callable[[], object]) -> int:
    """How many functions of Python ``work`` calls, and whatever gets in between."""
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_append_costs_nothing_more_before_and_after_a_sample() -> None:
    log = EventLog()

    def append() -> None:
        log.append("e", {})

    def sampled() -> None:
        log.sample_next()
        log.append("e", {})

    before, with_sample, after = (
        min(calls_of(work) for _ in range(5)) for work in (append, sampled, append)
    )

    assert before == after < with_sample
