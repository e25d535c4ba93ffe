from __future__ import annotations

import json
import logging

import pytest
from claude_agent_sdk import (
    ClaudeSDKError,
    CLIJSONDecodeError,
    CLINotFoundError,
    ProcessError,
    ResultError,
)

from webkit_core.claude_errors import failed_start, hush_sdk, why_stream_broke

QUOTING = CLIJSONDecodeError('{"hunter2', json.JSONDecodeError("x", '{"hunter2', 1))
TOO_LONG = CLIJSONDecodeError("JSON message exceeded", ValueError("9 exceeds 8"))
NO_UTF8 = UnicodeDecodeError("utf-8", b"hunter2\xff", 7, 8, "invalid start byte")
REFUSED = ResultError(
    "Claude Code returned an error result: No conversation", {}, exit_code=1
)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ProcessError("failed", exit_code=-9), "the agent's process was killed (SIGK"),
        (ProcessError("failed", exit_code=1), "the agent's process exited with code 1"),
        (REFUSED, "the agent's process exited with code 1"),
        (ClaudeSDKError("odd end"), "odd end"),
        (QUOTING, "the agent's output has a line that is no JSON"),
        (TOO_LONG, "the agent's output has a line that is too long"),
        (NO_UTF8, "the agent's output is no UTF-8"),
    ],
)
def test_stream_that_breaks_says_how_in_words(error: Exception, why: str) -> None:
    said = why_stream_broke(error)

    assert said is not None
    assert said.startswith(why)
    assert "hunter2" not in said


def test_stream_that_breaks_otherwise_is_nobodys_words() -> None:
    assert why_stream_broke(ZeroDivisionError("division by zero")) is None


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ProcessError("failed", exit_code=1), "the agent's process exited with code 1"),
        (CLINotFoundError("Claude Code not found"), "Claude Code not found"),
        (Exception("Control request timeout: initialize"), "Control request timeout"),
        (PermissionError(), "PermissionError"),
        (REFUSED, "Claude Code returned an error result: No conversation"),
        (QUOTING, "the agent's output has a line that is no JSON"),
    ],
)
def test_start_that_failed_says_why_and_quotes_standard_error(
    error: Exception, why: str
) -> None:
    said = str(failed_start(error, "Not logged in"))

    assert said.startswith(why)
    assert said.endswith("; it said: Not logged in")
    assert "it said" not in str(failed_start(error, ""))


def test_sdk_quotes_output_at_level_debug_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    reader = logging.getLogger("claude_agent_sdk._internal.query")
    hush_sdk()
    hush_sdk()

    reader.error("Fatal error in message reader: %s", "hunter2")
    reader.error("Prompt stream failed")

    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("DEBUG", "Fatal error in message reader: hunter2"),
        ("ERROR", "Prompt stream failed"),
    ]
