"""Telemetry: every metric and span of this package, by the name operators know.

Through opentelemetry-api alone: without a provider everything here does nothing. This
is what is counted or timed when it happens; what is looked up when somebody collects
is in :mod:`.gauges`.

Rules: names and units are in these two files and in the README's table, and nowhere
else; no attribute has unbounded values, and none carries what people or agents wrote.

Source: OpenTelemetry metrics and trace API 1.30.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider, use_span

from .gauges import SCOPE, Gauges, Source
from .protocol import PROTOCOL_VERSION

MAX_WINNERS: Final = 256
"""Subscriber ids that are told apart; clients choose them, so the rest is "other"."""

_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_SHORT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10)
_DEPTHS: Final = (0, 1, 10, 50, 100, 250, 500, 1000, 2500, 10000)


class Telemetry:
    """The instruments and the tracer; see the module.

    Args:
        meter_provider: where metrics go; None is the process's global provider.
        tracer_provider: where spans go; None is the process's global provider.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self.tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        self.meter = meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        self._gauges = _gauges_for(meter_provider)
        self._winners: set[str] = set()
        self._created = meter.create_counter(
            f"{SCOPE}.sessions.created", "{session}", "Sessions whose agent came up."
        )
        self._evicted = meter.create_counter(
            f"{SCOPE}.sessions.evicted",
            "{session}",
            "Sessions that ended, by reason: idle, closed, error, drain.",
        )
        self._start_duration = meter.create_histogram(
            f"{SCOPE}.sessions.start.duration",
            "s",
            "From the request to the agent being up, the wait for a turn included.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first_reply_winner = meter.create_counter(
            f"{SCOPE}.permissions.first_reply_winner",
            "{reply}",
            "Permissions and questions answered, by who answered first.",
        )
        self._permission_wait = meter.create_histogram(
            f"{SCOPE}.permissions.wait",
            "s",
            "From a permission's request to its outcome.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._resume_412 = meter.create_counter(
            f"{SCOPE}.resume.412", "{request}", "Cursors that were not in the buffer."
        )
        self._resume_depth = meter.create_histogram(
            f"{SCOPE}.resume.depth",
            "{event}",
            "Events a resuming subscriber was behind.",
            explicit_bucket_boundaries_advisory=_DEPTHS,
        )
        self._subscribers_evicted = meter.create_counter(
            f"{SCOPE}.subscribers.evicted",
            "{subscriber}",
            "Streams ended by us: it fell_behind the buffer, or took_nothing.",
        )
        self._turn_duration = meter.create_histogram(
            f"{SCOPE}.turn.duration",
            "s",
            "From handing a prompt over to the turn's end, by outcome.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first_token = meter.create_histogram(
            f"{SCOPE}.turn.first_token",
            "s",
            "From handing a prompt over to the first delta.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._lag = meter.create_histogram(
            f"{SCOPE}.events.lag",
            "s",
            "From the append of an event to its having been sent, sampled.",
            explicit_bucket_boundaries_advisory=_SHORT_SECONDS,
        )
        self._loop_lag = meter.create_histogram(
            f"{SCOPE}.loop.lag",
            "s",
            "How late the event loop was for a timer.",
            explicit_bucket_boundaries_advisory=_SHORT_SECONDS,
        )
        self._refusals = meter.create_counter(
            f"{SCOPE}.refusals",
            "{request}",
            "Requests answered with an error, by its code.",
        )

        self._say_zero()

    def _say_zero(self) -> None:
        """Let counters be there before anything has happened, so that it is seen."""
        for counter in (self._created, self._resume_412):
            counter.add(0)
        for reason in ("idle", "closed", "error", "drain"):
            self._evicted.add(0, {"reason": reason})
        for reason in ("fell_behind", "took_nothing"):
            self._subscribers_evicted.add(0, {"reason": reason})

    def watch(self, source: Source) -> None:
        """Collect from ``source`` too, for as long as it lives."""
        self._gauges.watch(source)

    # --- what happens

    def session_created(self, took_s: float) -> None:
        """Count a session whose agent came up."""
        self._created.add(1)
        self._start_duration.record(took_s)

    def session_evicted(self, reason: str) -> None:
        """Count a session that ended."""
        self._evicted.add(1, {"reason": reason})

    def replied_first(self, subscriber_id: str | None) -> None:
        """Count an answer that won."""
        name = subscriber_id or "none"
        if name not in self._winners:
            if len(self._winners) < MAX_WINNERS:
                self._winners.add(name)
            else:
                name = "other"
        self._first_reply_winner.add(1, {"subscriber_id": name})

    def waited(self, waited_s: float, outcome: str) -> None:
        """Record how long a permission was open."""
        self._permission_wait.record(waited_s, {"outcome": outcome})

    def resumed(self, session_id: str, cursor: int, depth: int) -> None:
        """Record a subscriber that came back."""
        self._resume_depth.record(depth)
        self.span("resume", session_id, event_seq=cursor, depth=depth).end()

    def resume_refused(self, session_id: str, cursor: int, code: str) -> None:
        """Count a subscriber that came back too late."""
        self._resume_412.add(1)
        span = self.span("resume", session_id, event_seq=cursor)
        span.set_status(Status(StatusCode.ERROR, code))
        span.end()

    def subscriber_evicted(self, reason: str) -> None:
        """Count a stream that was ended because its reader was too slow."""
        self._subscribers_evicted.add(1, {"reason": reason})

    def turn_took(self, took_s: float, outcome: str) -> None:
        """Record a turn that ended."""
        self._turn_duration.record(took_s, {"outcome": outcome})

    def first_token_took(self, took_s: float) -> None:
        """Record how long a turn's first delta took."""
        self._first_token.record(took_s)

    def lagged(self, lag_s: float) -> None:
        """Record how long an event took from the log to a subscriber."""
        self._lag.record(lag_s)

    def loop_lagged(self, lag_s: float) -> None:
        """Record how late the event loop was."""
        self._loop_lag.record(lag_s)

    def refused(self, code: str) -> None:
        """Count a request that was answered with an error."""
        self._refusals.add(1, {"reason": code})

    def span(
        self,
        name: str,
        session_id: str,
        context: Context | None = None,
        start_ns: int | None = None,
        **attributes: Any,
    ) -> Span:
        """Start a span; the caller ends it."""
        known = {"session_id": session_id, "protocol_version": PROTOCOL_VERSION}
        return self.tracer.start_span(
            name, context, attributes={**known, **attributes}, start_time=start_ns
        )


@contextmanager
def current(span: Span) -> Iterator[Span]:
    """Make a span the current one while the block runs, and end it then.

    Neither the text of an exception nor its stack goes into it: an agent's own words
    may be in there. A span that goes nowhere is not made current, as whoever keeps the
    context would keep it.
    """
    if not span.get_span_context().is_valid:
        yield span
        return
    with use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        yield span


def telemetry_for(
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Telemetry:
    """Return the one set of instruments for these providers."""
    return _telemetry_for(meter_provider, tracer_provider)


@cache
def _telemetry_for(
    meter_provider: MeterProvider | None, tracer_provider: TracerProvider | None
) -> Telemetry:
    return Telemetry(meter_provider, tracer_provider)


@cache
def _gauges_for(meter_provider: MeterProvider | None) -> Gauges:
    """Return a provider's gauges: it takes the first callback and drops a second."""
    return Gauges(metrics.get_meter(SCOPE, meter_provider=meter_provider))


def now_s() -> float:
    """Return the time for durations, in seconds."""
    return time.perf_counter()
