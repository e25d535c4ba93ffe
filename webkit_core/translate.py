"""SDK messages in, protocol events out.

Rules:

1. Pure: no clock, no I/O, no SDK import. Messages are told apart by class name, so
   anything shaped like the SDK's will do, and a kind never seen is reported once.
2. Ids are the SDK's.
3. A result's cost is its turn's; the CLI reports a running total.

Invariant: every message becomes the events that clients need of it, in order; what has
no event on the wire becomes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Collection, Iterable
from math import isfinite
from typing import Any, Final

from .assembly import Assembly
from .protocol import (
    DEFAULT_DELTAS,
    Emit,
    Event,
    McpStatusChange,
    Notice,
    Result,
    TaskStatus,
    ToolResult,
)

NOTICES: Final = frozenset({"api_retry", "compact_boundary"})
"""System subtypes that people want to see; the rest is the CLI's own bookkeeping."""

_ENVELOPE: Final = frozenset({"type", "subtype", "session_id", "uuid"})

TASK_ENDED: Final = frozenset({"completed", "failed", "stopped", "killed"})
"""Task statuses after which nothing more comes (SDK: ``TERMINAL_TASK_STATUSES``)."""


class Translator:
    """Turns one session's SDK messages into events; see the module.

    Args:
        session_id: the wire session's id, put into results.
        deltas: which kinds of deltas are wanted.
        on_unknown: called once per message kind that is not known.
    """

    __slots__ = (
        "_assembly",
        "_mcp",
        "_on_unknown",
        "_running_total_usd",
        "_session_cost_usd",
        "_session_id",
        "_unknown",
    )

    def __init__(
        self,
        session_id: str,
        *,
        deltas: Collection[str] = DEFAULT_DELTAS,
        on_unknown: Callable[[str], None] | None = None,
    ) -> None:
        self._session_id = session_id
        self._assembly = Assembly(deltas)
        self._on_unknown = on_unknown
        self._unknown: set[str] = set()
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
        if kind == "StreamEvent":  # nearly all of them
            return self._assembly.stream_event(message)
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

    # --- the conversation

    def _assistant(self, message: Any) -> Iterable[Event]:
        return self._assembly.assistant(message)

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
        if running_total_usd is None or not isfinite(running_total_usd):
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
        self._assembly.clear()
        return (Notice("conversation_reset", {}),)

    def _rate_limit(self, message: Any) -> Iterable[Event]:
        return (Notice("rate_limit", dict(message.rate_limit_info.raw)),)

    def _unparsed(self, message: Any) -> Iterable[Event]:
        return (Notice("message_left_out", {"reason": message.reason}),)

    def _nothing(self, _message: Any) -> Iterable[Event]:
        return ()


_HANDLERS: Final[dict[str, Callable[[Translator, Any], Iterable[Event]]]] = {
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


def answers_prompt(result: Any, prompt_uuid: str) -> bool:
    """Return whether a result may be the one that a prompt is owed.

    The CLI says which prompts a turn has taken up; where it does not, it says when a
    turn was one of its own.
    """
    taken = getattr(result, "user_message_uuids", None)
    if isinstance(taken, list) and taken:
        return prompt_uuid in taken
    origin = getattr(result, "origin", None)
    return not isinstance(origin, dict) or origin.get("kind") == "human"


async def translate_sdk_messages(
    messages: AsyncIterable[object], emit: Emit, *, session_id: str = ""
) -> None:
    """Feed every message through a :class:`Translator` into ``emit(name, data)``.

    For embedders that run the SDK client themselves.
    """
    translator = Translator(session_id)
    async for message in messages:
        for event in translator.feed(message):
            emit(event.EVENT, event)
