"""A parser of event streams, from the specification alone.

Source: WHATWG HTML, 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event
stream". It shares no line with :mod:`webkit_core.sse`, so that a mistake there cannot
hide here. Bytes may come in any chunking.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ParsedEvent:
    """One dispatched event, as an ``EventSource`` would hand it over."""

    type: str
    data: str
    last_event_id: str


@dataclass
class SseParser:
    """Feed it bytes, get events; what the stream set on the way is in the fields."""

    last_event_id: str = ""
    retry_ms: int | None = None
    comments: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # "Streams must be decoded using the UTF-8 decode algorithm": a leading byte
        # order mark is stripped, bad bytes become U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._after_cr = False
        self._line: list[str] = []
        self._id_buffer = self.last_event_id
        self._type = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ParsedEvent]:
        """Return the events that ``chunk`` completes."""
        text = self._decoder.decode(chunk)
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        events: list[ParsedEvent] = []
        for character in text:
            # "Lines must be separated by either a CRLF pair, a single LF, or a single
            # CR": the LF of a pair ends nothing again.
            if character == "\n" and self._after_cr:
                self._after_cr = False
                continue
            self._after_cr = character == "\r"
            if character in "\r\n":
                line = "".join(self._line)
                self._line.clear()
                self._take_line(line, events)
            else:
                self._line.append(character)
        return events

    def _take_line(self, line: str, events: list[ParsedEvent]) -> None:
        if not line:
            self._dispatch(events)
        elif line.startswith(":"):
            self.comments.append(line[1:])
        else:
            name, _, value = line.partition(":")
            self._take_field(name, value.removeprefix(" "))

    def _take_field(self, name: str, value: str) -> None:
        if name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            if "\0" not in value:
                self._id_buffer = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)

    def _dispatch(self, events: list[ParsedEvent]) -> None:
        # "Set the last event ID string … If the data buffer is an empty string, set
        # the data buffer and the event type buffer to the empty string and return."
        self.last_event_id = self._id_buffer
        data, kind = self._data, self._type
        self._data, self._type = [], ""
        # Each data field appends its value and an LF; one LF is stripped at the end.
        if data:
            events.append(
                ParsedEvent(kind or "message", "\n".join(data), self.last_event_id)
            )
