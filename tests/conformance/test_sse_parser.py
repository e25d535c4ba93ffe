"""The tests' own event-stream parser does what the specification says."""

from __future__ import annotations

import pytest

from tests.sse_parser import ParsedEvent, SseParser


def message(data: str, last_event_id: str = "", kind: str = "message") -> ParsedEvent:
    return ParsedEvent(kind, data, last_event_id)


# The first four are the examples of section 9.2.6.
STREAMS = [
    pytest.param(
        b"data: YHOO\ndata: +2\ndata: 10\n\n",
        [message("YHOO\n+2\n10")],
        id="several-data-lines",
    ),
    pytest.param(
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
        b"data:  third event\n\n",
        [message("first event", "1"), message("second event"), message(" third event")],
        id="ids-set-and-reset",
    ),
    pytest.param(
        b"data\n\ndata\ndata\n\ndata:",
        [message(""), message("\n")],
        id="empty-data-and-unfinished-end",
    ),
    pytest.param(b"data:test\n\ndata: test\n\n", [message("test")] * 2, id="one-space"),
    pytest.param(b"data: a\r\ndata: b\r\n\r\n", [message("a\nb")], id="crlf"),
    pytest.param(b"data: a\rdata: b\r\r", [message("a\nb")], id="cr"),
    pytest.param(b"data: a\n\r\n", [message("a")], id="mixed-line-ends"),
    pytest.param(b"event: x\n\ndata: a\n\n", [message("a")], id="type-without-data"),
    pytest.param(b"event: x\ndata: a\n\n", [message("a", kind="x")], id="type"),
    pytest.param(b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n",
                 [message("a", "1"), message("b", "1")], id="nul-in-id"),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", [message("a")], id="byte-order-mark"),
    pytest.param(b"foo: x\nDATA: y\ndata : z\ndata: a\n\n", [message("a")],
                 id="unknown-fields"),
    pytest.param("data: \u2028\x85\x0b\n\n".encode(), [message("\u2028\x85\x0b")],
                 id="other-line-ends-are-text"),
]  # fmt: skip


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize(("stream", "expected"), STREAMS)
def test_parser_any_chunk_size_gives_the_events_of_the_spec(
    stream: bytes, expected: list[ParsedEvent], step: int
) -> None:
    parser = SseParser()

    events: list[ParsedEvent] = []
    for start in range(0, len(stream), step):
        events += parser.feed(stream[start : start + step])

    assert events == expected


@pytest.mark.parametrize(
    ("line", "retry_ms"),
    [(b"retry: 30\n", 30), (b"retry: 3x\n", None), (b"retry: -3\n", None)],
)
def test_parser_retry_takes_digits_only(line: bytes, retry_ms: int | None) -> None:
    parser = SseParser()

    assert parser.feed(line) == []
    assert parser.retry_ms == retry_ms


def test_parser_id_without_data_is_the_last_event_id() -> None:
    parser = SseParser()

    assert parser.feed(b"id: 5\n") == []
    assert parser.last_event_id == ""
    assert parser.feed(b"\n") == []
    assert parser.last_event_id == "5"


def test_parser_comments_are_kept_apart() -> None:
    parser = SseParser()

    assert parser.feed(b": keepalive\n\n:\n") == []
    assert parser.comments == [" keepalive", ""]
