"""FrameRing: a bounded log of encoded frames in memory that is never rewritten.

Frames are written one after another into preallocated *segments*. A reader that is k
frames behind gets one view over all of them, so that catching up costs one send, not
k. The first segment is small, so that an idle session stays small; each next one
doubles, up to :data:`MAX_SEGMENT_BYTES`.

Rules of this file:

1. A segment is dropped whole when its last frame is evicted, and never reused: a
   transport may still hold a view of it.
2. Bytes that have been handed out never change.
3. Eviction is by count and by bytes, whichever comes first; the newest frame always
   stays, however large it is.

Invariant: frames ``oldest .. last`` are held, contiguous, each as it was written.

Memory: at most ``max_bytes`` of live frames, plus one partly evicted segment at the
front and one partly filled at the back, plus 4 bytes per frame. ``push`` is O(1)
amortized, and looks at eviction only when a bound may have been reached; ``read`` finds
its segment by bisection, and copies only when what it returns spans segments.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final

from .errors import CursorAheadError, EvictedError

MIN_SEGMENT_BYTES: Final = 512
MAX_SEGMENT_BYTES: Final = 16 * 1024
"""A full ring wastes half of this at either end on average; reading a thousand typical
events joins eight of them, which costs less than the send that follows."""

MAX_READ_BYTES: Final = 256 * 1024
"""Most bytes one ``read`` returns (unless one frame alone is larger)."""

_NEVER: Final = 1 << 62
"""The number of a push that does not come."""


class _Segment:
    """A preallocated piece of the log: frames back to back, and where each ends."""

    __slots__ = ("base", "buffer", "ends", "first_seq", "size", "used", "view")

    def __init__(self, first_seq: int, base: int, size: int) -> None:
        self.first_seq = first_seq
        self.base = base
        """Bytes written to the ring before this segment."""
        self.size = size
        self.buffer = bytearray(size)
        self.view = memoryview(self.buffer).toreadonly()
        self.ends = array("I")
        self.used = 0

    def start_of(self, seq: int) -> int:
        index = seq - self.first_seq
        return self.ends[index - 1] if index else 0

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.ends) - 1

    def seal(self) -> None:
        """Give back what the last frame that did not fit has left unused.

        A copy, so that views of the old memory stay as they are.
        """
        if self.used < self.size:
            self.buffer = self.buffer[: self.used]
            self.view = memoryview(self.buffer).toreadonly()
            self.size = self.used


class FrameRing:
    """The bounded log of one session's frames; see the module's rules.

    Args:
        max_events: how many frames are held at most.
        max_bytes: how many bytes of frames are held at most.
    """

    __slots__ = (
        "_evict_at",
        "_firsts",
        "_floor",
        "_head_base",
        "_last",
        "_max_bytes",
        "_max_events",
        "_newest",
        "_segments",
        "_tail",
    )

    def __init__(self, max_events: int, max_bytes: int) -> None:
        if max_events < 1:
            raise ValueError(f"max_events must be at least 1, got {max_events}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._last = 0
        self._newest = b""  # as it was pushed: most reads want just this one
        self._tail = _Segment(1, 0, MIN_SEGMENT_BYTES)
        self._segments = [self._tail]
        self._firsts = [1]
        # What follows is derived, and kept so that most pushes need not look.
        self._floor = 1  # no frame before this one is held
        self._head_base = 0  # bytes written before the first segment
        self._evict_at = _NEVER  # the push that empties the first segment by count

    @property
    def oldest(self) -> int:
        """Number of the oldest frame held; ``last + 1`` when the ring is empty."""
        return max(self._floor, self._last - self._max_events + 1)

    @property
    def last(self) -> int:
        """Number of the newest frame ever pushed; 0 before the first."""
        return self._last

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames held."""
        oldest = self.oldest
        if oldest > self._last:
            return 0
        segment = self._segments[bisect_right(self._firsts, oldest) - 1]
        tail = self._tail
        return tail.base + tail.used - segment.base - segment.start_of(oldest)

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the segments' buffers: what the frames really cost in memory."""
        return sum(segment.size for segment in self._segments)

    def push(self, frame: bytes) -> int:
        """Write a frame behind the last one and return its number, from 1 on."""
        tail = self._tail
        start = tail.used
        end = start + len(frame)
        if end > tail.size:
            tail = self._grow(len(frame))
            start, end = 0, len(frame)
        tail.buffer[start:end] = frame
        tail.used = end
        tail.ends.append(end)
        self._newest = frame
        self._last = seq = self._last + 1
        if seq >= self._evict_at or tail.base + end - self._head_base > self._max_bytes:
            self._evict()
        return seq

    def check(self, after_seq: int) -> None:
        """Check that what follows ``after_seq`` is held; raises as ``read`` does."""
        if after_seq > self._last:
            raise CursorAheadError(after_seq, self.oldest, self._last)
        if after_seq + 1 < self.oldest:
            raise EvictedError(after_seq, self.oldest, self._last)

    def read(self, after_seq: int) -> tuple[memoryview | bytes, int]:
        """Return what follows ``after_seq``: the frames, and the number of the last.

        One buffer of at most :data:`MAX_READ_BYTES` (or one frame, if that is larger).
        It is empty, with ``after_seq`` itself as the number, when nothing follows.

        Raises:
            EvictedError: the next frame has left the ring.
            CursorAheadError: ``after_seq`` was never pushed.
        """
        last = self._last
        if after_seq == last - 1 >= 0:
            return self._newest, last
        if after_seq >= last:
            if after_seq > last:
                raise CursorAheadError(after_seq, self.oldest, last)
            return b"", after_seq
        first = after_seq + 1
        if first < self._floor or last - after_seq > self._max_events:
            raise EvictedError(after_seq, self.oldest, last)
        tail = self._tail
        if first >= tail.first_seq:
            return tail.view[tail.start_of(first) : tail.used], last
        return self._read_across(first)

    def _read_across(self, first: int) -> tuple[memoryview | bytes, int]:
        """Join the frames from ``first`` on over as many segments as fit one read."""
        index = bisect_right(self._firsts, first) - 1
        segment = self._segments[index]
        views = [segment.view[segment.start_of(first) : segment.used]]
        size = len(views[0])
        last = segment.last_seq
        for segment in self._segments[index + 1 :]:
            size += segment.used
            if size > MAX_READ_BYTES:
                break
            views.append(segment.view[: segment.used])
            last = segment.last_seq
        return (views[0] if len(views) == 1 else b"".join(views)), last

    def frame_at(self, seq: int) -> bytes:
        """Return one frame as bytes; the caller has checked that it is held."""
        segment = self._segments[bisect_right(self._firsts, seq) - 1]
        end = segment.ends[seq - segment.first_seq]
        return bytes(segment.view[segment.start_of(seq) : end])

    def _grow(self, needed_bytes: int) -> _Segment:
        """Open the next segment: twice the last one's size, or one large frame's."""
        full = self._tail
        size = max(min(2 * full.size, MAX_SEGMENT_BYTES), needed_bytes)
        full.seal()
        self._tail = _Segment(self._last + 1, full.base + full.used, size)
        self._segments.append(self._tail)
        self._firsts.append(self._last + 1)
        self._evict_at = self._segments[0].last_seq + self._max_events
        return self._tail

    def _evict(self) -> None:
        """Raise the floor until both bounds hold, and drop the segments below it."""
        floor = self.oldest
        written = self._tail.base + self._tail.used
        segments = self._segments
        while floor < self._last:
            while floor > segments[0].last_seq:
                del segments[0], self._firsts[0]
            head = segments[0]
            if written - head.base - head.start_of(floor) <= self._max_bytes:
                break
            floor += 1
        while floor > segments[0].last_seq:
            del segments[0], self._firsts[0]
        self._floor = floor
        self._head_base = segments[0].base
        only_tail = segments[0] is self._tail
        self._evict_at = (
            _NEVER if only_tail else segments[0].last_seq + self._max_events
        )
