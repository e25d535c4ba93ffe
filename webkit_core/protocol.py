"""Wire protocol 1.0: every message in and out, as types.

Inbound messages are tagged by ``type`` and refuse unknown fields, so that a client's
typo is an error that names it, not silence. Outbound events carry their name in
``EVENT`` and are encoded once; a field whose default is ``None`` stays off the wire
until it has another value.

Rules: this file is the wire and nothing else; what is *ext* in the protocol is ours,
and an old client ignores it. How it becomes bytes and back is in :mod:`.codec`.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, Struct

PROTOCOL_VERSION: Final = "1.0"

PermissionMode = Literal[
    "default", "acceptEdits", "plan", "dontAsk", "auto", "bypassPermissions"
]
"""Modes of Claude Code 2.1: what is asked, what is allowed without asking."""

DeltaKind = Literal["text", "tool_input", "thinking"]
DEFAULT_DELTAS: Final[frozenset[DeltaKind]] = frozenset({"text", "tool_input"})

MAX_BLOCKS: Final = 100
"""Content blocks of one user message; the Messages API takes at most 100 images."""

_Id = Annotated[str, Meta(min_length=1, max_length=200)]
_Model = Annotated[str, Meta(min_length=1, max_length=200)]
_Path = Annotated[str, Meta(min_length=1, max_length=4096)]
_NonEmpty = Annotated[str, Meta(min_length=1)]
_Message = Annotated[str, Meta(max_length=65_536)]


# --- in: POST /sessions -------------------------------------------------------------


class CreateSession(Struct, forbid_unknown_fields=True):
    """Body of ``POST /sessions``; every field may be left out."""

    model: _Model | None = None
    permission_mode: PermissionMode | None = None
    cwd: _Path | None = None
    deltas: list[DeltaKind] | None = None
    """ext: which deltas the stream carries; text and tool input by default."""


# --- in: POST /sessions/{id}/input --------------------------------------------------


class _In(Struct, tag_field="type", forbid_unknown_fields=True):
    """An inbound message."""


class TextContent(Struct, tag="text", forbid_unknown_fields=True):
    """A text block of a user message."""

    text: _NonEmpty


class ImageSource(Struct, forbid_unknown_fields=True):
    """An image, in the message itself."""

    type: Literal["base64"]
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
    data: _NonEmpty

    def __post_init__(self) -> None:
        try:
            binascii.a2b_base64(self.data, strict_mode=True)
        except ValueError as error:
            raise ValueError(f"`data` is not base64: {error}") from None


class ImageContent(Struct, tag="image", forbid_unknown_fields=True):
    """An image block of a user message."""

    source: ImageSource


_Blocks = Annotated[
    list[TextContent | ImageContent], Meta(min_length=1, max_length=MAX_BLOCKS)
]


class UserMessage(_In, tag="user_message"):
    """What a person says: queued, one turn at a time."""

    content: _NonEmpty | _Blocks

    @property
    def chars(self) -> int:
        """How long it is, images included."""
        if isinstance(self.content, str):
            return len(self.content)
        return sum(
            len(block.text if isinstance(block, TextContent) else block.source.data)
            for block in self.content
        )


class Interrupt(_In, tag="interrupt"):
    """Stop the running turn."""


class PermissionRule(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A tool, or what it may be used on (the CLI's own spelling)."""

    toolName: _NonEmpty
    ruleContent: str | None = None


class _Update(Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """A change of the session's own permission rules.

    Only the session's: a client must not write settings files on the server, so
    ``destination`` knows one value.
    """


class RulesUpdate(_Update, tag="addRules"):
    """Add rules."""

    rules: list[PermissionRule]
    behavior: Literal["allow", "deny", "ask"]
    destination: Literal["session"] = "session"


class ReplaceRulesUpdate(RulesUpdate, tag="replaceRules"):
    """Replace the rules of one behavior."""


class RemoveRulesUpdate(RulesUpdate, tag="removeRules"):
    """Remove rules."""


class ModeUpdate(_Update, tag="setMode"):
    """Change the permission mode."""

    mode: PermissionMode
    destination: Literal["session"] = "session"


class DirectoriesUpdate(_Update, tag="addDirectories"):
    """Let the tools work in more directories."""

    directories: list[_Path]
    destination: Literal["session"] = "session"


class RemoveDirectoriesUpdate(DirectoriesUpdate, tag="removeDirectories"):
    """Take directories away."""


PermissionUpdate = (
    RulesUpdate
    | ReplaceRulesUpdate
    | RemoveRulesUpdate
    | ModeUpdate
    | DirectoriesUpdate
    | RemoveDirectoriesUpdate
)


class PermissionResponse(_In, tag="permission_response"):
    """An answer to ``permission_request``."""

    correlation_id: _Id
    behavior: Literal["allow", "deny"]
    updated_input: dict[str, Any] | None = None
    updated_permissions: list[PermissionUpdate] | None = None
    message: _Message | None = None
    interrupt: bool | None = None

    def __post_init__(self) -> None:
        wrong = (
            ("message", "interrupt")
            if self.behavior == "allow"
            else ("updated_input", "updated_permissions")
        )
        for field in wrong:
            if getattr(self, field) is not None:
                raise ValueError(
                    f"`{field}` does not go with behavior {self.behavior!r}"
                )


class QuestionResponse(_In, tag="question_response"):
    """Answers to ``ask_user_question``: question text to label(s) or free text."""

    correlation_id: _Id
    answers: Annotated[dict[str, str | list[str]], Meta(min_length=1)]


class SetPermissionMode(_In, tag="set_permission_mode"):
    """Change the permission mode from the next tool call on."""

    mode: PermissionMode


class SetModel(_In, tag="set_model"):
    """Change the model from the next turn on; null is the default model."""

    model: _Model | None


class StopTask(_In, tag="stop_task"):
    """Stop a background task."""

    task_id: _Id


Inbound = (
    UserMessage
    | Interrupt
    | PermissionResponse
    | QuestionResponse
    | SetPermissionMode
    | SetModel
    | StopTask
)

INBOUND_TYPES: Final = tuple(
    str(member.__struct_config__.tag)
    for member in (
        UserMessage,
        Interrupt,
        PermissionResponse,
        QuestionResponse,
        SetPermissionMode,
        SetModel,
        StopTask,
    )
)


# --- out: the stream ----------------------------------------------------------------

Emit = Callable[[str, Any], object]
"""``emit(event_name, data)``: how an event gets into a session's log."""


class Event(Struct, omit_defaults=True):
    """An outbound event. ``EVENT`` is its name on the wire."""

    EVENT: ClassVar[str]


class SessionReady(Event):
    """Always the first event, id 1."""

    EVENT = "session_ready"
    session_id: str
    protocol_version: str


class TextDelta(Struct, tag="text", gc=False):
    """A piece of a text block."""

    text: str


class InputJsonDelta(Struct, tag="input_json_delta", gc=False):
    """A piece of a tool's input, as JSON text."""

    tool_use_id: str
    name: str
    partial_json: str


class ThinkingDelta(Struct, tag="thinking", gc=False):
    """A piece of a thinking block."""

    thinking: str


class MessageDelta(Event, gc=False):
    """A piece of the message that is being written.

    Most events are one: the garbage collector need not look at what holds no cycle.
    """

    EVENT = "message_delta"
    message_id: str
    delta: TextDelta | InputJsonDelta | ThinkingDelta
    parent_tool_use_id: str | None = None


class TextBlock(Struct, tag="text"):
    """A finished text block."""

    text: str


class ThinkingBlock(Struct, tag="thinking"):
    """A finished thinking block."""

    thinking: str
    signature: str


class ToolUseBlock(Struct, tag="tool_use"):
    """A finished tool call."""

    id: str
    name: str
    input: dict[str, Any]


class AssistantMessage(Struct, tag_field="role", tag="assistant", omit_defaults=True):
    """A message as far as it is known: every finished block."""

    id: str
    content: list[Any]
    model: str
    stop_reason: str | None
    error: str | None = None
    """ext: why the model could not answer (``server_error``, ``rate_limit``, …)."""


class MessageComplete(Event):
    """All blocks so far; the last one of an id is the whole message."""

    EVENT = "message_complete"
    message_id: str
    message: AssistantMessage
    parent_tool_use_id: str | None = None


class ToolUse(Event):
    """The agent wants to use a tool."""

    EVENT = "tool_use"
    message_id: str
    tool_use_id: str
    tool_name: str
    input: dict[str, Any]
    parent_tool_use_id: str | None = None


class ToolResult(Event):
    """What the tool gave back: text, or blocks as the Messages API has them."""

    EVENT = "tool_result"
    tool_use_id: str
    output: Any
    is_error: bool
    parent_tool_use_id: str | None = None


class PermissionRequest(Event):
    """May this tool run? Answered with ``permission_response``."""

    EVENT = "permission_request"
    correlation_id: str
    tool_name: str
    input: dict[str, Any]
    context: dict[str, Any]


class AskUserQuestion(Event):
    """The agent asks its user. Answered with ``question_response``."""

    EVENT = "ask_user_question"
    correlation_id: str
    questions: dict[str, Any]


Outcome = Literal["allow", "deny", "answered", "cancelled", "expired"]


class PermissionResolved(Event):
    """ext: exactly one per request, so that other tabs close their prompt."""

    EVENT = "permission_resolved"
    correlation_id: str
    outcome: Outcome
    subscriber_id: str | None = None


class Result(Event):
    """The end of a turn. Costs in US dollars, durations in milliseconds."""

    EVENT = "result"
    session_id: str
    subtype: str
    is_error: bool
    total_cost_usd: float | None
    """This turn's cost; clients add them up."""
    session_cost_usd: float
    """ext: the running total of the session."""
    duration_ms: int | None = None
    duration_api_ms: int | None = None
    num_turns: int | None = None
    stop_reason: str | None = None
    terminal_reason: str | None = None
    result: str | None = None
    structured_output: Any = None
    usage: dict[str, Any] | None = None
    model_usage: dict[str, Any] | None = None
    permission_denials: list[Any] | None = None
    errors: list[str] | None = None
    api_error_status: int | None = None


class Error(Event):
    """Something broke; ``code`` is stable."""

    EVENT = "error"
    code: str
    message: str


class McpStatusChange(Event):
    """An MCP server's connection changed."""

    EVENT = "mcp_status_change"
    server_name: str
    status: str


class SessionState(Event):
    """ext: the session's state, when it changes."""

    EVENT = "session_state"
    state: str


class TaskStatus(Event):
    """ext: a background task; ``task_id`` is what ``stop_task`` takes."""

    EVENT = "task_status"
    task_id: str
    status: str | None = None
    description: str | None = None
    summary: str | None = None
    tool_use_id: str | None = None


class Notice(Event):
    """ext: the agent tells about itself: a retry, a compaction, a reset."""

    EVENT = "notice"
    kind: str
    details: dict[str, Any]


class Done(Event):
    """The session is over; always the last event."""

    EVENT = "done"
