"""SDK messages in, protocol events out.

The CLI hands one assistant message over in pieces: stream events while it is written,
then one ``AssistantMessage`` per finished block, all with the same id. Clients replace
what they have for an id by the latest ``message_complete``, so each carries all blocks
so far, and one more follows with the stop reason when the message ends.

Rules:

1. Pure: no clock, no I/O, no SDK import. Messages are told apart by class name, so
   anything shaped like the SDK's will do, and a kind never seen is reported once.
2. State is one message per conversation: the main one, and each sub-agent's, told
   apart by ``parent_tool_use_id``. A new message id replaces the old state.
3. Ids are the SDK's.

Invariant: text deltas of a message, joined, equal its complete text.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Collection, Iterable
from inspect import isawaitable
from typing import Any, Final

from .permissions import Emit
from .protocol import (
    DEFAULT_DELTAS,
    AssistantMessage,
    Error,
    Event,
    InputJsonDelta,
    McpStatusChange,
    MessageComplete,
    MessageDelta,
    Notice,
    Result,
    TaskStatus,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolResult,
    ToolUse,
    ToolUseBlock,
)

MAX_CONVERSATIONS: Final = 256
"""Conversations (main and sub-agents) whose current message is remembered."""

NOTICES: Final = frozenset({"api_retry", "compact_boundary"})
"""System subtypes that people want to see; the rest is the CLI's own bookkeeping."""

_ENVELOPE: Final = frozenset({"type", "subtype", "session_id", "uuid"})

TASK_ENDED: Final = frozenset({"completed", "failed", "stopped", "killed"})
"""Task statuses after which nothing more comes (SDK: ``TERMINAL_TASK_STATUSES``)."""

_SDK_BLOCKS: Final = frozenset(
    {"text", "thinking", "tool_use", "server_tool_use", "advisor_tool_result"}
)
"""Block types that the SDK's parser hands over; it drops all others."""


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


class Translator:
    """Turns one session's SDK messages into events; see the module.

    Args:
        session_id: the wire session's id, put into results.
        deltas: which kinds of deltas are wanted.
        on_unknown: called once per message kind that is not known.
    """

    def __init__(
        self,
        session_id: str,
        *,
        deltas: Collection[str] = DEFAULT_DELTAS,
        on_unknown: Callable[[str], None] | None = None,
    ) -> None:
        self._session_id = session_id
        self._deltas = frozenset(deltas)
        self._on_unknown = on_unknown
        self._unknown: set[str] = set()
        self._current: dict[str | None, _Message] = {}
        self._mcp: dict[str, str] = {}
        self._running_total_usd = 0.0
        self._session_cost_usd = 0.0

    @property
    def session_cost_usd(self) -> float:
        """What the session has cost so far, in US dollars."""
        return self._session_cost_usd

    def feed(self, message: object) -> Iterable[Event]:
        """Return the events that ``message`` means, in order; often none."""
        kind = type(message).__name__
        handler = _HANDLERS.get(kind)
        if handler is None:
            self._report(kind)
            return ()
        return handler(self, message)

    def _report(self, kind: str) -> None:
        if kind not in self._unknown:
            self._unknown.add(kind)
            if self._on_unknown is not None:
                self._on_unknown(kind)

    # --- while a message is written

    def _stream_event(self, message: Any) -> Iterable[Event]:
        event: dict[str, Any] = message.event
        parent: str | None = message.parent_tool_use_id
        kind = event["type"]
        if kind == "content_block_delta":
            current = self._current.get(parent)
            return () if current is None else self._delta(current, event, parent)
        if kind == "message_start":
            started = event["message"]
            self._begin(parent, started["id"], started["model"])
        elif kind == "content_block_start":
            return self._block_start(event, parent)
        elif kind == "message_delta":
            current = self._current.get(parent)
            if current is not None:
                current.stop_reason = event["delta"].get("stop_reason")
        elif kind == "message_stop":
            current = self._current.get(parent)
            if current is not None and current.stop_reason is not None:
                return (_complete(current, parent),)
        return ()

    def _block_start(
        self, event: dict[str, Any], parent: str | None
    ) -> Iterable[Event]:
        current = self._current.get(parent)
        if current is None:
            return ()
        block = event["content_block"]
        if block["type"] == "tool_use":
            current.tools[event["index"]] = (block["id"], block["name"])
        elif block["type"] not in _SDK_BLOCKS:
            current.blocks.append(block)
        return ()

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

    # --- what is finished

    def _begin(self, parent: str | None, message_id: str, model: str) -> _Message:
        current = self._current.get(parent)
        if current is None or current.id != message_id:
            current = _Message(message_id, model)
            self._current.pop(parent, None)
            self._current[parent] = current
            if len(self._current) > MAX_CONVERSATIONS:
                del self._current[next(iter(self._current))]
        return current

    def _assistant(self, message: Any) -> Iterable[Event]:
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

    def _user(self, message: Any) -> Iterable[Event]:
        """Tool results; other user messages are echoes of what clients know."""
        if isinstance(message.content, str):
            return ()
        parent: str | None = message.parent_tool_use_id
        return [
            ToolResult(
                block.tool_use_id,
                "" if block.content is None else block.content,
                bool(block.is_error),
                parent,
            )
            for block in message.content
            if type(block).__name__ == "ToolResultBlock"
        ]

    def _result(self, message: Any) -> Iterable[Event]:
        cost = self._turn_cost(message.total_cost_usd)
        return (
            Result(
                session_id=self._session_id,
                subtype=message.subtype,
                is_error=message.is_error,
                total_cost_usd=cost,
                session_cost_usd=self._session_cost_usd,
                duration_ms=message.duration_ms,
                duration_api_ms=message.duration_api_ms,
                num_turns=message.num_turns,
                stop_reason=message.stop_reason,
                terminal_reason=message.terminal_reason,
                result=message.result,
                structured_output=message.structured_output,
                usage=message.usage,
                model_usage=message.model_usage,
                permission_denials=message.permission_denials or None,
                errors=message.errors or None,
                api_error_status=message.api_error_status,
            ),
        )

    def _turn_cost(self, running_total_usd: float | None) -> float | None:
        """Return this turn's cost; the CLI reports a running total."""
        if running_total_usd is None:
            return None
        if running_total_usd < self._running_total_usd:  # the CLI began anew
            self._running_total_usd = 0.0
        cost = round(running_total_usd - self._running_total_usd, 10)
        self._running_total_usd = running_total_usd
        self._session_cost_usd = round(self._session_cost_usd + cost, 10)
        return cost

    # --- what the agent tells about itself

    def _system(self, message: Any) -> Iterable[Event]:
        if message.subtype == "init":
            return self._mcp_changes(message.data.get("mcp_servers") or ())
        if message.subtype in NOTICES:
            details = {k: v for k, v in message.data.items() if k not in _ENVELOPE}
            return (Notice(message.subtype, details),)
        return ()

    def _mcp_changes(self, servers: Iterable[dict[str, Any]]) -> Iterable[Event]:
        events = []
        for server in servers:
            name, status = server["name"], server["status"]
            if self._mcp.get(name) != status:
                self._mcp[name] = status
                events.append(McpStatusChange(name, status))
        return events

    def _task(self, message: Any) -> Iterable[Event]:
        """Background tasks; a started or progressing one is ``running``."""
        return (
            TaskStatus(
                message.task_id,
                getattr(message, "status", "running"),
                getattr(message, "description", None),
                getattr(message, "summary", None),
                getattr(message, "tool_use_id", None),
            ),
        )

    def _conversation_reset(self, message: Any) -> Iterable[Event]:
        self._running_total_usd = 0.0
        self._current.clear()
        return (Notice("conversation_reset", {}),)

    def _rate_limit(self, message: Any) -> Iterable[Event]:
        return (Notice("rate_limit", dict(message.rate_limit_info.raw)),)

    def _unparsed(self, message: Any) -> Iterable[Event]:
        return (Error("unparsed_message", message.reason),)

    def _nothing(self, _message: Any) -> Iterable[Event]:
        return ()


_HANDLERS: Final[dict[str, Callable[[Translator, Any], Iterable[Event]]]] = {
    "StreamEvent": Translator._stream_event,
    "AssistantMessage": Translator._assistant,
    "UserMessage": Translator._user,
    "ResultMessage": Translator._result,
    "SystemMessage": Translator._system,
    "TaskStartedMessage": Translator._task,
    "TaskProgressMessage": Translator._task,
    "TaskUpdatedMessage": Translator._task,
    "TaskNotificationMessage": Translator._task,
    "ConversationResetMessage": Translator._conversation_reset,
    "RateLimitEvent": Translator._rate_limit,
    "UnparsedMessage": Translator._unparsed,
    "HookEventMessage": Translator._nothing,
    "MirrorErrorMessage": Translator._nothing,
}


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
        case "ServerToolResultBlock" | "ToolResultBlock" as kind:
            server = kind == "ServerToolResultBlock"
            return {
                "type": "server_tool_result" if server else "tool_result",
                "tool_use_id": block.tool_use_id,
                "content": block.content,
            }
        case other:
            return {"type": other}


async def translate_sdk_messages(
    messages: AsyncIterable[object], emit: Emit, *, session_id: str = ""
) -> None:
    """Feed every message through a :class:`Translator` into ``emit(name, data)``.

    For embedders that run the SDK client themselves. ``emit`` may be async.
    """
    translator = Translator(session_id)
    async for message in messages:
        for event in translator.feed(message):
            emitted = emit(event.EVENT, event)
            if isawaitable(emitted):
                await emitted
