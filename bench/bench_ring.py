"""The log's memory: segments that are read as views, against one object per frame.

The loser, :class:`FrameList`, keeps each frame as a ``bytes`` of its own in a
preallocated list and joins what a reader missed. It is simpler and as fast for one
frame; catching up costs a join over frames, and each frame costs 41 bytes more.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from webkit_core import sse
from webkit_core.ring import FrameRing

from .conftest import Found

FRAME = sse.frame(123_456, "message_delta", b"x" * 84)
EVENTS = 1000


class FrameList:
    """The loser: see the module."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.slots: list[bytes | None] = [None] * max_events
        self.max_bytes = max_bytes
        self.held = 0
        self.oldest = 1
        self.last = 0

    def push(self, frame: bytes) -> int:
        self.last += 1
        index = self.last % len(self.slots)
        gone = self.slots[index]
        if gone is not None:
            self.held -= len(gone)
            self.oldest += 1
        self.slots[index] = frame
        self.held += len(frame)
        while self.held > self.max_bytes and self.oldest < self.last:
            index = self.oldest % len(self.slots)
            self.held -= len(self.slots[index] or b"")
            self.slots[index] = None
            self.oldest += 1
        return self.last

    def read(self, after_seq: int) -> tuple[bytes, int]:
        first = (after_seq + 1) % len(self.slots)
        count = self.last - after_seq
        part = self.slots[first : first + count]
        if len(part) < count:
            part += self.slots[: count - len(part)]
        return b"".join(part), self.last  # type: ignore[arg-type]  # all are set


RINGS = pytest.mark.parametrize(
    "make", [FrameRing, FrameList], ids=["segments", "one object per frame"]
)


def full_ring(make: Callable[[int, int], Any]) -> Any:
    """Return a ring that holds as many frames as it may, each an object of its own."""
    ring = make(EVENTS, 1 << 22)
    for seq in range(1, 2 * EVENTS):
        ring.push(sse.frame(seq, "message_delta", b"x" * 84))
    return ring


@pytest.mark.benchmark(group="ring: push")
@RINGS
def bench_push(benchmark: BenchmarkFixture, make: Callable[[int, int], Any]) -> None:
    benchmark(full_ring(make).push, FRAME)


@pytest.mark.benchmark(group="ring: read")
@pytest.mark.parametrize("behind", [1, 10, 100, 1000])
@RINGS
def bench_read(
    benchmark: BenchmarkFixture, make: Callable[[int, int], Any], behind: int
) -> None:
    """What a subscriber so far behind gets, joined into a chunk as uvicorn does."""
    ring = full_ring(make)
    cursor = ring.last - behind
    benchmark(lambda: b"".join((b"1f40\r\n", ring.read(cursor)[0], b"\r\n")))


@pytest.mark.benchmark(group="ring: memory")
@RINGS
def bench_memory(
    benchmark: BenchmarkFixture, found: Found, make: Callable[[int, int], Any]
) -> None:
    """Bytes allocated for a full ring, and for one that nothing was pushed to."""

    def measure() -> tuple[int, int]:
        tracemalloc.start()
        try:
            empty = make(EVENTS, 1 << 22)
            after_empty = tracemalloc.get_traced_memory()[0]
            ring = full_ring(make)
            return after_empty, tracemalloc.get_traced_memory()[0] - after_empty + (
                0 if (empty and ring) else sys.maxsize
            )
        finally:
            tracemalloc.stop()

    empty, full = benchmark.pedantic(measure, rounds=1)  # type: ignore[no-untyped-call]
    found("empty ring, bytes", str(empty))
    found(f"{EVENTS} frames of {len(FRAME)} bytes, bytes", str(full))
