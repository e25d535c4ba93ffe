from __future__ import annotations

import pytest

from tests.sse_parser import ParsedEvent, SseParser
from webkit_core import sse
from webkit_core.errors import InvalidCursor


def test_frame_has_id_event_and_one_data_line() -> None:
    assert sse.frame(7, "result", b'{"a":1}') == (
        b'id: 7\nevent: result\ndata: {"a":1}\n\n'
    )


def test_frame_of_the_largest_id_is_written_in_full() -> None:
    assert sse.frame(sse.MAX_SEQ, "x", b"{}").startswith(b"id: 9007199254740991\n")


def test_frame_without_id_leaves_the_cursor_alone() -> None:
    parser = SseParser()

    parser.feed(sse.frame(7, "result", b"{}"))
    events = parser.feed(sse.frame_without_id("error", b'{"code":"evicted"}'))

    assert events == [ParsedEvent("error", '{"code":"evicted"}', "7")]


@pytest.mark.parametrize("event", ["naïve", "e\u2028", "\ud800"])
def test_frame_event_name_beyond_ascii_is_refused(event: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        sse.frame(1, event, b"{}")
    with pytest.raises(UnicodeEncodeError):
        sse.frame_without_id(event, b"{}")


def test_keepalive_is_a_comment_and_nothing_else() -> None:
    parser = SseParser()

    assert parser.feed(sse.KEEPALIVE) == []
    assert parser.comments == [" keepalive"]


def test_retry_sets_the_reconnection_time() -> None:
    parser = SseParser()

    assert parser.feed(sse.retry(2500)) == []
    assert parser.retry_ms == 2500


def test_retry_does_not_eat_the_frame_behind_it() -> None:
    events = SseParser().feed(sse.retry(1) + sse.frame(1, "x", b"{}"))

    assert events == [ParsedEvent("x", "{}", "1")]


@pytest.mark.parametrize(
    "parts",
    [
        (1, "session_ready", b"{}"),
        (2**53 - 1, "x", b'{"text":"id: 3 event: y data: z"}'),
        (12, "a_b", b'"' + b"x" * 1000 + b'"'),
    ],
)
def test_parse_frame_takes_apart_what_frame_made(parts: tuple[int, str, bytes]) -> None:
    assert sse.parse_frame(sse.frame(*parts)) == parts


@pytest.mark.parametrize(
    ("text", "seq"),
    [
        ("0", 0),
        ("1", 1),
        ("007", 7),
        ("9007199254740991", 2**53 - 1),
        ("0000000000000001", 1),
    ],
)
def test_parse_last_event_id_decimal_number_is_the_cursor(text: str, seq: int) -> None:
    assert sse.parse_last_event_id(text) == seq


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "1 ",
        " 1",
        "1.0",
        "1e3",
        "0x1",
        "1_000",
        "abc",
        "1,2",
        "²",
        "٣",
        "1\n",
        "1\0",
        "9007199254740992",
        "9" * 16,
        "9" * 100_000,
        "0" * 17,
    ],
)
def test_parse_last_event_id_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor, match="Last-Event-ID") as caught:
        sse.parse_last_event_id(text)

    assert len(str(caught.value)) < 200
