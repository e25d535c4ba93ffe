from __future__ import annotations

import itertools

import pytest

from webkit_core.errors import CursorAheadError, EvictedError
from webkit_core.ring import (
    MAX_READ_BYTES,
    MAX_SEGMENT_BYTES,
    MIN_SEGMENT_BYTES,
    FrameRing,
)

KIB = 1024


def ring_of(*sizes: int, events: int = 1000, limit: int = 10**9) -> FrameRing:
    """A ring into which frames of these sizes were pushed; see ``body``."""
    ring = FrameRing(events, limit)
    for seq, size in enumerate(sizes, 1):
        ring.push(body(seq, size))
    return ring


def body(seq: int, size: int) -> bytes:
    """A frame of ``size`` bytes that no other sequence number has."""
    return (b"%d," % seq * (size + 1))[:size]


def drain(ring: FrameRing, cursor: int) -> tuple[bytes, int]:
    """Everything after ``cursor``, over as many reads as it takes."""
    out = bytearray()
    while cursor != ring.last:
        data, cursor = ring.read(cursor)
        out += data
    return bytes(out), cursor


@pytest.mark.parametrize(
    ("events", "limit", "name"), [(0, 1, "max_events"), (1, 0, "max_bytes")]
)
def test_ring_without_room_is_refused(events: int, limit: int, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        FrameRing(events, limit)


def test_ring_before_the_first_push_is_empty() -> None:
    ring = FrameRing(10, 1000)

    assert (ring.oldest, ring.last, ring.held_bytes) == (1, 0, 0)
    assert ring.read(0) == (b"", 0)


def test_push_numbers_from_one_without_holes() -> None:
    ring = FrameRing(3, 1000)

    assert [ring.push(b"x") for _ in range(10)] == list(range(1, 11))


def test_read_gives_all_frames_behind_the_cursor_in_one_view() -> None:
    ring = ring_of(5, 6, 7)

    data, last = ring.read(1)

    assert isinstance(data, memoryview)
    assert (bytes(data), last) == (body(2, 6) + body(3, 7), 3)


def test_read_at_the_head_gives_nothing_and_the_same_cursor() -> None:
    assert ring_of(5, 6).read(2) == (b"", 2)


def test_read_ahead_of_the_head_raises_with_the_bounds() -> None:
    with pytest.raises(CursorAheadError) as caught:
        ring_of(5, 5, 5, events=2).read(4)

    error = caught.value
    assert (error.after_seq, error.oldest, error.last) == (4, 2, 3)


def test_read_ahead_of_an_empty_ring_raises() -> None:
    with pytest.raises(CursorAheadError):
        FrameRing(1, 1).read(1)


@pytest.mark.parametrize("cursor", [0, 1, -1, -100])
def test_read_of_an_evicted_frame_raises_with_the_bounds(cursor: int) -> None:
    with pytest.raises(EvictedError) as caught:
        ring_of(5, 5, 5, 5, events=2).read(cursor)

    error = caught.value
    assert (error.after_seq, error.oldest, error.last) == (cursor, 3, 4)


def test_read_of_a_frame_evicted_by_bytes_raises() -> None:
    ring = ring_of(10, 10, 10, 40, limit=60)

    with pytest.raises(EvictedError):
        ring.read(0)
    assert drain(ring, 1)[1] == 4


def test_read_just_behind_the_oldest_still_works() -> None:
    data, last = ring_of(5, 5, 5, 5, events=2).read(2)

    assert (bytes(data), last) == (body(3, 5) + body(4, 5), 4)


def test_eviction_by_count_keeps_exactly_max_events() -> None:
    ring = ring_of(*[10] * 25, events=7)

    assert (ring.oldest, ring.last, ring.held_bytes) == (19, 25, 70)


def test_eviction_by_bytes_keeps_at_most_max_bytes() -> None:
    ring = ring_of(*[10] * 25, limit=70)

    assert (ring.oldest, ring.last, ring.held_bytes) == (19, 25, 70)


def test_eviction_by_bytes_drops_no_more_than_it_must() -> None:
    ring = ring_of(10, 10, 10, 40, limit=60)

    assert (ring.oldest, ring.held_bytes) == (2, 60)


def test_newest_frame_larger_than_the_ring_is_held_alone() -> None:
    ring = ring_of(10, 10, 500, limit=100)

    assert (ring.oldest, ring.last, ring.held_bytes) == (3, 3, 500)
    assert drain(ring, 2) == (body(3, 500), 3)


def test_frame_behind_one_that_is_too_large_takes_its_place() -> None:
    ring = ring_of(10, 500, 20, limit=100)

    assert (ring.oldest, ring.held_bytes) == (3, 20)
    assert drain(ring, 2) == (body(3, 20), 3)


def test_ring_of_one_frame_holds_the_newest() -> None:
    ring = ring_of(*[100] * 100, events=1)

    assert ring.oldest == ring.last == 100
    assert drain(ring, 99) == (body(100, 100), 100)


def test_read_over_segments_gives_every_frame_once() -> None:
    sizes = [700] * 300
    ring = ring_of(*sizes)

    expected = b"".join(body(seq, size) for seq, size in enumerate(sizes, 1))
    assert drain(ring, 0) == (expected, 300)


@pytest.mark.parametrize("cursor", range(12))
def test_read_from_any_cursor_gives_the_rest(cursor: int) -> None:
    sizes = [900, 900, 900, 70_000, 1, 0, 5_000, 3_000, 200_000, 64, 65_536, 2_048]
    ring = ring_of(*sizes)

    rest = [body(seq, size) for seq, size in enumerate(sizes, 1)][cursor:]
    assert drain(ring, cursor) == (b"".join(rest), 12)


def test_read_stops_at_its_byte_limit_and_goes_on_from_there() -> None:
    ring = ring_of(*[10 * KIB] * 100)

    data, last = ring.read(0)

    assert MAX_READ_BYTES - MAX_SEGMENT_BYTES < len(data) <= MAX_READ_BYTES
    assert len(data) == last * 10 * KIB
    assert bytes(ring.read(last)[0]).startswith(body(last + 1, 10 * KIB))


def test_read_of_one_frame_beyond_the_limit_gives_it_whole() -> None:
    size = 2 * MAX_READ_BYTES
    ring = ring_of(size, 10)

    data, last = ring.read(0)

    assert (bytes(data), last) == (body(1, size), 1)


def test_read_of_one_large_frame_behind_small_ones_does_not_exceed_the_limit() -> None:
    ring = ring_of(10, MAX_READ_BYTES, 10)

    data, last = ring.read(0)

    assert (bytes(data), last) == (body(1, 10), 1)


def test_view_stays_the_same_bytes_when_frames_follow_and_are_evicted() -> None:
    ring = ring_of(100, 100, events=2)
    view, _ = ring.read(0)
    before = bytes(view)

    for size in itertools.repeat(500, 500):
        ring.push(b"\xff" * size)

    assert bytes(view) == before == body(1, 100) + body(2, 100)


def test_view_cannot_be_written_to() -> None:
    for view, _ in (ring_of(10).read(0), ring_of(10, 10).read(0)):
        assert memoryview(view).readonly


def test_frame_at_gives_one_frame_of_any_segment() -> None:
    sizes = [10, 3 * KIB, 0, 100 * KIB, 20, 20]
    ring = ring_of(*sizes)

    frames = [ring.frame_at(seq) for seq in range(1, 7)]

    assert frames == [body(seq, size) for seq, size in enumerate(sizes, 1)]


def test_ring_that_says_little_stays_small() -> None:
    assert FrameRing(1000, 10**7).allocated_bytes == MIN_SEGMENT_BYTES
    assert ring_of(*[100] * 5).allocated_bytes == MIN_SEGMENT_BYTES


def test_segments_double_up_to_their_limit() -> None:
    ring = FrameRing(10_000, 10**9)
    seen = [ring.allocated_bytes]
    for _ in range(2000):
        ring.push(b"x" * 128)
        if ring.allocated_bytes != seen[-1]:
            seen.append(ring.allocated_bytes)

    sizes = [after - before for before, after in itertools.pairwise([0, *seen])]
    assert sizes[:6] == [MIN_SEGMENT_BYTES << doubled for doubled in range(6)]
    assert set(sizes[5:]) == {MAX_SEGMENT_BYTES}


def test_segment_behind_a_large_frame_has_the_ordinary_size() -> None:
    ring = ring_of(10**6)
    before = ring.allocated_bytes

    ring.push(b"x")

    assert ring.allocated_bytes - before == MAX_SEGMENT_BYTES


def test_memory_is_given_back_when_frames_are_evicted() -> None:
    ring = ring_of(*[50_000] * 20, 10**6, *[100] * 10, events=5)

    assert ring.held_bytes == 500
    assert ring.allocated_bytes == MAX_SEGMENT_BYTES


def test_memory_of_frames_that_fill_no_segment_stays_within_the_promise() -> None:
    """Live frames, one segment at either end, and nothing for those in between."""
    limit = 4 * KIB * KIB
    ring = ring_of(*[MAX_SEGMENT_BYTES // 2 + 1] * 500, limit=limit)

    assert ring.allocated_bytes <= limit + 2 * MAX_SEGMENT_BYTES
