from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, use_span

from webkit_asgi.logs import PACKAGES, JsonLines, LogFormat, set_up_logging

SERVER = ("uvicorn", "uvicorn.access")
"""The loggers that uvicorn gives handlers to."""

LOGGERS = ("", "webkit_core", "webkit_asgi", "uvicorn", "uvicorn.access")


@contextmanager
def silence() -> Iterator[None]:
    """No logger has a handler, as in a process that has just begun.

    No fixture: pytest puts its own handlers there between a fixture and the test.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
        logger.level = logging.NOTSET
    logging.getLogger().setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)


class Lines(logging.StreamHandler[io.StringIO]):
    """Somebody's own handler, with or without a format of their own."""

    def __init__(self, form: str | None = None) -> None:
        super().__init__(io.StringIO())
        self.form = None if form is None else logging.Formatter(form)
        self.setFormatter(self.form)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    return logging.getLogger("webkit_asgi.test").makeRecord(
        "webkit_asgi.test", logging.WARNING, "a file", 1, message, args, None, **more
    )


def line_of(said: logging.LogRecord) -> dict[str, Any]:
    """Return the one line's object."""
    text = JsonLines().format(said)
    assert "\n" not in text
    assert "\r" not in text
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


# --- JSON lines


def test_json_line_says_what_was_said_when_and_by_whom() -> None:
    said = record("%d of %s", 3, "seven")

    line = line_of(said)

    at = datetime.fromisoformat(line.pop("time"))
    assert at.tzinfo == UTC
    assert abs(at.timestamp() - said.created) < 0.002
    assert line == {
        "level": "warning",
        "logger": "webkit_asgi.test",
        "message": "3 of seven",
    }


def test_json_line_has_the_session() -> None:
    line = line_of(record("ended", extra={"session_id": "a-session"}))

    assert line["session_id"] == "a-session"


def test_json_line_of_an_empty_session_id_has_it() -> None:
    assert line_of(record("x", extra={"session_id": ""}))["session_id"] == ""


def test_json_line_has_the_trace_it_was_said_in() -> None:
    """In hexadecimal, as other programs write them, zeros in front and all."""
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False))
    with use_span(span):
        line = line_of(record("in the trace"))

    assert line["trace_id"] == "00000000000000000000000000000abc"
    assert line["span_id"] == "0000000000000def"


def test_json_line_outside_a_trace_has_none() -> None:
    assert (
        not {"trace_id", "span_id", "exception", "session_id"}
        & line_of(record("outside")).keys()
    )


def test_json_line_has_the_exception_on_the_same_line() -> None:
    try:
        raise ZeroDivisionError("by\nzero")
    except ZeroDivisionError:
        said = record("it broke")
        said.exc_info = sys.exc_info()

    line = line_of(said)

    assert line["message"] == "it broke"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ZeroDivisionError: by\nzero")


@pytest.mark.parametrize(
    "text",
    [
        'x\n{"level": "critical", "message": "forged"}',
        'x\r\n{"level": "critical"}',
        'x", "level": "critical',
        "\x00\x1b[31m\x7f",
        "half a pair: \ud83d",
        "é … 😀",
    ],
)
def test_json_line_of_odd_text_is_one_line_of_that_text(text: str) -> None:
    line = line_of(record("said: %s", text, extra={"session_id": text}))

    shown = text.replace("\ud83d", "�")
    assert line["message"] == f"said: {shown}"
    assert line["session_id"] == shown
    assert line["level"] == "warning"


# --- setting up


@pytest.mark.parametrize("form", ["text", "json"])
@silence()
def test_set_up_logging_lets_what_this_project_says_be_seen(
    form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging(form)

    logging.getLogger("webkit_core.registry").info("session %s created", "s-1")
    logging.getLogger("webkit_asgi.application").info("draining")
    logging.getLogger("webkit_asgi.application").debug("too much")

    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 2
    if form == "json":
        messages = [json.loads(line)["message"] for line in lines]
        assert messages == ["session s-1 created", "draining"]
    else:
        assert lines == ["INFO:     session s-1 created", "INFO:     draining"]


@silence()
def test_set_up_logging_twice_says_everything_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging("text")
    set_up_logging("json")

    logging.getLogger("webkit_core").info("once")

    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "once"


@silence()
def test_set_up_logging_leaves_others_loggers_alone() -> None:
    set_up_logging("json")

    assert logging.getLogger().handlers == []
    assert logging.getLogger().level == logging.WARNING
    assert logging.getLogger("uvicorn").handlers == []


@silence()
def test_set_up_logging_leaves_a_level_that_somebody_has_set() -> None:
    logging.getLogger("webkit_core").setLevel(logging.ERROR)

    set_up_logging("text")

    assert logging.getLogger("webkit_core").level == logging.ERROR
    assert logging.getLogger("webkit_asgi").level == logging.INFO


@silence()
def test_set_up_logging_beside_a_handler_of_the_root_adds_none() -> None:
    """Everything would be said twice."""
    theirs = Lines("theirs: %(message)s")
    logging.getLogger().addHandler(theirs)

    set_up_logging("text")

    for name in PACKAGES:
        assert logging.getLogger(name).handlers == []
        assert logging.getLogger(name).level == logging.NOTSET
    logging.getLogger("webkit_asgi").warning("hello")
    assert theirs.lines == ["theirs: hello"]


@pytest.mark.parametrize("name", PACKAGES)
@silence()
def test_set_up_logging_beside_a_handler_of_ours_adds_none(name: str) -> None:
    theirs = Lines()
    logging.getLogger(name).addHandler(theirs)

    set_up_logging("text")

    assert logging.getLogger(name).handlers == [theirs]
    (other,) = set(PACKAGES) - {name}
    assert len(logging.getLogger(other).handlers) == 1


@pytest.mark.parametrize("name", SERVER)
@silence()
def test_set_up_logging_in_json_has_the_servers_lines_in_json_too(name: str) -> None:
    theirs = Lines("%(message)s")
    logging.getLogger(name).addHandler(theirs)

    set_up_logging("json")

    logging.getLogger(name).error("of the server")
    (line,) = theirs.lines
    assert json.loads(line)["message"] == "of the server"
    assert json.loads(line)["logger"] == name


@pytest.mark.parametrize("name", SERVER)
@silence()
def test_set_up_logging_in_text_leaves_the_servers_lines_as_they_are(name: str) -> None:
    theirs = Lines("theirs: %(message)s")
    logging.getLogger(name).addHandler(theirs)

    set_up_logging("text")

    assert logging.getLogger(name).handlers == [theirs]
    assert theirs.formatter is theirs.form


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("name", PACKAGES)
@silence()
def test_set_up_logging_leaves_a_handler_of_somebody_elses_its_format(
    name: str, form: LogFormat
) -> None:
    """They have put it there, and they read what it writes."""
    theirs = Lines("theirs: %(message)s")
    logging.getLogger(name).addHandler(theirs)

    set_up_logging(form)

    assert theirs.formatter is theirs.form
    logging.getLogger(name).warning("hello")
    assert theirs.lines == ["theirs: hello"]


@silence()
def test_set_up_logging_beside_a_handler_that_came_later_changes_ours_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging("text")
    theirs = Lines("theirs: %(message)s")
    logging.getLogger("webkit_core").addHandler(theirs)

    set_up_logging("json")

    logging.getLogger("webkit_core").info("hello")
    assert theirs.lines == ["theirs: hello"]
    assert json.loads(capsys.readouterr().err)["message"] == "hello"


@pytest.mark.parametrize("form", ["text", "json"])
@silence()
def test_set_up_logging_leaves_a_handler_of_the_root_its_format(
    form: LogFormat,
) -> None:
    theirs = Lines("theirs: %(message)s")
    logging.getLogger().addHandler(theirs)

    set_up_logging(form)

    assert theirs.formatter is theirs.form


@silence()
def test_set_up_logging_beside_a_logger_that_says_nothing_to_its_parents() -> None:
    """The root's handler does not hear of it, so that it needs one of its own."""
    theirs = Lines("%(message)s")
    logging.getLogger().addHandler(theirs)
    quiet = logging.getLogger("webkit_core")
    quiet.propagate = False
    try:
        set_up_logging("text")
        assert len(quiet.handlers) == 1
    finally:
        quiet.propagate = True
    assert logging.getLogger("webkit_asgi").handlers == []
