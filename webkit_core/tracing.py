"""SessionTrace: the turns and permissions of one session, as spans and durations.

    turn                 a prompt's way from the agent taking it to its end
    └── permission       one open request, until its outcome

A turn hangs below whatever was current where its prompt was submitted: the span of an
embedder's HTTP request, say.

Rule: what began is ended, as each turn and each request has exactly one outcome.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from .event_log import EventLog
from .permissions import Request
from .protocol import Outcome
from .telemetry import Telemetry, now_s

_PEOPLE: Final = frozenset({"allow", "deny", "answered"})
"""Outcomes that somebody's answer brought about."""

_FINE: Final = frozenset({"success", "interrupted"})
"""Ends of a turn that are no error."""


class _Begun(Struct, frozen=True):
    span: Span
    at_s: float


class SessionTrace:
    """See the module.

    Args:
        telemetry: where it goes.
        session_id: the session's id.
        log: whose numbers say where in the stream it happened.
    """

    __slots__ = ("_asks", "_id", "_log", "_telemetry", "_turn")

    def __init__(self, telemetry: Telemetry, session_id: str, log: EventLog) -> None:
        self._telemetry = telemetry
        self._id = session_id
        self._log = log
        self._turn: _Begun | None = None
        self._asks: dict[str, _Begun] | None = None

    def turn_began(self, context: Context | None) -> None:
        """Begin a turn below the span that is current in ``context``."""
        span = self._telemetry.span(
            "turn", self._id, context, event_seq=self._log.last_seq
        )
        self._turn = _Begun(span, now_s())

    def first_token(self) -> None:
        """Take note of the turn's first delta."""
        if self._turn is not None:
            took_s = now_s() - self._turn.at_s
            self._telemetry.first_token_took(took_s)
            self._turn.span.add_event("first_token")

    def turn_ended(self, outcome: str) -> None:
        """End the turn."""
        if self._turn is not None:
            turn, self._turn = self._turn, None
            self._telemetry.turn_took(now_s() - turn.at_s, outcome)
            turn.span.set_attributes(
                {"outcome": outcome, "last_event_seq": self._log.last_seq}
            )
            if outcome not in _FINE:
                turn.span.set_status(Status(StatusCode.ERROR, outcome))
            turn.span.end()

    def asked(self, request: Request) -> None:
        """Begin an open request, which the newest event shows."""
        span = self._telemetry.span(
            "permission",
            self._id,
            None if self._turn is None else set_span_in_context(self._turn.span),
            correlation_id=request.correlation_id,
            tool_name=request.tool_name,
            event_seq=self._log.last_seq,
        )
        if self._asks is None:
            self._asks = {}
        self._asks[request.correlation_id] = _Begun(span, now_s())

    def resolved(
        self, correlation_id: str, outcome: Outcome, subscriber_id: str | None
    ) -> None:
        """End an open request."""
        ask = self._asks.pop(correlation_id, None) if self._asks else None
        if ask is None:
            return
        self._telemetry.waited(now_s() - ask.at_s, outcome)
        if outcome in _PEOPLE:
            self._telemetry.replied_first(subscriber_id)
        ask.span.set_attribute("outcome", outcome)
        ask.span.end()

    @property
    def ask_ages_s(self) -> list[float]:
        """How long each open request has waited. May be asked in any thread."""
        asks = () if self._asks is None else tuple(self._asks.values())
        now = now_s()
        return [now - ask.at_s for ask in asks]
