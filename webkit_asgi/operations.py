"""The one table of what can be asked of the server, and what it answers.

A row per method and path: its parameters, its body, its answers, and every error that
can come out of it, by class. Statuses, codes, roles and schemas are not written here:
they come from where they are decided, when :mod:`.openapi` makes the document.

Rules: a new route, header or error is a row or a word in one; what every answer can be
(the token is wrong, the server made a mistake) is added by :mod:`.openapi`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from webkit_core import (
    AgentRefused,
    AgentStartError,
    AgentTimeout,
    BackpressureError,
    CapacityExceeded,
    ConflictError,
    CreateSession,
    CursorAheadError,
    Draining,
    EvictedError,
    Inbound,
    InvalidCursor,
    InvalidInput,
    MalformedJSON,
    SessionClosed,
    SessionExpired,
    SessionFailed,
    SessionNotFound,
    StartQueueTimeout,
    TooManySessions,
    Unavailable,
    UnknownType,
    WebkitError,
    sse,
)

from .answers import (
    DrainProgress,
    Health,
    Ready,
    SessionCreated,
    SessionDescription,
    SessionList,
)
from .exchange import BodyTimeout, BodyTooLarge
from .health import NotReady, Starting
from .idempotency import MAX_KEY_CHARS
from .metrics import CONTENT_TYPE, MetricsNotInstalled, MetricsNotReadable
from .open_streams import TooManyStreams
from .policy import CwdRefused, PermissionModeRefused
from .rates import TooManyRequests
from .responses import KeyReused, NotFound
from .stream import HEADERS, EventStream

Errors = tuple[type[WebkitError], ...]


class Parameter(Struct, frozen=True):
    """A parameter; ``type`` is what its text is read as."""

    name: str
    where: Literal["path", "query", "header"]
    type: Any
    description: str


class Success(Struct, frozen=True):
    """An answer that is no error.

    Attributes:
        body: its type; None is no body, and an :class:`EventStream` is events.
        content_type: as it is sent; parameters of the type are left out.
        headers: what it has that a client may want, with what they say.
        links: whether its ``session_id`` is what other paths take.
    """

    status: int
    description: str
    body: Any = None
    content_type: bytes = b"application/json"
    headers: dict[str, str] = {}
    links: bool = False


class Operation(Struct, frozen=True):
    """What a method does on a path.

    Attributes:
        id: a name for generated clients.
        body: the type of the request's body; None is that none is read.
        body_required: whether there must be one.
        examples: bodies, by name.
    """

    id: str
    summary: str
    answers: tuple[Success, ...]
    errors: Errors = ()
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    body_required: bool = True
    examples: dict[str, Any] = {}


_SESSION_ID: Final = Parameter(
    "id",
    "path",
    Annotated[str, Meta(pattern="^[^/]+$")],
    "The `session_id` that `POST /sessions` answered.",
)
_Cursor = Annotated[int, Meta(ge=0, le=sse.MAX_SEQ)] | Literal[""]
_SUBSCRIBER_ID: Final = Parameter(
    "X-Subscriber-Id",
    "header",
    Annotated[str, Meta(pattern="^[A-Za-z0-9._-]{1,64}$")],
    "Names the subscriber; `permission_resolved` says who answered by it.",
)
_RESUME: Final = (
    Parameter(
        "Last-Event-ID",
        "header",
        _Cursor,
        "The last event that was seen: the stream goes on after it. Without one, or"
        " with an empty one, it begins with the oldest event held.",
    ),
    Parameter(
        "last_event_id",
        "query",
        _Cursor,
        "The same, for an EventSource that cannot set headers; the header wins.",
    ),
)
_WAIT: Final = Parameter(
    "wait", "query", str, "Answer when all have ended; `0` or nothing: at once."
)

_GONE: Final[Errors] = (SessionNotFound, SessionClosed, SessionExpired)
_BODY: Final[Errors] = (
    MalformedJSON,
    InvalidInput,
    BodyTooLarge,
    BodyTimeout,
    KeyReused,
    CwdRefused,
    PermissionModeRefused,
)
_KEY: Final = Parameter(
    "Idempotency-Key",
    "header",
    Annotated[str, Meta(min_length=1, max_length=MAX_KEY_CHARS)],
    "The same request with the same key has its effect once; the answer comes again.",
)

_EVENT_STREAM: Final = dict(HEADERS)[b"content-type"]

_INPUTS: Final[dict[str, Any]] = {
    "user_message": {"content": "hello"},
    "user_message_blocks": {
        "content": [
            {"type": "text", "text": "what is this?"},
            {
                "type": "image",
                "source": {
                    "type": "base64",
                    "media_type": "image/png",
                    "data": "aGVsbG8=",
                },
            },
        ]
    },
    "interrupt": {},
    "permission_response": {
        "correlation_id": "toolu_1",
        "behavior": "allow",
        "updated_input": {"command": "ls"},
        "updated_permissions": [
            {
                "type": "addRules",
                "rules": [{"toolName": "Bash", "ruleContent": "ls:*"}],
                "behavior": "allow",
                "destination": "session",
            }
        ],
    },
    "permission_response_deny": {
        "correlation_id": "toolu_1",
        "behavior": "deny",
        "message": "not now",
        "interrupt": False,
    },
    "question_response": {
        "correlation_id": "toolu_2",
        "answers": {"Which one?": "this", "And which of those?": ["a", "b"]},
    },
    "set_permission_mode": {"mode": "acceptEdits"},
    "set_model": {"model": "claude-sonnet-5"},
    "stop_task": {"task_id": "task_1"},
}
_TYPE_OF: Final = {
    "user_message_blocks": "user_message",
    "permission_response_deny": "permission_response",
}

OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/healthz"): Operation(
        "health",
        "Whether the process lives.",
        (Success(200, "It does.", Health),),
    ),
    ("GET", "/readyz"): Operation(
        "ready",
        "Whether new sessions may be sent here.",
        (Success(200, "They may.", Ready),),
        errors=(Starting, Draining, NotReady),
    ),
    ("GET", "/metrics"): Operation(
        "scrape",
        "Metrics for Prometheus.",
        (Success(200, "Prometheus text.", str, CONTENT_TYPE),),
        errors=(MetricsNotInstalled, MetricsNotReadable),
    ),
    ("GET", "/openapi.json"): Operation(
        "describe_api",
        "This document.",
        (Success(200, "OpenAPI 3.1.", dict[str, Any]),),
    ),
    ("POST", "/admin/drain"): Operation(
        "drain",
        "Take no new sessions, and let those there are come to their end.",
        (
            Success(202, "It has begun.", DrainProgress),
            Success(200, "With `wait`: all have ended.", DrainProgress),
        ),
        errors=(NotFound,),
        parameters=(_WAIT,),
    ),
    ("GET", "/sessions"): Operation(
        "list_sessions",
        "What is live.",
        (Success(200, "Every session that has started.", SessionList),),
    ),
    ("POST", "/sessions"): Operation(
        "create_session",
        "Start a session; answered when its agent is up.",
        (
            Success(
                200,
                "The session is up.",
                SessionCreated,
                headers={"Location": "The path of the session."},
                links=True,
            ),
        ),
        errors=(
            *_BODY,
            CapacityExceeded,
            TooManySessions,
            StartQueueTimeout,
            Draining,
            AgentStartError,
        ),
        parameters=(_KEY,),
        body=CreateSession,
        body_required=False,
        examples={"defaults": {}, "text_only": {"deltas": ["text"]}},
    ),
    ("GET", "/sessions/{id}"): Operation(
        "show_session",
        "One session: its state, what can be resumed, what it waits for.",
        (Success(200, "The session.", SessionDescription),),
        errors=_GONE,
        parameters=(_SESSION_ID,),
    ),
    ("DELETE", "/sessions/{id}"): Operation(
        "delete_session",
        "End a session; answered when its agent is gone.",
        (Success(204, "It has ended; so has every stream of it, with `done`."),),
        errors=_GONE,
        parameters=(_SESSION_ID,),
    ),
    ("POST", "/sessions/{id}/input"): Operation(
        "post_input",
        "Say something to a session.",
        (Success(204, "It is queued, or has taken effect."),),
        errors=(
            *_BODY,
            UnknownType,
            *_GONE,
            SessionFailed,
            ConflictError,
            BackpressureError,
            TooManyRequests,
            Unavailable,
            AgentRefused,
            AgentTimeout,
        ),
        parameters=(_SESSION_ID, _SUBSCRIBER_ID, _KEY),
        body=Inbound,
        examples={
            name: {"type": _TYPE_OF.get(name, name), **fields}
            for name, fields in _INPUTS.items()
        },
    ),
    ("GET", "/sessions/{id}/stream"): Operation(
        "stream",
        "Watch a session, live until `done`.",
        (
            Success(
                200,
                "Server-Sent Events: `id` (from 1, one more each), `event`, and `data`:"
                " one line of JSON, as `x-events` has it by the event's name.",
                EventStream,
                _EVENT_STREAM,
                headers={
                    "X-Subscriber-Id": "Who this subscriber is: its own, or a new id.",
                    "Cache-Control": "Not to be cached, nor changed on the way.",
                },
            ),
        ),
        errors=(
            *_GONE,
            InvalidInput,
            InvalidCursor,
            EvictedError,
            CursorAheadError,
            TooManyStreams,
        ),
        parameters=(_SESSION_ID, _SUBSCRIBER_ID, *_RESUME),
    ),
}
