"""EventLog: one session's events, encoded once, for any number of readers.

A ring of frames and a broadcast put together. Whoever appends pays for one encoding
and one copy; a reader holds nothing but an integer, its cursor, which is the number of
the last event it has seen.

    cursor = 0
    while True:
        data, cursor = log.read(cursor)     # bytes to send, or nothing
        if data: await send(data)
        elif log.closed: break
        else: await log.wait()

Rules: no ``await`` between ``read`` and ``wait``; after ``close`` nothing is appended
and readers drain what is left.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from . import sse
from .broadcast import Broadcast, Subscriber
from .codec import encode_payload
from .errors import LogClosed
from .ring import FrameRing

WAKES_PER_BUFFER: Final = 4
"""Readers are woken at least so often while as many events as are held come in."""


class LoggedEvent(msgspec.Struct, frozen=True):
    """An event and the number the log gave it."""

    seq: int
    event: str
    data: Any


class Sample:
    """An event whose way to the readers is measured: number and time of append."""

    __slots__ = ("at_s", "seq")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.at_s = 0.0

    def age_s(self) -> float:
        """Return how long ago the event was appended."""
        return time.perf_counter() - self.at_s


class EventLog:
    """See the module. Belongs to one event loop.

    Args:
        max_size: how many events are held at most.
        max_bytes: how many bytes of frames are held at most.
        wake_interval_s: readers are woken no faster than this, so that a burst reaches
            them in a few large pieces; see :mod:`.broadcast`.
    """

    __slots__ = (
        "_broadcast",
        "_closed",
        "_hurry",
        "_hurry_at",
        "_look_at",
        "_ring",
        "_sample",
        "check",
        "read",
    )

    def __init__(
        self,
        max_size: int = 1000,
        max_bytes: int = 4 * 1024 * 1024,
        wake_interval_s: float = 0.0,
    ) -> None:
        self._ring = FrameRing(max_size, max_bytes)
        self._broadcast = Broadcast(wake_interval_s)
        self._closed = False
        # Readers are not kept waiting while a good part of the buffer passes by.
        self._hurry = max(1, max_size // WAKES_PER_BUFFER)
        self._hurry_at = self._hurry
        self._sample: Sample | None = None
        # The next number at which there is more to do than to append.
        self._look_at = self._hurry_at
        self.check = self._ring.check
        """``check(after_seq)``: see :meth:`FrameRing.check`."""
        self.read = self._ring.read
        """``read(after_seq)``: see :meth:`FrameRing.read`. Never waits; the bytes stay
        as they are for as long as they are held, also after eviction."""

    @property
    def last_seq(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._ring.last

    @property
    def oldest_seq(self) -> int:
        """Number of the oldest event held; ``last_seq + 1`` when none is."""
        return self._ring.oldest

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames held."""
        return self._ring.held_bytes

    @property
    def closed(self) -> bool:
        """Whether the log has ended; what it holds can still be read."""
        return self._closed

    def append(self, event: str, data: object) -> LoggedEvent:
        """Encode ``data`` once, log it under the next number, wake the readers.

        Args:
            event: the event's name, ASCII, never client text.
            data: anything msgspec encodes to a JSON object.

        Raises:
            LogClosed: the log has ended.
        """
        return LoggedEvent(self.write(event, data), event, data)

    def write(self, event: str, data: object) -> int:
        """Do as :meth:`append` does, and return the number alone."""
        if self._closed:
            raise LogClosed("the log has ended")
        ring = self._ring
        seq = ring.push(sse.frame(ring.last + 1, event, encode_payload(data)))
        if seq >= self._look_at:
            self._look(seq)
        else:
            self._broadcast.publish()
        return seq

    def _look(self, seq: int) -> None:
        if self._sample is not None:
            self._sample.at_s = time.perf_counter()
            self._sample = None
        if seq >= self._hurry_at:
            self._hurry_at = seq + self._hurry
            self._broadcast.wake()
        else:
            self._broadcast.publish()
        self._look_at = self._hurry_at

    def sample_next(self) -> Sample:
        """Return the next event's number, whose time of append will be kept."""
        if self._sample is None:
            self._sample = Sample(self._ring.last + 1)
            self._look_at = self._sample.seq
        return self._sample

    async def wait(self) -> None:
        """Suspend until something is appended or the log ends."""
        await self._broadcast.wait()

    def subscriber(self) -> Subscriber:
        """Return a waiter on this log that can also be woken alone."""
        return self._broadcast.subscriber()

    def close(self) -> None:
        """End the log: readers get what is left, then the end. Idempotent."""
        self._closed = True
        self._broadcast.wake()

    async def subscribe(self, after_seq: int = 0) -> AsyncIterator[LoggedEvent]:
        """Yield every event after ``after_seq``, then live ones, until the log ends.

        Raises:
            EvictedError: the reader fell so far behind that its next event is gone.
            CursorAheadError: ``after_seq`` was never reached.
        """
        cursor = after_seq
        while True:
            if cursor != self._ring.last:
                self.check(cursor)
                cursor += 1
                seq, event, payload = sse.parse_frame(self._ring.frame_at(cursor))
                yield LoggedEvent(seq, event, msgspec.json.decode(payload))
            elif self._closed:
                return
            else:
                await self._broadcast.wait()
