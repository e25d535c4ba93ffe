"""What the SDK's errors say, in words that are fit for a log and for clients.

Tells them by their names, so that it needs no import of the SDK.

Rule: nothing that an agent wrote to its output is in an error or above level debug in a
log: it may be anything, a user's password included.

Source: claude-agent-sdk 0.2.187.
"""

from __future__ import annotations

import json
import logging
from typing import Final

from .errors import AgentStartError
from .process import describe_exit

_READER: Final = logging.getLogger("claude_agent_sdk._internal.query")


def why_stream_broke(error: Exception) -> str | None:
    """Return why the agent's messages ended; None for what nobody has foreseen."""
    kinds = _kinds(error)
    if "ProcessError" in kinds:
        return describe_exit(getattr(error, "exit_code", None))
    if "CLIJSONDecodeError" in kinds:
        cut = isinstance(getattr(error, "original_error", None), json.JSONDecodeError)
        return (
            f"the agent's output has a line that is {'no JSON' if cut else 'too long'}"
        )
    if "UnicodeDecodeError" in kinds:
        return "the agent's output is no UTF-8"
    return str(error) if "ClaudeSDKError" in kinds else None


def failed_start(error: Exception, said: str) -> AgentStartError:
    """Return the error of a start that failed.

    Args:
        error: what failed; among others a bare Exception, when a request times out.
        said: what the CLI wrote to its standard error.
    """
    # A result that the CLI ended with says more than its exit code.
    reason = None if "ResultError" in _kinds(error) else why_stream_broke(error)
    reason = reason or str(error) or type(error).__name__
    return AgentStartError(f"{reason}; it said: {said}" if said else reason)


def hush_sdk() -> None:
    """Keep what agents write out of the SDK's log above level debug. Idempotent."""
    _READER.addFilter(_unless_it_quotes)


def _unless_it_quotes(record: logging.LogRecord) -> bool:
    """Demote the one line in which the SDK quotes the output it cannot read."""
    if record.levelno > logging.DEBUG and record.getMessage().startswith("Fatal error"):
        _READER.debug("%s", record.getMessage())
        return False
    return True


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
