"""Every error this project raises on purpose, and its stable code.

    WebkitError
    ├── InvalidInput             the caller's data is wrong; the text names the field
    │   ├── MalformedJSON
    │   ├── UnknownType
    │   └── InvalidCursor        a Last-Event-ID that is not a decimal number
    ├── Refused                  well-formed, but policy says no
    ├── SessionNotFound          no such session (for this caller)
    │   ├── SessionClosed        somebody closed it
    │   ├── SessionExpired       nobody used it for too long
    │   └── SessionFailed        its agent died; see ``__cause__``
    ├── SessionExists            a session of that id lives already
    ├── ConflictError            somebody already answered
    ├── CursorError              the cursor is not in the buffer
    │   ├── EvictedError         older than what is held
    │   └── CursorAheadError     newer than what was ever sent
    ├── Unavailable              try again later
    │   ├── CapacityExceeded
    │   ├── TooManySessions      as many as one owner may have
    │   ├── StartQueueTimeout    too many sessions start at this moment
    │   ├── BackpressureError    the session's inbound queue is full
    │   └── Draining
    ├── AgentError               the agent's process or its SDK client
    │   ├── AgentStartError
    │   ├── AgentRefused         the agent said no to a control request
    │   └── AgentTimeout
    ├── LogClosed                append to a log that has ended
    ├── ConfigError              a setting is missing or wrong; names the variable
    └── InvalidTransition        a bug in this package: no such row in a state table

Rule: a class is a meaning, not a place. ``code`` is part of the wire contract and
never changes; the text is for people and may. There is no HTTP in here: the one table
from class to status lives with the server.
"""

from __future__ import annotations

from typing import ClassVar


class WebkitError(Exception):
    """Root of every error raised on purpose; ``code`` is stable and on the wire."""

    code: ClassVar[str] = "internal_error"


class InvalidInput(WebkitError):
    """The caller sent something wrong; the text names the field and why."""

    code = "invalid_input"


class MalformedJSON(InvalidInput):
    """The body is not JSON (or not UTF-8, or nested beyond reason)."""

    code = "malformed_json"


class UnknownType(InvalidInput):
    """The message's ``type`` is not one this protocol version knows."""

    code = "unknown_type"


class InvalidCursor(InvalidInput):
    """A resume cursor that is not a decimal number below 2**53."""

    code = "invalid_cursor"


class Refused(WebkitError):
    """Well-formed, but this server's policy does not allow it."""

    code = "refused"


class SessionNotFound(WebkitError):
    """No such session, as far as this caller may know."""

    code = "session_not_found"

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return f"no session {self.session_id!r}"


class SessionClosed(SessionNotFound):
    """The session existed and has been closed."""

    code = "session_closed"

    def __str__(self) -> str:
        return f"session {self.session_id!r} is closed"


class SessionExpired(SessionNotFound):
    """The session existed; nobody used it for so long that it was closed."""

    code = "session_expired"

    def __str__(self) -> str:
        return f"session {self.session_id!r} has expired: nobody used it for too long"


class SessionFailed(SessionNotFound):
    """The session's agent died; what it said last is in ``reason``."""

    code = "session_failed"

    def __init__(self, session_id: str, reason: str) -> None:
        super().__init__(session_id)
        self.reason = reason

    def __str__(self) -> str:
        return f"session {self.session_id!r} has failed: {self.reason}"


class SessionExists(WebkitError):
    """A session of that id lives already."""

    code = "session_exists"

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return f"there is a session {self.session_id!r} already"


class ConflictError(WebkitError):
    """The request was already answered, cancelled or expired, or never existed."""

    code = "already_resolved"

    def __init__(self, correlation_id: str, outcome: str | None = None) -> None:
        super().__init__(correlation_id)
        self.correlation_id = correlation_id
        self.outcome = outcome

    def __str__(self) -> str:
        if self.outcome is None:
            return f"no open request with correlation_id {self.correlation_id!r}"
        return f"request {self.correlation_id!r} is already resolved: {self.outcome}"


class CursorError(WebkitError):
    """The cursor does not point into the buffer; the client has to start over."""

    code = "cursor_not_in_buffer"

    def __init__(self, after_seq: int, oldest: int, last: int) -> None:
        super().__init__(after_seq, oldest, last)
        self.after_seq = after_seq
        self.oldest = oldest
        self.last = last


class EvictedError(CursorError):
    """The event after ``after_seq`` has left the buffer.

    ``oldest`` and ``last`` bound what is still held; ``oldest == last + 1`` means
    nothing is.
    """

    code = "evicted"

    def __str__(self) -> str:
        return (
            f"event {self.after_seq + 1} is no longer held;"
            f" the buffer holds {self.oldest} to {self.last}"
        )


class CursorAheadError(CursorError):
    """The cursor is newer than anything this session ever sent."""

    code = "cursor_ahead"

    def __str__(self) -> str:
        return f"event {self.after_seq} was never sent; the last one is {self.last}"


class Unavailable(WebkitError):
    """Not now. ``retry_after_s`` is when asking again makes sense, in seconds."""

    code = "unavailable"
    retry_after_s: int = 5


class CapacityExceeded(Unavailable):
    """As many sessions are live as this server holds."""

    code = "at_capacity"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return "Server at capacity"


class TooManySessions(Unavailable):
    """The owner has as many live sessions as one may have."""

    code = "too_many_sessions"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"you have {self.limit} sessions, as many as anybody may have; close one"


class StartQueueTimeout(Unavailable):
    """The session's turn to start did not come in time; ``waited_s`` is how long."""

    code = "start_queue_timeout"

    def __init__(self, waited_s: float) -> None:
        super().__init__(waited_s)
        self.waited_s = waited_s

    def __str__(self) -> str:
        return (
            "as many sessions as may are starting at this moment, and none of them was"
            f" done within {self.waited_s:g} s"
        )


class BackpressureError(Unavailable):
    """The session's inbound queue is full: the agent is behind its users."""

    code = "inbound_queue_full"
    retry_after_s = 1

    def __init__(self, limit: int, what: str = "messages") -> None:
        super().__init__(limit, what)
        self.limit = limit
        self.what = what

    def __str__(self) -> str:
        return (
            f"the session's inbound queue holds its limit of {self.limit} {self.what}"
        )


class Draining(Unavailable):
    """The server is going away and takes no new sessions."""

    code = "draining"

    def __str__(self) -> str:
        return "Server is draining and takes no new sessions"


class AgentError(WebkitError):
    """Something is wrong with the agent behind a session."""

    code = "agent_error"


class AgentStartError(AgentError):
    """The agent could not be started; the text says what it reported."""

    code = "agent_start_failed"


class AgentRefused(AgentError):
    """The agent answered a control request with an error."""

    code = "agent_refused"


class AgentTimeout(AgentError):
    """The agent did not answer a control request in time."""

    code = "agent_timeout"


class LogClosed(WebkitError):
    """The event log has ended; nothing can be appended to it any more."""

    code = "log_closed"


class ConfigError(WebkitError):
    """A setting is missing or has a bad value; the text names the variable."""

    code = "misconfigured"


class InvalidTransition(WebkitError):
    """A state machine was given an input its table has no row for: our bug."""

    code = "invalid_transition"

    def __init__(self, state: object, given: object) -> None:
        super().__init__(state, given)
        self.state = state
        self.given = given

    def __str__(self) -> str:
        return f"no transition from {self.state} on {self.given}"
