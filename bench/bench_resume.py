"""Resume: a client comes back and wants the last thousand events.

Conclusion: they are one ``send``; reading them costs a copy of memory, not a loop over
events.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from webkit_core import EventLog

from .conftest import Found
from .events import PAYLOAD


def log_of(events: int) -> EventLog:
    log = EventLog(max_size=events)
    for _ in range(events):
        log.append("message_delta", PAYLOAD)
    return log


def reads(log: EventLog) -> int:
    """Return in how many pieces the whole log is read: one ``send`` each."""
    cursor = pieces = 0
    while cursor < log.last_seq:
        data, cursor = log.read(cursor)
        assert data
        pieces += 1
    return pieces


@pytest.mark.benchmark(group="resume")
@pytest.mark.parametrize("events", [1, 10, 100, 1000])
def bench_resume(benchmark: BenchmarkFixture, found: Found, events: int) -> None:
    """Read what a client missed."""
    pieces = benchmark(reads, log_of(events))
    found("sends", str(pieces))
    assert pieces == 1
