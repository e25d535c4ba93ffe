"""Typical events, and the messages they come from."""

from __future__ import annotations

from typing import Any

from claude_agent_sdk.types import StreamEvent

MESSAGE_ID = "msg_01XFDUDYJgAACzvnptvVoYEL"

PAYLOAD: dict[str, Any] = {
    "message_id": MESSAGE_ID,
    "delta": {"type": "text", "text": " hello world"},
}
"""What a client gets of a text delta: the most frequent event by far."""


def sdk_message(event: dict[str, Any]) -> StreamEvent:
    """Return a streaming message as the SDK hands it over."""
    return StreamEvent(uuid="u", session_id="s", event=event)


START = sdk_message(
    {
        "type": "message_start",
        "message": {"id": MESSAGE_ID, "model": "claude", "content": []},
    }
)
DELTA = sdk_message(
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": " hello world"},
    }
)
