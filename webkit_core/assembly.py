"""Assembly: assistant messages, put together from the pieces the CLI sends.

The CLI hands one message over as stream events while it is written, then one
``AssistantMessage`` per finished block, all with the same id. Clients replace what they
have for an id by the latest ``message_complete``, so each carries all blocks so far;
one more follows with the stop reason when the message ends.

Rules: pure; state is one message per conversation, the main one and each sub-agent's,
told apart by ``parent_tool_use_id``; a new message id replaces the old state.

Invariant: text deltas of a message, joined, equal its complete text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from .protocol import (
    AssistantMessage,
    Event,
    InputJsonDelta,
    MessageComplete,
    MessageDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUse,
    ToolUseBlock,
)

MAX_CONVERSATIONS: Final = 256
"""Conversations (main and sub-agents) whose current message is remembered."""

_SDK_BLOCKS: Final = frozenset(
    {
        "text",
        "thinking",
        "tool_use",
        "tool_result",
        "server_tool_use",
        "advisor_tool_result",
    }
)
"""Block types that the SDK's parser hands over; others are taken from the stream."""


class _Message:
    """One assistant message while it comes in."""

    __slots__ = ("blocks", "half", "id", "model", "stop_reason", "tools")

    def __init__(self, message_id: str, model: str) -> None:
        self.id = message_id
        self.model = model
        self.blocks: list[Any] = []
        self.stop_reason: str | None = None
        self.half = ""
        """Half a surrogate pair at a delta's end, held back until its other half."""
        self.tools: dict[int, tuple[str, str]] = {}
        """Block index to (tool use id, tool name): input deltas carry neither."""


class Assembly:
    """See the module.

    Args:
        deltas: which kinds of deltas are wanted.
    """

    __slots__ = (
        "_current",
        "_deltas",
    )

    def __init__(self, deltas: Iterable[str]) -> None:
        self._deltas = frozenset(deltas)
        self._current: dict[str | None, _Message] = {}

    def clear(self) -> None:
        """Forget every message; the conversation begins anew."""
        self._current.clear()

    def stream_event(self, message: Any) -> Iterable[Event]:
        """Take a piece of the message that is being written."""
        event: dict[str, Any] = message.event
        parent: str | None = message.parent_tool_use_id
        kind = event["type"]
        if kind == "content_block_delta":
            current = self._current.get(parent)
            return () if current is None else self._delta(current, event, parent)
        if kind == "message_start":
            started = event["message"]
            self._begin(parent, started["id"], started["model"])
            return ()
        current = self._current.get(parent)
        if current is None:
            return ()
        if kind == "content_block_start":
            self._block_start(current, event)
        elif kind == "message_delta":
            current.stop_reason = event["delta"].get("stop_reason")
        elif kind == "message_stop" and current.stop_reason is not None:
            return (_complete(current, parent),)
        return ()

    def assistant(self, message: Any) -> Iterable[Event]:
        """Take finished blocks."""
        parent: str | None = message.parent_tool_use_id
        message_id = message.message_id or message.uuid
        current = self._begin(parent, message_id, message.model)
        if message.stop_reason is not None:
            current.stop_reason = message.stop_reason
        new = [_block(block) for block in message.content]
        current.blocks.extend(new)
        events: list[Event] = []
        if current.half:  # its other half never came
            half, current.half = current.half, ""
            events.append(MessageDelta(current.id, TextDelta(half), parent))
        events.append(_complete(current, parent, message.error))
        events.extend(
            ToolUse(current.id, block.id, block.name, block.input, parent)
            for block in new
            if isinstance(block, ToolUseBlock)
        )
        return events

    def _begin(self, parent: str | None, message_id: str, model: str) -> _Message:
        current = self._current.get(parent)
        if current is None or current.id != message_id:
            current = _Message(message_id, model)
            self._current.pop(parent, None)
            self._current[parent] = current
            if len(self._current) > MAX_CONVERSATIONS:
                del self._current[next(iter(self._current))]
        return current

    def _block_start(self, current: _Message, event: dict[str, Any]) -> None:
        block = event["content_block"]
        if block["type"] == "tool_use":
            current.tools[event["index"]] = (block["id"], block["name"])
        elif block["type"] not in _SDK_BLOCKS:
            current.blocks.append(block)

    def _delta(
        self, current: _Message, event: dict[str, Any], parent: str | None
    ) -> Iterable[Event]:
        delta = event["delta"]
        kind = delta["type"]
        piece: TextDelta | InputJsonDelta | ThinkingDelta
        if kind == "text_delta":
            if "text" not in self._deltas:
                return ()
            text = _whole_characters(current, delta["text"])
            if not text:
                return ()
            piece = TextDelta(text)
        elif kind == "input_json_delta":
            tool = current.tools.get(event["index"])
            if tool is None or "tool_input" not in self._deltas:
                return ()
            piece = InputJsonDelta(*tool, delta["partial_json"])
        elif kind == "thinking_delta":
            if "thinking" not in self._deltas:
                return ()
            piece = ThinkingDelta(delta["thinking"])
        else:
            return ()
        return (MessageDelta(current.id, piece, parent),)


def _whole_characters(message: _Message, text: str) -> str:
    """Return what of a delta ends in whole characters."""
    if message.half:
        text, message.half = message.half + text, ""
    if text and "\ud800" <= text[-1] <= "\udbff":
        text, message.half = text[:-1], text[-1]
    return text


def _complete(
    message: _Message, parent: str | None, error: str | None = None
) -> MessageComplete:
    # The list is copied: the event is encoded at once, but an embedder may keep it.
    return MessageComplete(
        message.id,
        AssistantMessage(
            message.id, list(message.blocks), message.model, message.stop_reason, error
        ),
        parent,
    )


def _block(block: Any) -> Any:
    """Return a finished block as the Messages API writes it, with its type."""
    match type(block).__name__:
        case "TextBlock":
            return TextBlock(block.text)
        case "ThinkingBlock":
            return ThinkingBlock(block.thinking, block.signature)
        case "ToolUseBlock":
            return ToolUseBlock(block.id, block.name, block.input)
        case "ServerToolUseBlock":
            return {
                "type": "server_tool_use",
                "id": block.id,
                "name": block.name,
                "input": block.input,
            }
        case "ToolResultBlock":
            return {
                "type": "tool_result",
                "tool_use_id": block.tool_use_id,
                "content": block.content,
                "is_error": bool(block.is_error),
            }
        case "ServerToolResultBlock":
            # The one kind of server tool result that the SDK's parser knows.
            return {
                "type": "advisor_tool_result",
                "tool_use_id": block.tool_use_id,
                "content": block.content,
            }
        case other:
            return {"type": other}
