"""Messages as the SDK hands them over, and events as clients get them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from claude_agent_sdk import types as sdk

from webkit_core.codec import encode_payload
from webkit_core.protocol import Event
from webkit_core.translate import Translator

Wire = list[tuple[str, dict[str, Any]]]


def wire(events: Iterable[Event]) -> Wire:
    """Events as clients get them."""
    return [(e.EVENT, msgspec.json.decode(encode_payload(e))) for e in events]


def fed(translator: Translator, *messages: object) -> Wire:
    return [event for message in messages for event in wire(translator.feed(message))]


def stream(event: dict[str, Any], parent: str | None = None) -> sdk.StreamEvent:
    return sdk.StreamEvent("uuid", "session", event, parent)


def start(message_id: str = "msg_1", parent: str | None = None) -> sdk.StreamEvent:
    message = {"id": message_id, "model": "claude-x", "content": []}
    return stream({"type": "message_start", "message": message}, parent)


def block_start(
    block: dict[str, Any], index: int = 0, parent: str | None = None
) -> sdk.StreamEvent:
    event = {"type": "content_block_start", "index": index, "content_block": block}
    return stream(event, parent)


def delta(
    kind: str, index: int = 0, parent: str | None = None, **fields: Any
) -> sdk.StreamEvent:
    event = {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": kind, **fields},
    }
    return stream(event, parent)


def text_delta(text: str, parent: str | None = None) -> sdk.StreamEvent:
    return delta("text_delta", parent=parent, text=text)


def stop(reason: str | None = "end_turn", parent: str | None = None) -> list[object]:
    return [
        stream({"type": "content_block_stop", "index": 0}, parent),
        stream({"type": "message_delta", "delta": {"stop_reason": reason}}, parent),
        stream({"type": "message_stop"}, parent),
    ]


def assistant(
    *blocks: sdk.ContentBlock,
    message_id: str | None = "msg_1",
    parent: str | None = None,
    **fields: Any,
) -> sdk.AssistantMessage:
    return sdk.AssistantMessage(
        list(blocks), "claude-x", parent, message_id=message_id, **fields
    )


def complete(
    *content: dict[str, Any],
    message_id: str = "msg_1",
    stop_reason: str | None = None,
    **extra: Any,
) -> tuple[str, dict[str, Any]]:
    message = {
        "id": message_id,
        "role": "assistant",
        "content": list(content),
        "model": "claude-x",
        "stop_reason": stop_reason,
    }
    return "message_complete", {"message_id": message_id, "message": message, **extra}


def result(cost: float | None = None, **fields: Any) -> sdk.ResultMessage:
    return sdk.ResultMessage(
        "success", 10, 5, False, 1, "cli-session", total_cost_usd=cost, **fields
    )


TEXT = {"type": "text", "text": "Hello"}
THINKING = {"type": "thinking", "thinking": "hm", "signature": "sig"}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
SDK_TEXT = sdk.TextBlock("Hello")
SDK_THINKING = sdk.ThinkingBlock("hm", "sig")
SDK_TOOL = sdk.ToolUseBlock("toolu_1", "Bash", {"command": "ls"})
