"""One event in: what it costs us, beside ``json.dumps`` of the same payload.

Nobody waits for the event; its log is full, so each one evicts another. Conclusion:
translating, encoding, logging and waking together cost less than ``json.dumps`` alone,
and as much in the thousandth session as in the first, in a ring of 100,000 as of 100.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from webkit_core import EventLog, Limits
from webkit_core.codec import encode_payload
from webkit_core.conversation import Conversation
from webkit_core.protocol import DEFAULT_DELTAS, MessageDelta, TextDelta

from .events import DELTA, MESSAGE_ID, PAYLOAD, START


def conversation(buffer_events: int = 1000) -> Conversation:
    """Return a conversation whose log is full."""
    talk = Conversation(
        "s", DEFAULT_DELTAS, Limits(buffer_events=buffer_events, buffer_bytes=1 << 30)
    )
    talk.ready()
    talk.receive(START)
    for _ in range(buffer_events):
        talk.receive(DELTA)
    return talk


@pytest.mark.benchmark(group="one event in")
def bench_json_dumps_of_the_payload(benchmark: BenchmarkFixture) -> None:
    """The yardstick."""
    benchmark(json.dumps, PAYLOAD)


@pytest.mark.benchmark(group="one event in")
def bench_translate_encode_log_wake(benchmark: BenchmarkFixture) -> None:
    """All of ours."""
    benchmark(conversation().receive, DELTA)


@pytest.mark.benchmark(group="one event in")
def bench_encode_alone(benchmark: BenchmarkFixture) -> None:
    """Of which: the payload as JSON."""
    benchmark(encode_payload, MessageDelta(MESSAGE_ID, TextDelta(" hello world")))


@pytest.mark.benchmark(group="one event in")
def bench_append_to_a_log_as_an_embedder_does(benchmark: BenchmarkFixture) -> None:
    """A dictionary instead of our types, and an object back."""
    log = EventLog()
    benchmark(log.append, "message_delta", PAYLOAD)


@pytest.mark.benchmark(group="growth: ring size")
@pytest.mark.parametrize("buffer_events", [100, 1_000, 10_000, 100_000])
def bench_event_by_ring_size(benchmark: BenchmarkFixture, buffer_events: int) -> None:
    """Flat: a push looks at nothing that grows."""
    benchmark(conversation(buffer_events).receive, DELTA)


@pytest.mark.benchmark(group="growth: sessions")
@pytest.mark.parametrize("sessions", [1, 10, 100, 1000])
def bench_event_by_number_of_sessions(
    benchmark: BenchmarkFixture, sessions: int
) -> None:
    """One event to each in turn; the time is that of one event."""
    talks = [conversation() for _ in range(sessions)]

    def next_event(state: list[Any] = [0]) -> None:  # noqa: B006  # a counter
        state[0] = (state[0] + 1) % sessions
        talks[state[0]].receive(DELTA)

    benchmark(next_event)
