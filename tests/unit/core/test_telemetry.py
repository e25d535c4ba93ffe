from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, Sum
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context

from tests.unit.core.collecting import (
    Collecting,
    Providers,
    attributes,
    failed_with,
    hangs_below,
)
from webkit_core import (
    PROTOCOL_VERSION,
    SessionRegistry,
    Telemetry,
    telemetry_for,
)
from webkit_core.telemetry import MAX_WINNERS, now_s
from webkit_core.testing import ScriptedFactory

Count = Callable[[Telemetry], None]
Record = Callable[[Telemetry, float], None]

WINNER = "agent_webkit.permissions.first_reply_winner"

COUNTERS: list[tuple[Count, str, str, dict[str, str]]] = [
    (
        lambda telemetry: telemetry.session_created(0.5),
        "agent_webkit.sessions.created",
        "{session}",
        {},
    ),
    (
        lambda telemetry: telemetry.session_evicted("idle"),
        "agent_webkit.sessions.evicted",
        "{session}",
        {"reason": "idle"},
    ),
    (
        lambda telemetry: telemetry.replied_first("tab-1"),
        WINNER,
        "{reply}",
        {"subscriber_id": "tab-1"},
    ),
    (
        lambda telemetry: telemetry.resume_refused("s-1", 7, "evicted"),
        "agent_webkit.resume.412",
        "{request}",
        {},
    ),
    (
        lambda telemetry: telemetry.subscriber_evicted("fell_behind"),
        "agent_webkit.subscribers.evicted",
        "{subscriber}",
        {"reason": "fell_behind"},
    ),
    (
        lambda telemetry: telemetry.refused("at_capacity"),
        "agent_webkit.refusals",
        "{request}",
        {"reason": "at_capacity"},
    ),
]

TURN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
LAG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10)
DEPTHS = (0, 1, 10, 50, 100, 250, 500, 1000, 2500, 10000)

HISTOGRAMS: list[tuple[Record, str, str, dict[str, str], tuple[float, ...]]] = [
    (
        lambda telemetry, value: telemetry.session_created(value),
        "agent_webkit.sessions.start.duration",
        "s",
        {},
        TURN_S,
    ),
    (
        lambda telemetry, value: telemetry.waited(value, "deny"),
        "agent_webkit.permissions.wait",
        "s",
        {"outcome": "deny"},
        TURN_S,
    ),
    (
        lambda telemetry, value: telemetry.resumed("s-1", 7, int(value)),
        "agent_webkit.resume.depth",
        "{event}",
        {},
        DEPTHS,
    ),
    (
        lambda telemetry, value: telemetry.turn_took(value, "success"),
        "agent_webkit.turn.duration",
        "s",
        {"outcome": "success"},
        TURN_S,
    ),
    (
        lambda telemetry, value: telemetry.first_token_took(value),
        "agent_webkit.turn.first_token",
        "s",
        {},
        TURN_S,
    ),
    (
        lambda telemetry, value: telemetry.lagged(value),
        "agent_webkit.events.lag",
        "s",
        {},
        LAG_S,
    ),
    (
        lambda telemetry, value: telemetry.loop_lagged(value),
        "agent_webkit.loop.lag",
        "s",
        {},
        LAG_S,
    ),
]

LOOKED_UP = {
    "agent_webkit.sessions.live",
    "agent_webkit.sessions.starting",
    "agent_webkit.sessions.by_state",
    "agent_webkit.subscribers",
    "agent_webkit.events.appended",
    "agent_webkit.events.evicted",
    "agent_webkit.frames.sent",
    "agent_webkit.sent",
    "agent_webkit.permissions.pending",
    "agent_webkit.permissions.oldest",
    "agent_webkit.agent.memory",
}
"""Those of :mod:`webkit_core.gauges`, which are there from the beginning."""


# --- metrics


@pytest.mark.parametrize(
    ("count", "name", "unit", "expected"), COUNTERS, ids=[row[1] for row in COUNTERS]
)
def test_counter_counts_under_its_name_unit_and_attributes(
    count: Count, name: str, unit: str, expected: dict[str, str]
) -> None:
    seen = Collecting()

    for _ in range(3):
        count(seen.telemetry)

    metric = seen.metrics()[name]
    assert metric.unit == unit
    assert metric.description
    assert isinstance(metric.data, Sum)
    assert metric.data.is_monotonic
    counted = [point for point in metric.data.data_points if point.value]
    assert [(point.value, dict(point.attributes or {})) for point in counted] == [
        (3, expected)
    ]


@pytest.mark.parametrize(
    ("record", "name", "unit", "expected", "bounds"),
    HISTOGRAMS,
    ids=[row[1] for row in HISTOGRAMS],
)
def test_histogram_records_under_its_name_unit_and_attributes(
    record: Record,
    name: str,
    unit: str,
    expected: dict[str, str],
    bounds: tuple[float, ...],
) -> None:
    seen = Collecting()

    for value in (1, 3, 5):
        record(seen.telemetry, value)

    metric = seen.metrics()[name]
    assert metric.unit == unit
    assert metric.description
    assert isinstance(metric.data, Histogram)
    (point,) = metric.data.data_points
    assert isinstance(point, HistogramDataPoint)
    assert (point.count, point.sum, point.min, point.max) == (3, 9, 1, 5)
    assert dict(point.attributes or {}) == expected
    assert tuple(point.explicit_bounds) == bounds


def test_there_is_no_metric_but_those_in_these_tables() -> None:
    """A new one needs its row here and in the README's table."""
    seen = Collecting()

    for count, *_ in COUNTERS:
        count(seen.telemetry)
    for record, *_ in HISTOGRAMS:
        record(seen.telemetry, 1)

    named = {row[1] for row in COUNTERS} | {row[1] for row in HISTOGRAMS}
    assert set(seen.metrics()) == named | LOOKED_UP


def test_counters_whose_attributes_are_known_say_0_before_anything_happens() -> None:
    """A rate over a counter that is not there yet misses the first event."""
    seen = Collecting()

    assert seen.number("agent_webkit.sessions.created") == 0
    assert seen.number("agent_webkit.resume.412") == 0
    assert seen.numbers("agent_webkit.sessions.evicted", "reason") == {
        "idle": 0,
        "closed": 0,
        "error": 0,
        "drain": 0,
    }
    assert seen.numbers("agent_webkit.subscribers.evicted", "reason") == {
        "fell_behind": 0,
        "took_nothing": 0,
    }
    assert seen.numbers(WINNER, "subscriber_id") == {}
    assert seen.numbers("agent_webkit.refusals", "reason") == {}


def test_counts_are_kept_apart_by_their_attribute() -> None:
    seen = Collecting()

    for reason in ("idle", "closed", "idle", "error", "drain", "idle"):
        seen.telemetry.session_evicted(reason)

    assert seen.numbers("agent_webkit.sessions.evicted", "reason") == {
        "idle": 3,
        "closed": 1,
        "error": 1,
        "drain": 1,
    }


# --- who answered first: clients choose the names


def test_winners_are_told_apart_up_to_a_bound_and_are_others_beyond_it() -> None:
    seen = Collecting()
    known = [f"tab-{number}" for number in range(MAX_WINNERS)]

    for name in [*known, "late", "later", "later"]:
        seen.telemetry.replied_first(name)

    assert MAX_WINNERS == 256
    assert seen.numbers(WINNER, "subscriber_id") == {
        **dict.fromkeys(known, 1),
        "other": 3,
    }


def test_winner_known_before_the_bound_was_reached_keeps_its_name() -> None:
    seen = Collecting()
    for number in range(MAX_WINNERS + 10):
        seen.telemetry.replied_first(f"tab-{number}")

    seen.telemetry.replied_first("tab-0")
    seen.telemetry.replied_first(f"tab-{MAX_WINNERS}")

    numbers = seen.numbers(WINNER, "subscriber_id")
    assert (numbers["tab-0"], numbers["other"]) == (2, 11)
    assert len(numbers) == MAX_WINNERS + 1


def test_winner_that_many_times_over_takes_one_place() -> None:
    seen = Collecting()
    for _ in range(2 * MAX_WINNERS):
        seen.telemetry.replied_first("tab-1")

    seen.telemetry.replied_first("tab-2")

    assert seen.numbers(WINNER, "subscriber_id") == {
        "tab-1": 2 * MAX_WINNERS,
        "tab-2": 1,
    }


@pytest.mark.parametrize("subscriber_id", [None, ""])
def test_winner_without_a_name_is_none(subscriber_id: str | None) -> None:
    seen = Collecting()

    seen.telemetry.replied_first(subscriber_id)

    assert seen.numbers(WINNER, "subscriber_id") == {"none": 1}


# --- spans


def test_span_says_whose_it_is_and_in_which_protocol() -> None:
    seen = Collecting()

    seen.telemetry.span("turn", "s-1", event_seq=7, outcome="success").end()

    span = seen.span("turn")
    assert attributes(span) == {
        "session_id": "s-1",
        "protocol_version": PROTOCOL_VERSION,
        "event_seq": 7,
        "outcome": "success",
    }
    assert span.parent is None
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "agent_webkit"


def test_span_hangs_below_the_given_context_and_not_below_what_is_current() -> None:
    seen = Collecting()
    above = seen.tracer.start_span("above")

    with seen.tracer.start_as_current_span("current"):
        seen.telemetry.span("child", "s-1", set_span_in_context(above)).end()
        seen.telemetry.span("root", "s-1", Context()).end()
        seen.telemetry.span("here", "s-1").end()
    above.end()

    assert hangs_below(seen.span("child"), seen.span("above"))
    assert seen.span("root").parent is None
    assert hangs_below(seen.span("here"), seen.span("current"))


def test_span_can_have_begun_earlier() -> None:
    seen = Collecting()

    seen.telemetry.span("stream", "s-1", start_ns=1_000_000_000).end()

    assert seen.span("stream").start_time == 1_000_000_000


def test_resume_is_a_span_with_its_cursor_and_depth() -> None:
    seen = Collecting()

    seen.telemetry.resumed("s-1", 40, 2)

    span = seen.span("resume")
    assert attributes(span) == {
        "session_id": "s-1",
        "protocol_version": PROTOCOL_VERSION,
        "event_seq": 40,
        "depth": 2,
    }
    assert failed_with(span) is None
    assert seen.number("agent_webkit.resume.412") == 0


def test_resume_refused_is_a_span_that_failed_with_the_code() -> None:
    seen = Collecting()

    seen.telemetry.resume_refused("s-1", 40, "evicted")

    span = seen.span("resume")
    assert attributes(span)["event_seq"] == 40
    assert failed_with(span) == "evicted"
    assert "agent_webkit.resume.depth" not in seen.metrics()


# --- one for each pair of providers


def test_telemetry_is_one_for_a_pair_of_providers() -> None:
    seen, others = Providers(), Providers()

    one = telemetry_for(seen.meter_provider, seen.tracer_provider)

    assert telemetry_for(seen.meter_provider, seen.tracer_provider) is one
    assert telemetry_for(others.meter_provider, others.tracer_provider) is not one
    assert telemetry_for() is telemetry_for()
    assert telemetry_for() is not one


def test_registry_by_default_tells_the_providers_of_the_process() -> None:
    assert SessionRegistry(ScriptedFactory()).telemetry is telemetry_for()


async def test_registries_on_one_pair_of_providers_are_collected_together() -> None:
    """The second one's gauges would be dropped, were they instruments of its own."""
    seen = Providers()
    registries = [
        SessionRegistry(
            ScriptedFactory(),
            telemetry=telemetry_for(seen.meter_provider, seen.tracer_provider),
        )
        for _ in range(2)
    ]
    for registry in registries:
        await registry.create()

    assert seen.number("agent_webkit.sessions.live") == 2
    for registry in registries:
        await registry.shutdown()


def test_telemetry_without_providers_does_nothing() -> None:
    telemetry = Telemetry(NoOpMeterProvider())

    for count, *_ in COUNTERS:
        count(telemetry)
    for record, *_ in HISTOGRAMS:
        record(telemetry, 1)
    span = telemetry.span("turn", "s-1")

    assert not span.is_recording()


def test_now_is_in_seconds_and_never_goes_back() -> None:
    before = time.perf_counter()

    now = now_s()

    assert before <= now <= time.perf_counter()


def test_telemetry_is_one_however_its_providers_are_passed() -> None:
    seen = Providers()

    one = telemetry_for(seen.meter_provider, None)

    assert telemetry_for(meter_provider=seen.meter_provider) is one
    assert telemetry_for(None, None) is telemetry_for()


async def test_second_tracer_provider_on_a_meter_provider_is_collected_too() -> None:
    seen = Providers()
    telemetry_for(seen.meter_provider)
    registry = SessionRegistry(
        ScriptedFactory(),
        telemetry=telemetry_for(seen.meter_provider, TracerProvider()),
    )
    await registry.create()

    assert seen.number("agent_webkit.sessions.live") == 1

    await registry.shutdown()
