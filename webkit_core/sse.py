"""Server-Sent Events as bytes: frames, comments, the retry line, the resume cursor.

Source: WHATWG HTML, "Server-sent events" (9.2).

Rules: payloads arrive as finished JSON on one line, so a frame has exactly one
``data:`` line; event names are ours, never a client's. Invariant: whatever text a
payload carries, the frame parses back into one event with that id, name and data,
because JSON escapes CR and LF and neither can reach the wire from a payload.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from .errors import InvalidCursor

MAX_SEQ: Final = 2**53 - 1
"""Largest event id: beyond it a JavaScript client cannot tell neighbours apart."""

KEEPALIVE: Final = b": keepalive\n\n"
"""A comment: keeps proxies and NATs from closing a quiet stream; clients drop it."""

_MAX_CURSOR_DIGITS: Final = len(str(MAX_SEQ))


def frame(seq: int, event: str, payload: bytes) -> bytes:
    """Return the frame of a logged event. ``payload`` is JSON on one line."""
    return b"id: %d%b%b\n\n" % (seq, _between(event), payload)


@lru_cache(256)
def _between(event: str) -> bytes:
    """Return what stands between a frame's number and its payload."""
    return b"\nevent: %b\ndata: " % event.encode("ascii")


def frame_without_id(event: str, payload: bytes) -> bytes:
    """Return a frame made up for one subscriber: it leaves its cursor alone."""
    return b"event: %b\ndata: %b\n\n" % (event.encode("ascii"), payload)


def retry(delay_ms: int) -> bytes:
    """Return the line that sets how long a client waits before it reconnects."""
    return b"retry: %d\n\n" % delay_ms


def parse_frame(data: bytes) -> tuple[int, str, bytes]:
    """Take apart one frame that :func:`frame` made: ``(seq, event, payload)``.

    For embedders that read the log as objects; not a parser for foreign streams.
    """
    id_line, event_line, data_line = data[:-2].split(b"\n", 2)
    return int(id_line[4:]), event_line[7:].decode("ascii"), data_line[6:]


def parse_last_event_id(text: str) -> int:
    """Return the cursor a client resumes after.

    Raises:
        InvalidCursor: ``text`` is not a decimal number below 2**53.
    """
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_CURSOR_DIGITS:
        raise InvalidCursor(
            f"Last-Event-ID must be a decimal number below 2**53, got {text[:40]!r}"
        )
    seq = int(text)
    if seq > MAX_SEQ:
        raise InvalidCursor(f"Last-Event-ID must be below 2**53, got {seq}")
    return seq
