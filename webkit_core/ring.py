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
amortized; ``read`` finds its segment by bisection and copies only when what it returns
spans segments.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final

from .errors import CursorAheadError, EvictedError

MIN_SEGMENT_BYTES: Final = 2 * 1024
MAX_SEGMENT_BYTES: Final = 64 * 1024
"""uvicorn pauses a writer above 64 KiB of unsent bytes: larger views gain nothing."""

MAX_READ_BYTES: Final = 256 * 1024
"""Most bytes one ``read`` returns (unless one frame alone is larger)."""


class _Segment:
    """A preallocated piece of the log: frames back to back, and where each ends."""

    __slots__ = ("buffer", "ends", "first_seq", "used", "view")

    def __init__(self, first_seq: int, size_bytes: int) -> None:
        self.first_seq = first_seq
        self.buffer = bytearray(size_bytes)
        self.view = memoryview(self.buffer).toreadonly()
        self.ends = array("I")
        self.used = 0

    def start_of(self, seq: int) -> int:
        index = seq - self.first_seq
        return self.ends[index - 1] if index else 0

    def end_of(self, seq: int) -> int:
        return self.ends[seq - self.first_seq]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.ends) - 1


class FrameRing:
    """The bounded log of one session's frames; see the module's rules.

    Args:
        max_events: how many frames are held at most.
        max_bytes: how many bytes of frames are held at most.
    """

    __slots__ = (
        "_firsts",
        "_held_bytes",
        "_last",
        "_max_bytes",
        "_max_events",
        "_oldest",
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
        self._oldest = 1
        self._last = 0
        self._held_bytes = 0
        self._tail = _Segment(1, MIN_SEGMENT_BYTES)
        self._segments = [self._tail]
        self._firsts = [1]

    @property
    def oldest(self) -> int:
        """Number of the oldest frame held; ``last + 1`` when the ring is empty."""
        return self._oldest

    @property
    def last(self) -> int:
        """Number of the newest frame ever pushed; 0 before the first."""
        return self._last

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames held."""
        return self._held_bytes

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the segments' buffers: what the frames really cost in memory."""
        return sum(len(segment.buffer) for segment in self._segments)

    def push(self, frame: bytes) -> int:
        """Write a frame behind the last one and return its number, from 1 on."""
        tail = self._tail
        start = tail.used
        end = start + len(frame)
        if end > len(tail.buffer):
            tail = self._grow(len(frame))
            start, end = 0, len(frame)
        tail.buffer[start:end] = frame
        tail.used = end
        tail.ends.append(end)
        self._last = seq = self._last + 1
        self._held_bytes += end - start
        if seq - self._oldest >= self._max_events or self._held_bytes > self._max_bytes:
            self._evict()
        return seq

    def read(self, after_seq: int) -> tuple[memoryview | bytes, int]:
        """Return what follows ``after_seq``: the frames, and the number of the last.

        One buffer of at most :data:`MAX_READ_BYTES` (or one frame, if that is larger).
        It is empty, with ``after_seq`` itself as the number, when nothing follows.

        Raises:
            EvictedError: the next frame has left the ring.
            CursorAheadError: ``after_seq`` was never pushed.
        """
        if after_seq >= self._last:
            if after_seq > self._last:
                raise CursorAheadError(after_seq, self._oldest, self._last)
            return b"", after_seq
        first = after_seq + 1
        if first < self._oldest:
            raise EvictedError(after_seq, self._oldest, self._last)
        tail = self._tail
        if first >= tail.first_seq:
            start = tail.start_of(first)
            return self._view(tail, start, first)
        return self._read_across(first)

    def _view(
        self, segment: _Segment, start: int, first: int
    ) -> tuple[memoryview, int]:
        """View ``segment`` from frame ``first``, at ``start``, to its end."""
        return segment.view[start : segment.used], segment.last_seq

    def _read_across(self, first: int) -> tuple[memoryview | bytes, int]:
        """Join the frames from ``first`` on over as many segments as fit one read."""
        index = bisect_right(self._firsts, first) - 1
        segment = self._segments[index]
        view, last = self._view(segment, segment.start_of(first), first)
        views = [view]
        size = len(view)
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
        return bytes(segment.view[segment.start_of(seq) : segment.end_of(seq)])

    def _grow(self, needed_bytes: int) -> _Segment:
        """Open the next segment: twice the last one's size, or one large frame's."""
        size = min(2 * len(self._tail.buffer), MAX_SEGMENT_BYTES)
        self._tail = _Segment(self._last + 1, max(size, needed_bytes))
        self._segments.append(self._tail)
        self._firsts.append(self._last + 1)
        return self._tail

    def _evict(self) -> None:
        """Drop frames from the front until both bounds hold; never the newest."""
        head = self._segments[0]
        while self._oldest < self._last and (
            self._last - self._oldest >= self._max_events
            or self._held_bytes > self._max_bytes
        ):
            size = head.end_of(self._oldest) - head.start_of(self._oldest)
            self._held_bytes -= size
            self._oldest += 1
            if self._oldest > head.last_seq:
                del self._segments[0], self._firsts[0]
                head = self._segments[0]
