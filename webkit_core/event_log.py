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

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from . import sse
from .broadcast import Broadcast, Subscriber
from .errors import LogClosed
from .protocol import encode_payload
from .ring import FrameRing


class LoggedEvent(msgspec.Struct, frozen=True):
    """An event and the number the log gave it."""

    seq: int
    event: str
    data: Any


class EventLog:
    """See the module. Belongs to one event loop.

    Args:
        max_size: how many events are held at most.
        max_bytes: how many bytes of frames are held at most.
    """

    __slots__ = ("_broadcast", "_closed", "_ring")

    def __init__(self, max_size: int = 1000, max_bytes: int = 4 * 1024 * 1024) -> None:
        self._ring = FrameRing(max_size, max_bytes)
        self._broadcast = Broadcast()
        self._closed = False

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
        if self._closed:
            raise LogClosed("the log has ended")
        ring = self._ring
        seq = ring.push(sse.frame(ring.last + 1, event, encode_payload(data)))
        self._broadcast.publish()
        return LoggedEvent(seq, event, data)

    def read(self, after_seq: int) -> tuple[memoryview | bytes, int]:
        """Return the frames after ``after_seq`` and the new cursor; never waits.

        The bytes stay as they are for as long as they are held, also after eviction.

        Raises:
            EvictedError: the next event has left the buffer.
            CursorAheadError: ``after_seq`` was never reached.
        """
        return self._ring.read(after_seq)

    async def wait(self) -> None:
        """Suspend until something is appended or the log ends."""
        await self._broadcast.wait()

    def subscriber(self) -> Subscriber:
        """Return a waiter on this log that can also be woken alone."""
        return self._broadcast.subscriber()

    def close(self) -> None:
        """End the log: readers get what is left, then the end. Idempotent."""
        self._closed = True
        self._broadcast.publish()

    async def subscribe(self, after_seq: int = 0) -> AsyncIterator[LoggedEvent]:
        """Yield every event after ``after_seq``, then live ones, until the log ends.

        Raises:
            EvictedError: the reader fell so far behind that its next event is gone.
            CursorAheadError: ``after_seq`` was never reached.
        """
        cursor = after_seq
        while True:
            if cursor != self._ring.last:
                # Only to check that the cursor points into the ring.
                self._ring.read(cursor)
                cursor += 1
                seq, event, payload = sse.parse_frame(self._ring.frame_at(cursor))
                yield LoggedEvent(seq, event, msgspec.json.decode(payload))
            elif self._closed:
                return
            else:
                await self._broadcast.wait()
