"""Log lines: a handler for what this project says, and JSON lines on request.

uvicorn sets up handlers for itself and for nobody else, so without this the creation
and end of sessions would be said to no one. Only the application that uvicorn loads by
name does it; embedders have logging of their own.

Rules: a handler that somebody else has set up is left alone, but for uvicorn's; a JSON
line is one object on one line, and carries the session's id and the trace's where there
are any.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from opentelemetry import trace

from webkit_core import encode_payload

LogFormat = Literal["text", "json"]

PACKAGES: Final = ("webkit_core", "webkit_asgi")
SERVER: Final = ("uvicorn", "uvicorn.access")


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (session_id := getattr(record, "session_id", None)) is not None:
            line["session_id"] = session_id
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = format(context.trace_id, "032x")
            line["span_id"] = format(context.span_id, "016x")
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return encode_payload(line).decode()


class OwnHandler(logging.StreamHandler[TextIO]):
    """A handler of ours, whose format is ours to choose."""


def set_up_logging(form: LogFormat) -> None:
    """Let what this project says be seen, in ``form``; uvicorn's lines too.

    Idempotent.
    """
    formatter: logging.Formatter = (
        JsonLines()
        if form == "json"
        else logging.Formatter("%(levelname)s:     %(message)s")
    )
    for name in PACKAGES:
        logger = logging.getLogger(name)
        if not logger.hasHandlers():
            logger.addHandler(OwnHandler(sys.stderr))
            logger.setLevel(logger.level or logging.INFO)
        for handler in logger.handlers:
            if isinstance(handler, OwnHandler):
                handler.setFormatter(formatter)
    if form == "json":
        for name in SERVER:
            for handler in logging.getLogger(name).handlers:
                handler.setFormatter(formatter)
