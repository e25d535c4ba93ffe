"""The bodies of answers, as types: what endpoints send and what is documented.

Rules: whatever an endpoint sends as JSON is one of these, so that the document cannot
say something else; every field is always there, and null says that nothing is known.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from webkit_core import Session, State
from webkit_core.protocol import AskUserQuestion, Error, PermissionRequest

_Count = Annotated[int, Meta(ge=0)]


class Health(Struct):
    """The process lives."""

    ok: bool
    live_sessions: _Count


class Ready(Struct):
    """New sessions may be sent here; ``checks`` names what was looked at."""

    ready: bool
    checks: list[str]


class DrainProgress(Struct):
    """No new sessions are taken; ``live_sessions`` have not ended yet."""

    draining: bool
    live_sessions: _Count


class SessionCreated(Struct):
    """A new session; its ``session_id`` is a UUID."""

    session_id: str
    protocol_version: str


class OpenPermission(Struct, tag_field="event", tag=PermissionRequest.EVENT):
    """A permission that waits for people."""

    data: PermissionRequest


class OpenQuestion(Struct, tag_field="event", tag=AskUserQuestion.EVENT):
    """A question that waits for people."""

    data: AskUserQuestion


class SessionDescription(Struct):
    """What a client may know of a session.

    ``oldest_event_id`` to ``last_event_id`` is what a stream can be resumed within;
    the first is one more than the second when nothing is held.
    """

    session_id: str
    state: State
    created_at: float
    """Unix time, in seconds."""
    model: str | None
    permission_mode: str | None
    cwd: str | None
    cost_usd: float
    subscribers: _Count
    queued_messages: _Count
    oldest_event_id: Annotated[int, Meta(ge=1)]
    last_event_id: _Count
    buffered_bytes: _Count
    pending: list[OpenPermission | OpenQuestion]
    error: Error | None
    """Why the session failed, if it did."""


class SessionList(Struct):
    """The sessions that have started."""

    sessions: list[SessionDescription]


class ErrorBody(Struct):
    """What is wrong: in words for people, and as a code that never changes."""

    detail: Annotated[str, Meta(min_length=1)]
    code: str


class CursorErrorBody(ErrorBody):
    """A cursor that is not in the buffer, and the numbers of what is held."""

    oldest: Annotated[int, Meta(ge=1)]
    last: _Count


def describe(session: Session) -> SessionDescription:
    """Return what a client may know of a session."""
    log = session.log
    return SessionDescription(
        session_id=session.id,
        state=session.state,
        created_at=session.created_at_s,
        model=session.model,
        permission_mode=session.permission_mode,
        cwd=session.config.cwd,
        cost_usd=session.cost_usd,
        subscribers=session.subscribers,
        queued_messages=session.queued,
        oldest_event_id=log.oldest_seq,
        last_event_id=log.last_seq,
        buffered_bytes=log.held_bytes,
        pending=[
            OpenPermission(event)
            if isinstance(event, PermissionRequest)
            else OpenQuestion(event)
            for event in (request.event() for request in session.pending)
        ],
        error=session.failure,
    )
