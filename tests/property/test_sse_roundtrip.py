"""Whatever events go out, a parser written from the specification gets them back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import example, given, strategies as st

from tests.sse_parser import ParsedEvent, SseParser
from tests.strategies import chunkings, event_names, json_values, on_the_wire, texts
from webkit_core import sse
from webkit_core.codec import encode_payload

SEQS = st.integers(1, sse.MAX_SEQ)


@dataclass(frozen=True)
class Sent:
    """A piece of a stream, and what a client should make of it."""

    raw: bytes
    seq: int | None = None
    event: str | None = None
    value: Any = None


def frames() -> st.SearchStrategy[Sent]:
    """A logged event, such as ``id: 1 / event: result / data: {}``."""

    def build(seq: int, event: str, value: Any) -> Sent:
        return Sent(sse.frame(seq, event, encode_payload(value)), seq, event, value)

    return st.builds(build, SEQS, event_names(), json_values())


def pieces() -> st.SearchStrategy[Sent]:
    """Everything a stream can carry."""

    def without_id(event: str, value: Any) -> Sent:
        raw = sse.frame_without_id(event, encode_payload(value))
        return Sent(raw, None, event, value)

    return (
        frames()
        | st.builds(without_id, event_names(), json_values())
        | st.just(Sent(sse.KEEPALIVE))
        | st.builds(lambda ms: Sent(sse.retry(ms)), st.integers(0, 10**6))
    )


@given(st.lists(pieces(), max_size=6), st.data())
def test_stream_in_any_chunking_parses_back_into_its_events(
    stream: list[Sent], data: st.DataObject
) -> None:
    raw = b"".join(piece.raw for piece in stream)
    parser = SseParser()

    got: list[ParsedEvent] = []
    for chunk in data.draw(chunkings(raw)):
        got += parser.feed(chunk)

    seq, expected = "", []
    for piece in stream:
        seq = str(piece.seq) if piece.seq is not None else seq
        if piece.event is not None:
            expected.append((piece.event, on_the_wire(piece.value), seq))
    assert [(e.type, json.loads(e.data), e.last_event_id) for e in got] == expected
    assert parser.comments == [" keepalive"] * sum(
        piece.raw == sse.KEEPALIVE for piece in stream
    )


@given(text=texts(), key=texts())
@example(text="\n\nid: 99\nevent: done\ndata: {}\n\n", key="\r\r")
@example(text="\u2028data: x\u2029", key="\0")
def test_no_text_injects_a_field_or_a_frame(text: str, key: str) -> None:
    raw = sse.frame(7, "tool_result", encode_payload({key: text}))
    parser = SseParser()

    (event,) = parser.feed(raw)

    assert raw.count(b"\n") == 4
    assert (event.type, event.last_event_id) == ("tool_result", "7")
    assert json.loads(event.data) == on_the_wire({key: text})
    assert (parser.retry_ms, parser.comments) == (None, [])


@given(frames())
def test_parse_frame_is_the_inverse_of_frame(sent: Sent) -> None:
    seq, event, payload = sse.parse_frame(sent.raw)

    assert (seq, event, payload) == (
        sent.seq,
        sent.event,
        encode_payload(sent.value),
    )


@given(SEQS, event_names(), json_values())
def test_id_of_a_frame_is_a_cursor_that_can_come_back(
    seq: int, event: str, value: Any
) -> None:
    parser = SseParser()

    parser.feed(sse.frame(seq, event, encode_payload(value)))

    assert sse.parse_last_event_id(parser.last_event_id) == seq
