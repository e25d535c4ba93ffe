from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import Gauge, Sum

from tests.unit.core.collecting import Collecting
from tests.unit.core.stepping import settle
from webkit_core import (
    CanUseTool,
    Limits,
    SessionConfig,
    SessionRegistry,
    State,
    UserMessage,
)
from webkit_core.gauges import SCOPE, Snapshot, Traffic
from webkit_core.testing import ResultMessage, ScriptedAgent, ScriptedFactory

BY_STATE = "agent_webkit.sessions.by_state"
MEMORY = "agent_webkit.agent.memory"

NOW: dict[str, Any] = {
    "live": 1,
    "starting": 2,
    "states": Counter({"idle": 3}),
    "subscribers": 4,
    "events": 5,
    "events_evicted": 6,
    "frames": 7,
    "bytes": 8,
    "ask_ages_s": [1.5, 9.5, 2.5],
    "agent_bytes": [],
}


COLLECTIONS = 100
"""How often is collected while things change: enough to meet each of them."""


class Numbers:
    """A source of which every number is known."""

    def __init__(self, **now: Any) -> None:
        self.now = Snapshot(**{**NOW, **now})
        self.asked: list[bool] = []

    def snapshot(self, *, agents: bool = False) -> Snapshot:
        self.asked.append(agents)
        return self.now


class House:
    """A registry of scripted agents whose numbers are collected."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.seen = Collecting()
        self.factory = ScriptedFactory()
        self.registry = SessionRegistry(
            self.factory, limits=limits, telemetry=self.seen.telemetry
        )

    def states(self) -> dict[str, float]:
        """By state, without those that nobody is in."""
        numbers = self.seen.numbers(BY_STATE, "state")
        return {state: number for state, number in numbers.items() if number}


def watched(*sources: Numbers) -> Collecting:
    seen = Collecting()
    for source in sources:
        seen.telemetry.watch(source)
    return seen


# --- names and numbers


@pytest.mark.parametrize(
    ("name", "unit", "number"),
    [
        ("agent_webkit.sessions.live", "{session}", 1),
        ("agent_webkit.sessions.starting", "{session}", 2),
        ("agent_webkit.subscribers", "{subscriber}", 4),
        ("agent_webkit.permissions.pending", "{request}", 3),
        ("agent_webkit.permissions.oldest", "s", 9.5),
    ],
)
def test_gauge_shows_its_number_under_its_name_and_unit(
    name: str, unit: str, number: float
) -> None:
    source = Numbers()
    seen = watched(source)

    metric = seen.metrics()[name]

    assert metric.unit == unit
    assert metric.description
    assert isinstance(metric.data, Gauge)
    assert seen.number(name) == number


@pytest.mark.parametrize(
    ("name", "unit", "number"),
    [
        ("agent_webkit.events.appended", "{event}", 5),
        ("agent_webkit.events.evicted", "{event}", 6),
        ("agent_webkit.frames.sent", "{frame}", 7),
        ("agent_webkit.sent", "By", 8),
    ],
)
def test_total_shows_its_number_under_its_name_and_unit(
    name: str, unit: str, number: int
) -> None:
    source = Numbers()
    seen = watched(source)

    metric = seen.metrics()[name]

    assert metric.unit == unit
    assert metric.description
    assert isinstance(metric.data, Sum)
    assert metric.data.is_monotonic
    assert seen.number(name) == number


def test_scope_is_what_every_name_begins_with() -> None:
    assert SCOPE == "agent_webkit"
    assert all(name.startswith("agent_webkit.") for name in Collecting().metrics())


def test_numbers_of_all_sources_are_added_up() -> None:
    sources = [Numbers(live=2, bytes=10), Numbers(live=3, bytes=20)]
    seen = watched(*sources)

    assert seen.number("agent_webkit.sessions.live") == 5
    assert seen.number("agent_webkit.sent") == 30
    assert seen.number("agent_webkit.permissions.pending") == 6


def test_number_is_looked_up_each_time_somebody_collects() -> None:
    source = Numbers(live=2)
    seen = watched(source)
    assert seen.number("agent_webkit.sessions.live") == 2

    source.now.live = 7

    assert seen.number("agent_webkit.sessions.live") == 7


def test_source_watched_twice_is_counted_once() -> None:
    source = Numbers(live=2)
    seen = watched(source, source)

    assert seen.number("agent_webkit.sessions.live") == 2


def test_every_state_is_shown_also_those_that_nobody_is_in() -> None:
    sources = [
        Numbers(states=Counter({"idle": 3, "failed": 1})),
        Numbers(states=Counter({"idle": 4})),
    ]
    seen = watched(*sources)

    assert seen.numbers(BY_STATE, "state") == {
        "starting": 0,
        "idle": 7,
        "running": 0,
        "waiting": 0,
        "background_waiting": 0,
        "interrupting": 0,
        "closed": 0,
        "failed": 1,
    }
    assert seen.metrics()[BY_STATE].unit == "{session}"
    assert isinstance(seen.metrics()[BY_STATE].data, Gauge)


def test_states_are_shown_as_0_without_any_source() -> None:
    numbers = Collecting().numbers(BY_STATE, "state")

    assert numbers == {state.value: 0 for state in State}


def test_oldest_request_is_that_of_all_sources_and_0_when_none_is_open() -> None:
    one, other = Numbers(ask_ages_s=[1.0, 2.0]), Numbers(ask_ages_s=[7.0, 3.0])
    seen = watched(one, other)
    assert seen.number("agent_webkit.permissions.oldest") == 7.0

    one.now.ask_ages_s, other.now.ask_ages_s = [], []

    assert seen.number("agent_webkit.permissions.oldest") == 0


def test_memory_of_agents_is_their_sum_and_the_largest() -> None:
    sources = [Numbers(agent_bytes=[100, 300]), Numbers(agent_bytes=[200])]
    seen = watched(*sources)

    assert seen.numbers(MEMORY, "stat") == {"sum": 600, "max": 300}
    assert seen.metrics()[MEMORY].unit == "By"
    assert isinstance(seen.metrics()[MEMORY].data, Gauge)


def test_memory_of_no_agents_is_0() -> None:
    assert Collecting().numbers(MEMORY, "stat") == {"sum": 0, "max": 0}


def test_memory_of_agents_is_looked_up_for_its_own_metric_alone() -> None:
    """It costs a read of ``/proc`` for each of them."""
    source = Numbers()
    seen = watched(source)

    seen.metrics()

    assert source.asked.count(True) == 1


# --- sources that are gone


def test_source_that_is_gone_is_not_collected_from() -> None:
    stays, goes = Numbers(live=2), Numbers(live=3)
    seen = watched(stays, goes)
    assert seen.number("agent_webkit.sessions.live") == 5

    del goes
    gc.collect()

    assert seen.number("agent_webkit.sessions.live") == 2


async def test_registry_that_is_gone_is_not_collected_from() -> None:
    house = House()
    await house.registry.create()
    seen = house.seen
    assert seen.number("agent_webkit.events.appended") > 0

    await house.registry.shutdown()
    del house
    await settle()
    gc.collect()

    assert seen.number("agent_webkit.events.appended") == 0


# --- a registry as the source


async def test_sessions_are_shown_by_what_they_do() -> None:
    house = House()
    sessions = [await house.registry.create() for _ in range(4)]
    asking = asyncio.ensure_future(house.factory.agents[0].ask("toolu_1"))
    await sessions[1].submit(UserMessage("hello"))
    await house.factory.agents[1].prompted()
    house.factory.agents[2].end(RuntimeError("boom"))
    await sessions[2].wait_ended()
    house.factory.gate = asyncio.Event()
    creating = asyncio.ensure_future(house.registry.create())
    await settle()

    assert house.states() == {
        "background_waiting": 1,
        "running": 1,
        "failed": 1,
        "idle": 1,
        "starting": 1,
    }
    assert house.seen.number("agent_webkit.sessions.live") == 4
    assert house.seen.number("agent_webkit.sessions.starting") == 1
    assert house.seen.number("agent_webkit.permissions.pending") == 1
    assert 0 < house.seen.number("agent_webkit.permissions.oldest") < 60

    house.factory.gate.set()
    await creating
    house.factory.agents[1].push(ResultMessage())
    await house.registry.shutdown()
    await asking
    assert house.states() == {}
    assert house.seen.number("agent_webkit.permissions.pending") == 0


async def test_streams_and_what_they_sent_are_shown() -> None:
    house = House()
    one, other = [await house.registry.create() for _ in range(2)]

    with one.attached(), one.attached(), other.attached():
        assert house.seen.number("agent_webkit.subscribers") == 3
    one.traffic.frames += 2
    one.traffic.bytes += 200
    other.traffic.frames += 1
    other.traffic.bytes += 50

    assert house.seen.number("agent_webkit.subscribers") == 0
    await house.registry.shutdown()
    assert house.seen.number("agent_webkit.frames.sent") == 3
    assert house.seen.number("agent_webkit.sent") == 250


async def test_events_are_shown_with_those_that_left_their_buffer() -> None:
    house = House(Limits(buffer_events=10))
    session = await house.registry.create()
    for number in range(50):
        session.log.append("x", {"n": number})

    shown = house.seen.number
    assert shown("agent_webkit.events.appended") == session.log.last_seq
    assert shown("agent_webkit.events.evicted") == session.log.last_seq - 10
    await house.registry.shutdown()


class WithPid(ScriptedAgent):
    """An agent with a process: this one."""

    pid = os.getpid()


async def test_memory_is_that_of_agents_with_a_process() -> None:
    async def factory(config: SessionConfig, ask: CanUseTool) -> ScriptedAgent:
        return WithPid(ask) if config.model == "with a process" else ScriptedAgent(ask)

    seen = Collecting()
    registry = SessionRegistry(factory, telemetry=seen.telemetry)
    await registry.create()
    assert seen.numbers(MEMORY, "stat") == {"sum": 0, "max": 0}
    for _ in range(2):
        await registry.create(SessionConfig(model="with a process"))

    shown = seen.numbers(MEMORY, "stat")

    assert shown["max"] > 1_000_000
    assert shown["sum"] == pytest.approx(2 * shown["max"], rel=0.1)
    await registry.shutdown()
    assert seen.numbers(MEMORY, "stat") == {"sum": 0, "max": 0}


def test_traffic_begins_at_nothing() -> None:
    traffic = Traffic()

    assert (traffic.frames, traffic.bytes) == (0, 0)


# --- in another thread


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Collector(threading.Thread):
    """Collects until it is stopped, and keeps what it saw."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self._house = house
        self._stopped = threading.Event()
        self.lives: list[float] = []
        self.errors: list[Exception] = []

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._house.registry.snapshot(agents=True)
                self.lives.append(self._house.seen.number("agent_webkit.sessions.live"))
            except Exception as error:
                self.errors.append(error)
                return

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@pytest.mark.usefixtures("impatient")
async def test_collecting_in_a_thread_while_sessions_come_and_go_is_safe(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "opentelemetry")
    house = House()
    kept = [await house.registry.create() for _ in range(20)]
    collector = Collector(house)
    collector.start()
    try:
        async with asyncio.timeout(60):
            while len(collector.lives) < COLLECTIONS and not collector.errors:
                session = await house.registry.create()
                with session.attached():
                    await session.submit(UserMessage("hello"))
                    house.factory.agents[-1].say("hi there")
                await house.registry.remove(session.id)
    finally:
        collector.stop()

    assert collector.errors == []
    assert caplog.text == ""
    # One that comes up meanwhile may be seen in the queue and as a session.
    assert {20, 21, 22} >= set(collector.lives)
    assert house.states() == {"idle": len(kept)}
    await house.registry.shutdown()


@pytest.mark.usefixtures("impatient")
async def test_collecting_in_a_thread_while_requests_come_and_go_is_safe() -> None:
    house = House()
    session = await house.registry.create()
    agent = house.factory.agents[0]
    collector = Collector(house)
    collector.start()
    try:
        async with asyncio.timeout(60):
            asked = 0
            while len(collector.lives) < COLLECTIONS and not collector.errors:
                ids = [f"toolu_{asked + number}" for number in range(20)]
                asked += len(ids)
                asks = [asyncio.ensure_future(agent.ask(id_)) for id_ in ids]
                while len(session.pending) < len(ids):
                    await settle()
                for ask in asks:
                    ask.cancel()
                await asyncio.wait(asks)
    finally:
        collector.stop()

    assert collector.errors == []
    assert session.ask_ages_s == []
    await house.registry.shutdown()
