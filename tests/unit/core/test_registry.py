from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.trace import get_current_span

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.collecting import (
    Collecting,
    attributes,
    context_of,
    failed_with,
    hangs_below,
)
from tests.unit.core.stepping import settle
from tests.unit.core.test_conversation import names, started as task_started
from webkit_core import (
    AgentStartError,
    CanUseTool,
    CapacityExceeded,
    Deadlines,
    Draining,
    Limits,
    PermissionResponse,
    Session,
    SessionClosed,
    SessionConfig,
    SessionExpired,
    SessionNotFound,
    SessionRegistry,
    StartQueueTimeout,
    State,
    TooManySessions,
    UserMessage,
    WebkitError,
)
from webkit_core.departed import MAX_REMEMBERED
from webkit_core.testing import (
    FakeClock,
    ResultMessage,
    ScriptedAgent,
    ScriptedFactory,
)

IDLE_S = 300.0


class Starting(ScriptedFactory):
    """Takes some turns of the loop for each start, and counts those under way."""

    under_way = 0
    most_under_way = 0

    async def __call__(
        self, config: SessionConfig, can_use_tool: CanUseTool
    ) -> ScriptedAgent:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
            return await super().__call__(config, can_use_tool)
        finally:
            self.under_way -= 1


class House:
    """A registry of scripted agents on a clock that stands still."""

    def __init__(
        self,
        max_sessions: int = 100,
        *,
        concurrent_starts: int | None = None,
        start_queue_s: float = 30.0,
        limits: Limits | None = None,
        per_owner: int = 0,
        **deadlines: float,
    ) -> None:
        self.clock = FakeClock()
        self.sessions: list[Session] = []
        self.begun: asyncio.Future[None] | None = None
        self.factory = Starting()
        self.seen = Collecting()
        self.registry = SessionRegistry(
            self.factory,
            idle_timeout_s=IDLE_S,
            max_sessions=max_sessions,
            max_sessions_per_owner=per_owner,
            concurrent_starts=concurrent_starts,
            start_queue_s=start_queue_s,
            limits=limits,
            deadlines=Deadlines(**deadlines),
            telemetry=self.seen.telemetry,
            clock=self.clock,
        )

    def creating(self, session_id: str = "", owner: str = "") -> asyncio.Task[Session]:
        """A creation on its way."""
        config = SessionConfig(session_id=session_id, owner=owner)
        return asyncio.ensure_future(self.registry.create(config))

    @property
    def created(self) -> float:
        return self.seen.number("agent_webkit.sessions.created")

    @property
    def evicted(self) -> dict[str, float]:
        """How many sessions have ended, by reason, without the reasons of none."""
        numbers = self.seen.numbers("agent_webkit.sessions.evicted", "reason")
        return {reason: number for reason, number in numbers.items() if number}

    async def create(self, owner: str = "") -> Session:
        async with asyncio.timeout(5):
            return await self.registry.create(SessionConfig(owner=owner))

    def agent_of(self, session: Session) -> ScriptedAgent:
        ids = [config.session_id for config in self.factory.configs]
        return self.factory.agents[ids.index(session.id)]

    async def in_turn(self) -> Session:
        """A session with a prompt handed over."""
        session = await self.create()
        await session.submit(UserMessage("hello"))
        async with asyncio.timeout(5):
            await self.agent_of(session).prompted()
        return session

    async def failed(self, owner: str = "") -> Session:
        """A session whose agent died."""
        session = await self.create(owner)
        self.agent_of(session).end(RuntimeError("boom"))
        async with asyncio.timeout(5):
            await session.wait_ended()
        assert session.state is State.FAILED
        return session

    async def shutdown(self) -> None:
        async with asyncio.timeout(5):
            await self.registry.shutdown()


# --- create


async def test_create_starts_a_session_that_can_be_found() -> None:
    house = House()

    session = await house.create()

    assert session.state is State.IDLE
    assert house.registry.get(session.id) is session
    assert list(house.registry) == [session]
    assert house.registry.live_count() == 1
    await house.shutdown()


async def test_create_gives_each_session_a_uuid_and_its_agent_the_same() -> None:
    house = House()

    sessions = [await house.create() for _ in range(2)]

    ids = [config.session_id for config in house.factory.configs]
    assert ids == [session.id for session in sessions]
    assert len(set(ids)) == 2
    assert all(str(uuid.UUID(each)) == each for each in ids)
    await house.shutdown()


async def test_create_passes_on_what_the_session_asks_for() -> None:
    house = House()
    config = SessionConfig(model="m", cwd="/tmp", session_id="chosen")

    session = await house.registry.create(config)

    assert house.factory.configs == [config]
    assert session.id == "chosen"
    await house.shutdown()


async def test_create_under_the_id_of_a_live_session_is_refused() -> None:
    """The first one would be lost: nobody could end its agent."""
    house = House()
    config = SessionConfig(session_id="chosen")
    first = await house.registry.create(config)

    with pytest.raises(WebkitError):
        await house.registry.create(config)

    assert house.registry.get("chosen") is first
    await house.shutdown()
    assert house.factory.agents[0].disconnected


async def test_create_gives_sessions_the_registrys_limits() -> None:
    limits = Limits(buffer_events=3)
    registry = SessionRegistry(ScriptedFactory(), limits=limits)
    session = await registry.create()

    for number in range(5):
        session.log.append("x", {"n": number})

    assert session.log.oldest_seq == session.log.last_seq - 2
    await registry.shutdown()


async def test_create_at_the_cap_is_refused_until_one_has_ended() -> None:
    house = House(max_sessions=2)
    first = await house.create()
    await house.create()

    with pytest.raises(CapacityExceeded) as caught:
        await house.create()
    assert caught.value.limit == 2
    assert len(house.factory.configs) == 2

    await house.registry.remove(first.id)
    await house.create()
    await house.shutdown()


async def test_creates_at_once_never_exceed_the_cap() -> None:
    house = House(max_sessions=3)
    house.factory.gate = asyncio.Event()
    creating = [asyncio.ensure_future(house.create()) for _ in range(8)]
    await settle()
    assert house.registry.live_count() == 3
    house.factory.gate.set()

    made = await asyncio.gather(*creating, return_exceptions=True)

    refused = [each for each in made if isinstance(each, CapacityExceeded)]
    assert len(refused) == 5
    assert len(house.factory.configs) == 3
    await house.shutdown()


async def test_create_that_fails_leaves_nothing_behind() -> None:
    house = House(max_sessions=1)
    house.factory.error = OSError("no such CLI")

    for _ in range(3):
        with pytest.raises(AgentStartError, match="no such CLI"):
            await house.create()
        await settle()
        assert list(house.registry) == []

    house.factory.error = None
    await house.create()
    await house.shutdown()


async def test_create_with_a_factory_that_hangs_fails_in_time_and_is_forgotten() -> (
    None
):
    house = House(connect_s=0.02)
    house.factory.gate = asyncio.Event()

    with pytest.raises(AgentStartError, match="did not start within"):
        await house.create()

    await settle()
    assert list(house.registry) == []
    assert house.registry.live_count() == 0


async def test_create_cancelled_in_mid_start_leaves_nothing_behind() -> None:
    house = House()
    house.factory.gate = asyncio.Event()
    creating = asyncio.ensure_future(house.registry.create())
    await settle()
    assert house.registry.live_count() == 1

    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await settle()

    assert list(house.registry) == []
    assert house.factory.agents == []


@pytest.mark.parametrize("steps", range(8))
async def test_create_cancelled_at_any_step_leaves_no_agent_behind(steps: int) -> None:
    house = House()
    creating = asyncio.ensure_future(house.registry.create())
    for _ in range(steps):
        await asyncio.sleep(0)

    creating.cancel()
    await asyncio.wait({creating})
    await house.shutdown()
    await settle()

    assert all(agent.disconnected for agent in house.factory.agents)
    assert list(house.registry) == []


# --- find and remove


@pytest.mark.parametrize("session_id", ["", "no-such-session"])
async def test_unknown_session_is_not_found(session_id: str) -> None:
    house = House()
    await house.create()

    with pytest.raises(SessionNotFound) as caught:
        house.registry.get(session_id)
    assert caught.value.session_id == session_id
    with pytest.raises(SessionNotFound):
        await house.registry.remove(session_id)
    assert house.registry.live_count() == 1
    await house.shutdown()


async def test_remove_closes_the_session_and_forgets_it() -> None:
    house = House()
    session = await house.create()

    await house.registry.remove(session.id)

    assert session.state is State.CLOSED
    assert house.agent_of(session).disconnected
    assert names(session.log)[-1] == "done"
    with pytest.raises(SessionNotFound):
        house.registry.get(session.id)


async def test_removes_at_once_all_return_at_the_one_end() -> None:
    house = House()
    session = await house.create()

    async with asyncio.timeout(5):
        await asyncio.gather(*(house.registry.remove(session.id) for _ in range(3)))

    calls = [name for name, _ in house.agent_of(session).calls]
    assert calls.count("disconnect") == 1
    assert list(house.registry) == []


async def test_remove_goes_on_when_its_caller_is_cancelled() -> None:
    house = House()
    session = await house.in_turn()
    removing = asyncio.ensure_future(house.registry.remove(session.id))
    await settle()
    assert not session.ended

    removing.cancel()
    await settle()
    house.agent_of(session).push(ResultMessage())
    async with asyncio.timeout(5):
        await session.wait_ended()
    await settle()

    assert session.state is State.CLOSED
    assert list(house.registry) == []


async def test_iterating_while_sessions_come_and_go_is_safe() -> None:
    house = House()
    sessions = {await house.create() for _ in range(3)}

    for session in house.registry:
        await house.registry.remove(session.id)
        sessions.discard(session)

    assert sessions == set()


async def test_agent_on_its_way_out_counts_until_it_is_gone() -> None:
    """Its process still has its memory; the cap is there for that."""
    house = House(max_sessions=1, disconnect_s=0.05)
    session = await house.create()
    house.agent_of(session).hangs = {"disconnect"}
    removing = asyncio.ensure_future(house.registry.remove(session.id))
    await house.agent_of(session).called("disconnect")
    assert session.ended

    assert house.registry.live_count() == 1
    with pytest.raises(CapacityExceeded):
        await house.create()

    await removing
    assert house.registry.live_count() == 0


# --- failed sessions


async def test_failed_session_stays_readable_and_does_not_count() -> None:
    house = House(max_sessions=1)
    session = await house.failed()

    assert house.registry.get(session.id) is session
    assert names(session.log)[-2:] == ["session_state", "done"]
    assert house.registry.live_count() == 0
    await house.create()
    await house.shutdown()


async def test_failed_session_can_be_removed() -> None:
    house = House()
    session = await house.failed()

    await house.registry.remove(session.id)

    assert list(house.registry) == []


async def test_failed_session_is_forgotten_when_nobody_has_asked_for_so_long() -> None:
    house = House()
    session = await house.failed()
    house.clock.advance(IDLE_S - 1)
    assert await house.registry.reap() == 0

    house.clock.advance(1)

    assert await house.registry.reap() == 1
    with pytest.raises(SessionNotFound):
        house.registry.get(session.id)


async def test_failed_session_with_a_queue_and_a_task_is_forgotten_too() -> None:
    house = House()
    session = await house.in_turn()
    await session.submit(UserMessage("never said"))
    agent = house.agent_of(session)
    agent.push(task_started())
    agent.end(RuntimeError("boom"))
    async with asyncio.timeout(5):
        await session.wait_ended()

    house.clock.advance(IDLE_S)
    await house.registry.reap()

    assert list(house.registry) == []


# --- idle eviction


async def test_reap_closes_whom_nobody_uses_and_nobody_else() -> None:
    house = House()
    old, young = await house.create(), await house.create()
    house.clock.advance(IDLE_S - 1)
    await young.submit(UserMessage("hello"))
    await house.agent_of(young).prompted()
    house.clock.advance(1)

    assert await house.registry.reap() == 1

    assert (old.state, young.state) == (State.CLOSED, State.RUNNING)
    assert house.agent_of(old).disconnected
    assert list(house.registry) == [young]
    house.agent_of(young).push(ResultMessage())
    await house.shutdown()


async def test_reap_with_nobody_idle_closes_nobody() -> None:
    house = House()
    await house.create()
    house.clock.advance(IDLE_S - 0.5)

    assert await house.registry.reap() == 0

    assert house.registry.live_count() == 1
    await house.shutdown()


@pytest.mark.parametrize("steps", range(5))
async def test_input_as_the_reaper_comes_is_refused_or_heeded(steps: int) -> None:
    """An accepted message must not vanish with its session."""
    house = House(close_turn_s=0.02)
    session = await house.create()
    house.clock.advance(IDLE_S)
    reaping = asyncio.ensure_future(house.registry.reap())
    for _ in range(steps):
        await asyncio.sleep(0)

    try:
        await session.submit(UserMessage("hello"))
        accepted = True
    except SessionNotFound:
        accepted = False
    await reaping
    await settle()

    assert len(house.agent_of(session).prompts) == accepted
    assert session.ended is not accepted
    await house.shutdown()


async def in_a_turn(house: House) -> Session:
    return await house.in_turn()


async def with_a_request_open(house: House) -> Session:
    session = await house.create()
    task = asyncio.ensure_future(house.agent_of(session).ask("toolu_1"))
    await settle()
    assert session.pending
    task.add_done_callback(lambda done: done.exception())
    return session


async def with_a_background_task(house: House) -> Session:
    session = await house.create()
    house.agent_of(session).push(task_started())
    while "task_status" not in names(session.log):
        await session.log.wait()
    return session


async def with_a_message_queued(house: House) -> Session:
    session = await house.create()
    await session.submit(UserMessage("hello"))
    assert session.queued
    return session


@pytest.mark.parametrize(
    "used",
    [in_a_turn, with_a_request_open, with_a_background_task, with_a_message_queued],
    ids=lambda used: used.__name__,
)
async def test_reap_spares_a_session_in_use(used: Any) -> None:
    house = House(close_turn_s=0.02)
    session: Session = await used(house)
    house.clock.advance(10 * IDLE_S)

    assert await house.registry.reap() == 0

    assert not session.ended
    await house.shutdown()


async def test_reap_spares_a_session_with_a_stream_until_it_is_gone() -> None:
    house = House()
    session = await house.create()
    with session.attached():
        house.clock.advance(10 * IDLE_S)
        assert await house.registry.reap() == 0

    assert await house.registry.reap() == 0
    house.clock.advance(IDLE_S)
    assert await house.registry.reap() == 1
    assert session.ended


async def test_reaper_evicts_by_itself() -> None:
    registry = SessionRegistry(ScriptedFactory(), idle_timeout_s=0.02)
    registry.start_reaper()
    registry.start_reaper()
    session = await registry.create()

    async with asyncio.timeout(5):
        await session.wait_ended()
    await settle()

    assert session.state is State.CLOSED
    assert list(registry) == []
    await registry.shutdown()


async def test_reaper_that_stumbles_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    stumbles = [ZeroDivisionError("odd clock")]

    def clock() -> float:
        if reaping and stumbles:
            raise stumbles.pop()
        return loop.time()

    reaping = False
    loop = asyncio.get_running_loop()
    registry = SessionRegistry(ScriptedFactory(), idle_timeout_s=0.02, clock=clock)
    session = await registry.create()
    reaping = True
    registry.start_reaper()

    async with asyncio.timeout(5):
        await session.wait_ended()

    assert stumbles == []
    assert "odd clock" in caplog.text
    await registry.shutdown()


# --- the end


async def test_shutdown_ends_every_session() -> None:
    house = House()
    sessions = [await house.create(), await house.failed(), await house.create()]

    await house.shutdown()

    assert [session.ended for session in sessions] == [True] * 3
    assert all(agent.disconnected for agent in house.factory.agents)
    assert list(house.registry) == []


async def test_shutdown_ends_sessions_in_parallel() -> None:
    house = House()
    sessions = [await house.in_turn() for _ in range(3)]

    ending = asyncio.ensure_future(house.shutdown())
    async with asyncio.timeout(5):
        for session in sessions:
            await house.agent_of(session).called("interrupt")
    assert not ending.done()
    for session in sessions:
        house.agent_of(session).push(ResultMessage())

    await ending
    assert [session.state for session in sessions] == [State.CLOSED] * 3


async def test_shutdown_ends_what_is_being_created() -> None:
    house = House()
    house.factory.gate = asyncio.Event()
    creating = asyncio.ensure_future(house.create())
    await settle()

    await house.shutdown()

    with pytest.raises(Draining) as caught:
        await creating
    assert isinstance(caught.value.__cause__, AgentStartError)
    await settle()
    assert list(house.registry) == []
    assert house.factory.agents == []


async def test_shutdown_waits_for_starts_that_were_cancelled() -> None:
    """Their agents may still be on their way out."""
    gate = asyncio.Event()
    out: list[str] = []

    async def factory(_config: SessionConfig, _ask: CanUseTool) -> ScriptedAgent:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            await gate.wait()
            out.append("gone")
            raise
        raise AssertionError

    registry = SessionRegistry(factory)
    creating = asyncio.ensure_future(registry.create())
    await settle()
    creating.cancel()
    await settle()

    ending = asyncio.ensure_future(registry.shutdown())
    await settle()
    assert not ending.done()
    gate.set()
    await ending

    assert out == ["gone"]
    assert list(registry) == []


async def test_create_after_the_shutdown_is_refused() -> None:
    house = House()
    await house.shutdown()

    with pytest.raises(Draining):
        await house.create()

    assert house.factory.configs == []


async def test_shutdown_is_idempotent_and_ends_the_reaper() -> None:
    before = asyncio.all_tasks()
    house = House()
    house.registry.start_reaper()
    await house.create()

    await asyncio.gather(house.shutdown(), house.shutdown())
    await house.shutdown()
    house.registry.start_reaper()
    await settle()

    assert asyncio.all_tasks() - before == set()


async def test_shutdown_is_bounded_by_the_deadlines() -> None:
    house = House(close_turn_s=0.02, disconnect_s=0.02)
    for _ in range(3):
        session = await house.in_turn()
        house.agent_of(session).hangs = {"disconnect"}

    await house.shutdown()

    assert all(agent.killed for agent in house.factory.agents)
    assert list(house.registry) == []


# --- the start queue


async def test_no_more_sessions_start_at_a_time_than_may() -> None:
    house = House(concurrent_starts=3)
    house.factory.gate = asyncio.Event()
    creating = [house.creating() for _ in range(10)]
    await settle()
    assert len(house.factory.configs) == 3
    assert house.registry.live_count() == 10

    house.factory.gate.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*creating)

    assert house.factory.most_under_way == 3
    assert house.registry.live_count() == 10
    await house.shutdown()


async def test_by_default_as_many_start_at_a_time_as_there_are_cores() -> None:
    house = House()
    house.factory.gate = asyncio.Event()
    creating = [house.creating() for _ in range((os.cpu_count() or 1) + 3)]
    await settle()

    assert len(house.factory.configs) == (os.cpu_count() or 1)

    house.factory.gate.set()
    await asyncio.gather(*creating)
    await house.shutdown()


async def test_sessions_start_in_the_order_in_which_they_were_asked_for() -> None:
    house = House(concurrent_starts=1)
    ids = [f"s-{number}" for number in range(6)]

    await asyncio.gather(*(house.creating(id_) for id_ in ids))

    assert [config.session_id for config in house.factory.configs] == ids
    await house.shutdown()


@pytest.mark.parametrize("concurrent_starts", [1, 2, 5])
@pytest.mark.parametrize("max_sessions", [1, 4])
async def test_creations_in_the_queue_count_against_the_cap(
    max_sessions: int, concurrent_starts: int
) -> None:
    house = House(max_sessions, concurrent_starts=concurrent_starts)
    house.factory.gate = asyncio.Event()

    creating = [house.creating() for _ in range(20)]
    await settle()
    assert house.registry.live_count() == max_sessions
    assert sum(each.done() for each in creating) == 20 - max_sessions

    house.factory.gate.set()
    made = await asyncio.gather(*creating, return_exceptions=True)
    assert sum(isinstance(each, Session) for each in made) == max_sessions
    assert sum(isinstance(each, CapacityExceeded) for each in made) == (
        20 - max_sessions
    )
    assert len(house.factory.configs) == max_sessions
    await house.shutdown()


async def test_cap_holds_while_sessions_come_and_go() -> None:
    house = House(3, concurrent_starts=2)
    for _ in range(10):
        made = await asyncio.gather(
            *(house.creating() for _ in range(5)), return_exceptions=True
        )
        sessions = [each for each in made if isinstance(each, Session)]
        assert len(sessions) == 3 == house.registry.live_count()
        await asyncio.gather(*(house.registry.remove(each.id) for each in sessions))
        assert house.registry.live_count() == 0


@pytest.mark.parametrize("refused", [OSError("no such CLI"), None])
async def test_start_that_failed_or_was_cancelled_gives_its_turn_to_the_next(
    refused: Exception | None,
) -> None:
    house = House(concurrent_starts=1)
    house.factory.gate = asyncio.Event()
    first, second = house.creating(), house.creating()
    await settle()
    assert len(house.factory.configs) == 1

    if refused is None:
        first.cancel()
    else:
        house.factory.error = refused
        house.factory.gate.set()
    async with asyncio.timeout(5):
        await asyncio.wait({first})
        house.factory.gate.set()
        made = await asyncio.gather(first, second, return_exceptions=True)

    assert len(house.factory.configs) == 2
    assert isinstance(made[1], Session if refused is None else AgentStartError)
    house.factory.error = None
    await house.create()
    await house.shutdown()


def test_creation_whose_turn_does_not_come_in_time_is_told_so() -> None:
    async def main() -> None:
        house = House(concurrent_starts=1, start_queue_s=7)
        house.factory.gate = asyncio.Event()
        first = house.creating()
        await settle()

        with pytest.raises(StartQueueTimeout) as caught:
            await house.registry.create()

        assert now_s() == 7
        assert caught.value.waited_s == 7
        assert house.registry.live_count() == 1
        assert len(house.factory.configs) == 1
        house.factory.gate.set()
        await first
        await house.registry.shutdown()

    run_in_no_time(main())


def test_start_may_take_longer_than_the_wait_for_it() -> None:
    async def main() -> None:
        house = House(concurrent_starts=1, start_queue_s=7)
        house.factory.gate = asyncio.Event()
        first = house.creating()
        await asyncio.sleep(20)

        house.factory.gate.set()

        assert (await first).state is State.IDLE
        await house.registry.shutdown()

    run_in_no_time(main())


def test_creations_that_gave_up_leave_nothing_behind() -> None:
    async def main() -> None:
        house = House(8, concurrent_starts=2, start_queue_s=7)
        house.factory.gate = asyncio.Event()
        starting = [house.creating() for _ in range(2)]
        await settle()
        for _ in range(5):
            queued = [house.creating() for _ in range(6)]
            made = await asyncio.gather(*queued, return_exceptions=True)
            assert all(isinstance(each, StartQueueTimeout) for each in made)
            assert house.registry.live_count() == 2
        assert house.registry.snapshot().starting == 2

        house.factory.gate.set()
        await asyncio.gather(*starting)

        house.factory.most_under_way = 0
        await asyncio.gather(*(house.creating() for _ in range(6)))
        assert house.factory.most_under_way == 2
        assert (house.created, house.evicted) == (8, {})
        await house.registry.shutdown()
        assert (house.created, house.evicted) == (8, {"drain": 8})

    run_in_no_time(main())


@pytest.mark.parametrize("early_s", [0.5, 0.0, -0.5])
def test_turn_that_comes_as_the_wait_for_it_ends_is_not_lost(early_s: float) -> None:
    async def main() -> None:
        house = House(concurrent_starts=1, start_queue_s=7)
        house.factory.gate = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.call_at(7 - early_s, house.factory.gate.set)
        first, second = house.creating(), house.creating()

        await asyncio.wait({first, second})

        assert first.exception() is None
        given_up = second.exception()
        assert given_up is None or isinstance(given_up, StartQueueTimeout)
        assert house.registry.live_count() == 1 + (given_up is None)
        await asyncio.gather(*(house.creating() for _ in range(3)))
        assert now_s() < 8
        await house.registry.shutdown()

    run_in_no_time(main())


async def test_creation_cancelled_in_the_queue_leaves_nothing_behind() -> None:
    house = House(2, concurrent_starts=1)
    house.factory.gate = asyncio.Event()
    first, second = house.creating(), house.creating()
    await settle()
    assert house.registry.live_count() == 2

    second.cancel()
    await asyncio.wait({second})

    assert second.cancelled()
    assert house.registry.live_count() == 1
    third = house.creating()
    house.factory.gate.set()
    await asyncio.gather(first, third)
    assert len(house.factory.configs) == 2
    await house.shutdown()


@pytest.mark.parametrize("steps", range(12))
async def test_creation_cancelled_as_its_turn_comes_passes_it_on(steps: int) -> None:
    house = House(concurrent_starts=1)
    house.factory.gate = asyncio.Event()
    first, second, third = (house.creating() for _ in range(3))
    await settle()
    house.factory.gate.set()
    for _ in range(steps):
        await asyncio.sleep(0)

    second.cancel()

    async with asyncio.timeout(5):
        await asyncio.wait({first, second, third})
        await house.creating()
    await house.shutdown()
    await settle()
    assert not first.cancelled()
    assert not third.cancelled()
    assert house.factory.most_under_way == 1
    assert all(agent.disconnected for agent in house.factory.agents)


# --- sessions that are gone


def gone(house: House, session_id: str) -> type[SessionNotFound]:
    """What is said of a session that is not there."""
    with pytest.raises(SessionNotFound) as caught:
        house.registry.get(session_id)
    assert caught.value.session_id == session_id
    return type(caught.value)


async def test_session_gone_is_told_apart_from_one_that_never_was() -> None:
    house = House()
    idle, closed = await house.create(), await house.create()
    await house.registry.remove(closed.id)
    house.clock.advance(IDLE_S)
    await house.registry.reap()

    assert gone(house, idle.id) is SessionExpired
    assert gone(house, closed.id) is SessionClosed
    assert gone(house, "never") is SessionNotFound
    for session_id, kind in [(idle.id, SessionExpired), (closed.id, SessionClosed)]:
        with pytest.raises(kind):
            await house.registry.remove(session_id)


async def test_session_ended_with_the_registry_was_closed() -> None:
    house = House()
    session = await house.create()

    await house.shutdown()

    assert gone(house, session.id) is SessionClosed


async def test_failed_session_that_nobody_asked_for_has_expired() -> None:
    house = House()
    session = await house.failed()
    house.clock.advance(IDLE_S)

    await house.registry.reap()

    assert gone(house, session.id) is SessionExpired


async def test_session_under_the_id_of_one_that_is_gone_is_found() -> None:
    house = House()
    await house.creating("chosen")
    await house.registry.remove("chosen")

    session = await house.creating("chosen")

    assert house.registry.get("chosen") is session
    house.clock.advance(IDLE_S)
    await house.registry.reap()
    assert gone(house, "chosen") is SessionExpired


async def test_memory_of_sessions_that_are_gone_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("webkit_core.departed.MAX_REMEMBERED", 3)
    house = House()
    ids = [f"s-{number}" for number in range(5)]

    for id_ in ids:
        await house.creating(id_)
        await house.registry.remove(id_)

    assert [gone(house, id_) for id_ in ids] == [
        SessionNotFound,
        SessionNotFound,
        SessionClosed,
        SessionClosed,
        SessionClosed,
    ]
    assert MAX_REMEMBERED == 4096


# --- what is counted


async def test_session_created_is_counted_with_its_time_to_start() -> None:
    house = House()

    for _ in range(3):
        await house.create()

    times = house.seen.times("agent_webkit.sessions.start.duration")
    assert (house.created, house.evicted) == (3, {})
    assert times[None][0] == 3
    assert 0 < times[None][1] < 60
    await house.shutdown()


async def test_time_to_start_runs_from_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wait for its turn is what a client waits for too."""
    house = House(concurrent_starts=1)
    monkeypatch.setattr("webkit_core.registry.now_s", house.clock)
    house.factory.gate = asyncio.Event()
    creating = [house.creating() for _ in range(2)]
    await settle()
    house.clock.advance(4)

    house.factory.gate.set()
    await asyncio.gather(*creating)

    times = house.seen.times("agent_webkit.sessions.start.duration")
    assert times == {None: (2, 8.0)}
    await house.shutdown()


async def test_creation_that_came_to_nothing_is_not_counted() -> None:
    house = House(1, concurrent_starts=1)
    house.factory.error = OSError("no such CLI")
    with pytest.raises(AgentStartError):
        await house.create()
    await settle()
    house.factory.error, house.factory.gate = None, asyncio.Event()
    cancelled = house.creating()
    await settle()
    with pytest.raises(CapacityExceeded):
        await house.create()
    cancelled.cancel()
    await asyncio.wait({cancelled})

    await house.shutdown()
    await settle()

    assert (house.created, house.evicted) == (0, {})
    assert house.seen.times("agent_webkit.sessions.start.duration") == {}


async def by_idling(house: House, session: Session) -> None:
    house.clock.advance(IDLE_S)
    await house.registry.reap()


async def by_removal(house: House, session: Session) -> None:
    await house.registry.remove(session.id)


async def by_many_removals(house: House, session: Session) -> None:
    removing = [house.registry.remove(session.id) for _ in range(3)]
    await asyncio.gather(*removing, house.shutdown())


async def by_itself(house: House, session: Session) -> None:
    await session.close()


async def by_failure(house: House, session: Session) -> None:
    house.agent_of(session).end(RuntimeError("boom"))
    await session.wait_ended()


async def by_failure_and_idling(house: House, session: Session) -> None:
    await by_failure(house, session)
    await by_idling(house, session)


async def by_failure_and_removal(house: House, session: Session) -> None:
    await by_failure(house, session)
    await by_removal(house, session)


async def by_failure_and_shutdown(house: House, session: Session) -> None:
    await by_failure(house, session)
    await house.shutdown()


async def by_idling_in_a_drain(house: House, session: Session) -> None:
    draining = asyncio.ensure_future(house.registry.drain(60))
    await settle()
    await by_idling(house, session)
    await draining


async def by_a_drain_at_once(house: House, session: Session) -> None:
    await house.registry.drain(0)


async def by_shutdown(house: House, session: Session) -> None:
    await house.shutdown()


COURSES = [
    (by_idling, "idle"),
    (by_removal, "closed"),
    (by_many_removals, "closed"),
    (by_itself, "closed"),
    (by_failure, "error"),
    (by_failure_and_idling, "error"),
    (by_failure_and_removal, "error"),
    (by_failure_and_shutdown, "error"),
    (by_idling_in_a_drain, "idle"),
    (by_a_drain_at_once, "drain"),
    (by_shutdown, "drain"),
]


@pytest.mark.parametrize(
    ("end", "reason"), COURSES, ids=[end.__name__ for end, _ in COURSES]
)
async def test_session_is_counted_once_for_what_ended_it(
    end: Callable[[House, Session], Awaitable[None]], reason: str
) -> None:
    house = House()
    session = await house.create()

    async with asyncio.timeout(5):
        await end(house, session)
    await settle()
    assert house.evicted == {reason: 1}
    await house.shutdown()
    await settle()

    assert (house.created, house.evicted) == (1, {reason: 1})
    span = house.seen.span("evict")
    assert attributes(span)["reason"] == reason
    assert attributes(span)["session_id"] == session.id
    assert attributes(span)["event_seq"] == session.log.last_seq


async def test_session_is_counted_as_ended_only_when_its_agent_is_gone() -> None:
    house = House(disconnect_s=0.05)
    session = await house.create()
    house.agent_of(session).hangs = {"disconnect"}
    removing = asyncio.ensure_future(house.registry.remove(session.id))
    await house.agent_of(session).called("disconnect")
    assert session.ended

    assert house.evicted == {}

    await removing
    assert house.evicted == {"closed": 1}


async def test_created_are_those_that_live_and_those_that_ended() -> None:
    house = House()
    sessions = [await house.create() for _ in range(6)]
    await house.registry.remove(sessions[0].id)
    await by_failure(house, sessions[1])
    await settle()

    assert house.evicted == {"closed": 1, "error": 1}
    assert house.created == house.registry.live_count() + 2

    house.clock.advance(IDLE_S)
    await house.registry.reap()
    assert house.evicted == {"closed": 1, "error": 1, "idle": 4}
    assert (house.created, house.registry.live_count()) == (6, 0)


# --- spans


async def test_creation_is_a_span_below_its_request() -> None:
    house = House()
    with house.seen.tracer.start_as_current_span("request"):
        session = await house.create()

    span = house.seen.span("create")
    assert attributes(span)["session_id"] == session.id
    assert attributes(span)["event_seq"] == session.log.last_seq == 1
    assert hangs_below(span, house.seen.span("request"))
    assert failed_with(span) is None
    await house.shutdown()


async def test_agent_is_made_within_the_span_of_its_creation() -> None:
    """So the CLI, whose environment says what is current, hangs below it."""
    found: list[int] = []

    async def factory(_config: SessionConfig, ask: CanUseTool) -> ScriptedAgent:
        found.append(get_current_span().get_span_context().span_id)
        return ScriptedAgent(ask)

    seen = Collecting()
    registry = SessionRegistry(factory, telemetry=seen.telemetry)
    await registry.create()

    assert found == [context_of(seen.span("create")).span_id]
    assert not get_current_span().get_span_context().is_valid
    await registry.shutdown()


async def test_creation_that_was_refused_is_a_span_that_failed() -> None:
    house = House(max_sessions=1)
    await house.create()

    with pytest.raises(CapacityExceeded):
        await house.create()

    span = house.seen.spans("create")[-1]
    assert failed_with(span) is not None
    assert "event_seq" not in attributes(span)
    await house.shutdown()


async def test_log_lines_on_a_session_carry_its_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "webkit_core.registry")
    house = House()
    session = await house.create()
    await house.registry.remove(session.id)

    lines = [(record.getMessage(), vars(record)) for record in caplog.records]
    assert [text for text, _ in lines] == [
        f"session {session.id} created",
        f"session {session.id} ended: closed",
    ]
    assert [more["session_id"] for _, more in lines] == [session.id] * 2


# --- drain


def test_drain_of_an_empty_registry_returns_at_once() -> None:
    async def main() -> None:
        house = House()
        before = house.registry.draining

        await house.registry.drain(60)

        assert now_s() == 0
        assert (before, house.registry.draining) == (False, True)
        with pytest.raises(Draining):
            await house.registry.create()

    run_in_no_time(main())


def test_drain_returns_when_the_last_session_has_been_closed() -> None:
    async def main() -> None:
        house = House()
        one, other = [await house.registry.create() for _ in range(2)]
        draining = asyncio.ensure_future(house.registry.drain(60))

        await asyncio.sleep(5)
        await house.registry.remove(one.id)
        await asyncio.sleep(5)
        assert not draining.done()
        assert other.state is State.IDLE
        await house.registry.remove(other.id)
        await draining

        assert now_s() == 10
        assert house.evicted == {"closed": 2}
        assert attributes(house.seen.span("drain"))["ended_sessions"] == 0

    run_in_no_time(main())


def test_drain_returns_when_the_last_agent_has_died() -> None:
    async def main() -> None:
        house = House()
        session = await house.registry.create()
        draining = asyncio.ensure_future(house.registry.drain(60))
        await asyncio.sleep(5)

        house.agent_of(session).end(RuntimeError("boom"))
        await draining

        assert now_s() == 5
        assert list(house.registry) == []

    run_in_no_time(main())


def test_drain_returns_when_the_last_session_has_idled_out() -> None:
    """Also where nobody else evicts idle sessions."""

    async def main() -> None:
        seen = Collecting()
        registry = SessionRegistry(
            ScriptedFactory(), idle_timeout_s=8, telemetry=seen.telemetry, clock=now_s
        )
        await registry.create()

        await registry.drain(60)

        assert 8 <= now_s() <= 10
        evicted = seen.numbers("agent_webkit.sessions.evicted", "reason")
        assert evicted["idle"] == 1

    run_in_no_time(main())


def test_drain_ends_what_is_left_when_its_time_is_over() -> None:
    async def main() -> None:
        house = House()
        sessions = [await house.registry.create() for _ in range(3)]
        await sessions[0].submit(UserMessage("hello"))
        await house.agent_of(sessions[0]).prompted()
        house.agent_of(sessions[1]).hangs = {"disconnect"}

        await house.registry.drain(60)

        # What an interrupted turn and an agent that does not leave may take.
        assert 60 < now_s() <= 65
        assert all(session.released for session in sessions)
        assert list(house.registry) == []
        assert house.evicted == {"drain": 3}
        span = attributes(house.seen.span("drain"))
        assert (span["live_sessions"], span["ended_sessions"]) == (3, 3)

    run_in_no_time(main())


def test_drain_without_time_is_a_shutdown() -> None:
    async def main() -> None:
        house = House()
        session = await house.registry.create()

        await house.registry.drain(0)

        assert (now_s(), session.state) == (0, State.CLOSED)

    run_in_no_time(main())


@pytest.mark.parametrize(
    ("first_s", "second_s", "ends_s"), [(60, 5, 6), (5, 60, 5), (60, 0, 1)]
)
def test_drain_called_again_ends_at_the_earlier_end(
    first_s: float, second_s: float, ends_s: float
) -> None:
    async def main() -> None:
        house = House()
        await house.registry.create()
        ends: list[float] = []

        async def drain(timeout_s: float) -> None:
            await house.registry.drain(timeout_s)
            ends.append(now_s())

        first = asyncio.ensure_future(drain(first_s))
        await asyncio.sleep(1)
        await drain(second_s)
        await first

        assert ends == [ends_s, ends_s]
        assert house.evicted == {"drain": 1}

    run_in_no_time(main())


def test_drain_is_hurried_also_by_a_caller_that_gave_up() -> None:
    async def main() -> None:
        house = House()
        await house.registry.create()
        first = asyncio.ensure_future(house.registry.drain(60))
        await asyncio.sleep(1)
        second = asyncio.ensure_future(house.registry.drain(5))
        await settle()
        second.cancel()

        await first

        assert now_s() == 6

    run_in_no_time(main())


def test_drain_waits_until_the_agents_are_gone() -> None:
    async def main() -> None:
        house = House(disconnect_s=2)
        session = await house.registry.create()
        house.agent_of(session).hangs = {"disconnect"}
        removing = asyncio.ensure_future(house.registry.remove(session.id))
        await settle()
        assert session.ended

        await house.registry.drain(60)

        assert now_s() == 4
        assert session.released
        await removing

    run_in_no_time(main())


def test_drain_lets_a_creation_under_way_come_up_and_waits_for_it() -> None:
    async def main() -> None:
        house = House()
        house.factory.gate = asyncio.Event()
        creating = house.creating()
        await settle()
        draining = asyncio.ensure_future(house.registry.drain(60))
        await asyncio.sleep(5)

        house.factory.gate.set()
        session = await creating
        await asyncio.sleep(5)
        assert not draining.done()

        await house.registry.remove(session.id)
        await draining
        assert now_s() == 10

    run_in_no_time(main())


def test_drain_at_its_end_cuts_a_creation_short() -> None:
    async def main() -> None:
        house = House()
        house.factory.gate = asyncio.Event()
        creating = house.creating()
        await settle()

        await house.registry.drain(5)

        with pytest.raises(Draining):
            await creating
        assert now_s() == 5
        assert house.factory.agents == []
        assert (house.created, house.evicted) == (0, {})

    run_in_no_time(main())


@pytest.mark.parametrize("timeout_s", [0, 60])
def test_drain_lets_nothing_start_that_waits_for_its_turn(timeout_s: float) -> None:
    async def main() -> None:
        house = House(concurrent_starts=1)
        house.factory.gate = asyncio.Event()
        first = house.creating()
        queued = [house.creating() for _ in range(3)]
        await settle()

        draining = asyncio.ensure_future(house.registry.drain(timeout_s))
        await settle()
        house.factory.gate.set()
        await asyncio.wait({first, *queued})

        assert all(isinstance(each.exception(), Draining) for each in queued)
        assert len(house.factory.configs) == 1
        assert house.registry.live_count() == (timeout_s > 0)
        await house.registry.drain(0)
        await draining

    run_in_no_time(main())


async def test_create_during_a_drain_is_refused() -> None:
    house = House()
    session = await house.create()
    draining = asyncio.ensure_future(house.registry.drain(60))
    await settle()

    with pytest.raises(Draining):
        await house.create()

    assert len(house.factory.configs) == 1
    await house.registry.remove(session.id)
    await draining


async def test_drain_lets_the_sessions_that_there_are_go_on() -> None:
    house = House()
    session = await house.create()
    agent = house.agent_of(session)
    draining = asyncio.ensure_future(house.registry.drain(60))
    await settle()

    await session.submit(UserMessage("hello"))
    async with asyncio.timeout(5):
        await agent.prompted()
    ask = asyncio.ensure_future(agent.ask("toolu_1"))
    await settle()
    assert house.registry.get(session.id) is session
    await session.submit(PermissionResponse("toolu_1", "allow"))
    await ask
    agent.say("done")
    await settle()

    assert session.state is State.IDLE
    assert "result" in names(session.log)
    assert not draining.done()
    await house.registry.remove(session.id)
    await draining


async def test_drain_whose_caller_is_cancelled_leaves_the_registry_draining() -> None:
    house = House()
    session = await house.create()
    draining = asyncio.ensure_future(house.registry.drain(60))
    await settle()

    draining.cancel()
    await asyncio.wait({draining})
    await settle()

    assert draining.cancelled()
    assert house.registry.draining
    assert session.state is State.IDLE
    with pytest.raises(Draining):
        await house.create()
    async with asyncio.timeout(5):
        await house.registry.drain(0)
    assert house.evicted == {"drain": 1}


async def test_shutdown_ends_a_drain() -> None:
    house = House()
    await house.create()
    draining = asyncio.ensure_future(house.registry.drain(60))
    await settle()

    await house.shutdown()

    async with asyncio.timeout(5):
        await draining
    assert house.evicted == {"drain": 1}


async def test_drain_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    house = House()
    await house.create()

    await house.registry.drain(0)
    await house.registry.drain(60)
    await settle()

    assert asyncio.all_tasks() - before == set()


# --- snapshots


async def test_snapshot_shows_what_the_sessions_are() -> None:
    house = House(concurrent_starts=1, close_turn_s=0.02)
    sessions = [await house.create(), await house.in_turn(), await house.failed()]
    house.factory.gate = asyncio.Event()
    creating = [house.creating() for _ in range(3)]
    ask = asyncio.ensure_future(house.agent_of(sessions[1]).ask("toolu_1"))
    await settle()

    with sessions[0].attached(), sessions[0].attached(), sessions[2].attached():
        now = house.registry.snapshot()

    # One of the three is a session already, two wait for their turn.
    assert dict(now.states) == {"idle": 1, "waiting": 1, "failed": 1, "starting": 1}
    assert (now.live, now.starting) == (5, 3)
    assert now.live == house.registry.live_count()
    assert now.subscribers == 3
    assert now.events == sum(session.log.last_seq for session in house.registry)
    assert len(now.ask_ages_s) == 1
    assert 0 <= now.ask_ages_s[0] < 60
    house.factory.gate.set()
    await asyncio.gather(*creating)
    await house.shutdown()
    await ask


async def test_snapshot_of_an_empty_registry_is_all_zeros() -> None:
    now = House().registry.snapshot(agents=True)

    assert (now.live, now.starting, now.subscribers) == (0, 0, 0)
    assert (now.events, now.events_evicted, now.frames, now.bytes) == (0, 0, 0, 0)
    assert (dict(now.states), now.ask_ages_s, now.agent_bytes) == ({}, [], [])


async def test_snapshots_totals_never_go_back_whoever_comes_and_goes() -> None:
    house = House(limits=Limits(buffer_events=5))
    totals: list[tuple[int, ...]] = []

    def look() -> None:
        now = house.registry.snapshot()
        totals.append((now.events, now.events_evicted, now.frames, now.bytes))

    look()
    logged = evicted = 0
    for number in range(6):
        session = await house.create()
        look()
        for _ in range(3 * number):
            session.log.append("x", {})
        session.traffic.frames += 1
        session.traffic.bytes += 100
        look()
        await house.registry.remove(session.id)
        look()
        logged += session.log.last_seq
        evicted += session.log.last_seq - 5 if session.log.last_seq > 5 else 0

    for before, after in pairwise(totals):
        assert all(a <= b for a, b in zip(before, after, strict=True))
    assert totals[-1] == (logged, evicted, 6, 600)


async def test_snapshot_after_every_kind_of_end_keeps_all_events() -> None:
    house = House()
    sessions = [await house.create(), await house.failed(), await house.create()]
    await house.registry.remove(sessions[0].id)
    house.clock.advance(IDLE_S)
    await house.registry.reap()
    sessions.append(await house.create())
    await house.shutdown()

    now = house.registry.snapshot()

    assert now.events == sum(session.log.last_seq for session in sessions)
    assert (now.live, dict(now.states)) == (0, {})


async def test_snapshot_asks_for_the_agents_memory_only_when_told_to() -> None:
    class WithPid(ScriptedAgent):
        pid = os.getpid()

    async def factory(config: SessionConfig, ask: CanUseTool) -> ScriptedAgent:
        return WithPid(ask) if config.session_id == "pid" else ScriptedAgent(ask)

    registry = SessionRegistry(factory)
    await registry.create(SessionConfig(session_id="pid"))
    await registry.create()

    assert registry.snapshot().agent_bytes == []
    (size,) = registry.snapshot(agents=True).agent_bytes
    assert size > 1_000_000
    await registry.shutdown()


# --- what is told and remembered in odd moments


async def test_two_queued_creations_under_one_id_are_not_both_started() -> None:
    house = House(concurrent_starts=1)
    house.factory.gate = asyncio.Event()
    creating = [house.creating(), house.creating("x"), house.creating("x")]
    await settle()

    house.factory.gate.set()
    made = await asyncio.gather(*creating, return_exceptions=True)

    assert [type(one).__name__ for one in made] == [
        "Session",
        "Session",
        "SessionExists",
    ]
    await house.shutdown()
    assert all(agent.disconnected for agent in house.factory.agents)


async def test_drain_after_one_that_was_cancelled_waits_for_the_same_agents() -> None:
    house = House(disconnect_s=0.05)
    session = await house.create()
    house.agent_of(session).hangs = {"disconnect"}
    first = asyncio.ensure_future(house.registry.drain(0))
    await house.agent_of(session).called("disconnect")
    await settle()

    first.cancel()
    await settle()
    await house.registry.drain(0)

    assert session.released
    assert house.evicted == {"drain": 1}


async def test_reaper_that_is_stopped_does_not_change_why_a_session_ended() -> None:
    house = House(disconnect_s=0.05)
    session = await house.create()
    house.agent_of(session).hangs = {"disconnect"}
    house.clock.advance(IDLE_S)
    reaping = asyncio.ensure_future(house.registry.reap())
    await house.agent_of(session).called("disconnect")
    await settle()

    reaping.cancel()
    await settle()

    assert list(house.registry) == [session]
    await session.wait_ended()
    await settle()
    assert house.evicted == {"idle": 1}


async def test_queued_creation_is_told_at_once_that_the_registry_drains() -> None:
    house = House(concurrent_starts=1)
    house.factory.gate = asyncio.Event()
    first, queued = house.creating(), house.creating()
    await settle()

    draining = asyncio.ensure_future(house.registry.drain(60))
    await settle()

    assert isinstance(queued.exception(), Draining)
    await house.registry.drain(0)
    await asyncio.wait({first, draining})
    assert isinstance(first.exception(), Draining)


async def test_session_that_never_started_was_never_there() -> None:
    house = House()
    house.factory.error = OSError("no such CLI")
    with pytest.raises(AgentStartError):
        await house.creating("x")
    await settle()

    with pytest.raises(SessionNotFound) as caught:
        house.registry.get("x")

    assert type(caught.value) is SessionNotFound


async def test_span_of_a_failed_creation_does_not_carry_what_the_agent_wrote() -> None:
    house = House()
    house.factory.error = OSError("confidential")
    with pytest.raises(AgentStartError):
        await house.create()

    span = house.seen.span("create").to_json()

    assert "confidential" not in span
    assert "agent_start_failed" in span


async def test_start_that_was_given_up_counts_until_it_is_cleaned_up() -> None:
    """The SDK's clean-up of one takes up to 15 s of its CLI's time."""
    gate = asyncio.Event()
    under_way: list[int] = []
    most = 0

    async def factory(_config: SessionConfig, ask: CanUseTool) -> ScriptedAgent:
        nonlocal most
        under_way.append(1)
        most = max(most, len(under_way))
        try:
            await gate.wait()
        except asyncio.CancelledError:
            await gate.wait()
            raise
        finally:
            under_way.pop()
        return ScriptedAgent(ask)

    registry = SessionRegistry(factory, concurrent_starts=1)
    first = asyncio.ensure_future(registry.create())
    await settle()
    first.cancel()
    second = asyncio.ensure_future(registry.create())
    await settle()
    gate.set()
    await asyncio.wait({first, second})

    assert most == 1
    await registry.shutdown()


# --- whose they are


async def answers_to(house: House, session_id: str, owner: str | None) -> set[Any]:
    """What somebody is told who asks for a session that is not there, however."""
    told = set()
    with pytest.raises(SessionNotFound) as caught:
        house.registry.get(session_id, owner)
    told.add((type(caught.value), str(caught.value).replace(session_id, "ID")))
    with pytest.raises(SessionNotFound) as caught:
        await house.registry.remove(session_id, owner)
    told.add((type(caught.value), str(caught.value).replace(session_id, "ID")))
    return told


async def that_lives(house: House) -> Session:
    return await house.create("ann")


async def that_failed(house: House) -> Session:
    return await house.failed("ann")


async def that_was_closed(house: House) -> Session:
    session = await house.create("ann")
    await house.registry.remove(session.id, "ann")
    return session


async def that_expired(house: House) -> Session:
    session = await house.create("ann")
    house.clock.advance(IDLE_S)
    await house.registry.reap()
    return session


async def that_failed_and_expired(house: House) -> Session:
    session = await house.failed("ann")
    house.clock.advance(IDLE_S)
    await house.registry.reap()
    return session


async def that_is_being_closed(house: House) -> Session:
    session = await house.create("ann")
    house.begun = asyncio.ensure_future(house.registry.remove(session.id))
    await asyncio.sleep(0)
    return session


@pytest.mark.parametrize(
    "one",
    [
        that_lives,
        that_failed,
        that_was_closed,
        that_expired,
        that_failed_and_expired,
        that_is_being_closed,
    ],
)
@pytest.mark.parametrize("stranger", ["bob", ""])
async def test_somebody_elses_session_is_as_one_that_never_was(
    one: Callable[[House], Awaitable[Session]], stranger: str
) -> None:
    house = House()
    session = await one(house)

    told = await answers_to(house, session.id, stranger)

    assert told == await answers_to(house, "never", stranger)
    assert {kind for kind, _ in told} == {SessionNotFound}
    await house.shutdown()


async def test_session_is_there_for_its_owner_and_for_the_embedder() -> None:
    house = House()
    session, nobodys = await house.create("ann"), await house.create()

    assert house.registry.get(session.id, "ann") is session
    assert house.registry.get(session.id) is session
    assert house.registry.get(nobodys.id, "") is nobodys
    assert house.registry.get(nobodys.id) is nobodys
    assert {kind for kind, _ in await answers_to(house, nobodys.id, "ann")} == {
        SessionNotFound
    }
    await house.shutdown()


@pytest.mark.parametrize("owner", ["ann", None])
async def test_owner_and_embedder_hear_what_became_of_a_session(
    owner: str | None,
) -> None:
    house = House()
    closed, expired = await that_was_closed(house), await that_expired(house)

    assert {kind for kind, _ in await answers_to(house, closed.id, owner)} == {
        SessionClosed
    }
    assert {kind for kind, _ in await answers_to(house, expired.id, owner)} == {
        SessionExpired
    }


async def test_stranger_who_removes_a_session_does_it_no_harm() -> None:
    house = House()
    session = await house.create("ann")

    with pytest.raises(SessionNotFound):
        await house.registry.remove(session.id, "bob")
    await settle()

    assert house.registry.get(session.id, "ann") is session
    assert session.state is State.IDLE
    await house.shutdown()


@pytest.mark.parametrize("owner", ["ann", None])
async def test_owner_and_embedder_may_remove_a_session(owner: str | None) -> None:
    house = House()
    session = await house.create("ann")

    await house.registry.remove(session.id, owner)

    assert session.released
    assert list(house.registry) == []


async def test_owner_is_what_the_session_was_created_with() -> None:
    house = House()

    session = await house.create("ann")

    assert session.config.owner == "ann"
    await house.shutdown()


# --- how many one may have


async def refused(house: House, owner: str) -> bool:
    """Whether ``owner`` has as many as one may have; else has one more."""
    try:
        await house.create(owner)
    except TooManySessions as error:
        return error.limit == 2
    return False


async def test_owner_may_have_so_many_sessions() -> None:
    house = House(per_owner=2)

    assert [await refused(house, "ann") for _ in range(4)] == [
        False,
        False,
        True,
        True,
    ]

    assert house.registry.live_count() == 2
    assert len(house.factory.configs) == 2
    await house.shutdown()


async def test_owners_do_not_take_from_each_other() -> None:
    house = House(per_owner=2)

    refusals = [
        await refused(house, owner)
        for owner in ("ann", "ann", "ann", "bob", "bob", "bob", "", "", "")
    ]

    assert refusals == [False, False, True] * 3
    await house.shutdown()


async def test_without_a_limit_one_owner_may_have_all() -> None:
    house = House(max_sessions=5)

    for _ in range(5):
        await house.create("ann")

    with pytest.raises(CapacityExceeded):
        await house.create("ann")
    await house.shutdown()


async def test_full_registry_is_full_for_everybody() -> None:
    house = House(max_sessions=2, per_owner=2)
    for _ in range(2):
        await house.create("ann")

    for owner in ("ann", "bob"):
        with pytest.raises(CapacityExceeded):
            await house.create(owner)
    await house.shutdown()


async def test_creations_at_once_never_exceed_what_one_may_have() -> None:
    house = House(per_owner=2, concurrent_starts=1)
    house.factory.gate = asyncio.Event()
    creating = [house.creating(owner=owner) for owner in ("ann", "bob") * 5]
    await settle()
    house.factory.gate.set()

    made = await asyncio.gather(*creating, return_exceptions=True)

    sessions = [each for each in made if isinstance(each, Session)]
    assert sorted(session.config.owner for session in sessions) == [
        "ann",
        "ann",
        "bob",
        "bob",
    ]
    assert all(isinstance(each, Session | TooManySessions) for each in made)
    await house.shutdown()


async def by_removing(house: House, session: Session) -> None:
    await house.registry.remove(session.id)


async def by_expiring(house: House, session: Session) -> None:
    house.clock.advance(IDLE_S)
    with house.sessions[1].attached():
        await house.registry.reap()


async def by_dying(house: House, session: Session) -> None:
    house.agent_of(session).end(RuntimeError("boom"))
    await session.wait_ended()
    await settle()


@pytest.mark.parametrize("end", [by_removing, by_expiring, by_dying])
async def test_session_that_ended_makes_room_for_its_owners_next(
    end: Callable[[House, Session], Awaitable[None]],
) -> None:
    house = House(per_owner=2)
    house.sessions = [await house.create("ann"), await house.create("ann")]
    assert await refused(house, "ann")

    await end(house, house.sessions[0])

    assert [await refused(house, "ann") for _ in range(2)] == [False, True]
    await house.shutdown()


async def test_start_that_failed_makes_room_for_its_owners_next() -> None:
    house = House(per_owner=2)
    house.factory.error = OSError("no such CLI")
    for _ in range(3):
        with pytest.raises(AgentStartError):
            await house.create("ann")
    await settle()
    house.factory.error = None

    assert [await refused(house, "ann") for _ in range(3)] == [False, False, True]
    await house.shutdown()


@pytest.mark.parametrize("queued", [False, True])
async def test_creation_that_was_given_up_makes_room_for_its_owners_next(
    queued: bool,
) -> None:
    house = House(per_owner=2, concurrent_starts=1 if queued else 2)
    house.factory.gate = asyncio.Event()
    creating = [house.creating(owner="ann") for _ in range(2)]
    await settle()
    assert await refused(house, "ann")

    creating[1].cancel()
    await settle()
    house.factory.gate.set()
    await creating[0]

    assert [await refused(house, "ann") for _ in range(2)] == [False, True]
    await house.shutdown()


def test_creation_whose_turn_did_not_come_makes_room_for_its_owners_next() -> None:
    async def main() -> None:
        house = House(per_owner=2, concurrent_starts=1, start_queue_s=5.0)
        house.factory.gate = asyncio.Event()
        creating = [house.creating(owner="ann") for _ in range(2)]
        await asyncio.sleep(6)
        assert isinstance(creating[1].exception(), StartQueueTimeout)
        house.factory.gate.set()
        await creating[0]
        assert [await refused(house, "ann") for _ in range(2)] == [False, True]
        await house.registry.shutdown()

    run_in_no_time(main())


async def test_agent_on_its_way_out_is_still_one_of_its_owners() -> None:
    house = House(per_owner=2, disconnect_s=0.02)
    leaving, _ = await house.create("ann"), await house.create("ann")
    house.agent_of(leaving).hangs.add("disconnect")

    removing = asyncio.ensure_future(house.registry.remove(leaving.id))
    await settle()

    assert await refused(house, "ann")
    await removing
    assert not await refused(house, "ann")
    await house.shutdown()


async def test_creation_that_was_refused_is_a_span_with_its_code() -> None:
    house = House(per_owner=2)
    for _ in range(3):
        await refused(house, "ann")

    assert failed_with(house.seen.spans("create")[-1]) == "too_many_sessions"
    assert house.created == 2
    await house.shutdown()


# --- one end


Ending = Callable[[SessionRegistry, Session], Awaitable[object]]

ENDINGS: dict[str, Ending] = {
    "remove": lambda registry, session: registry.remove(session.id),
    "reap": lambda registry, _: registry.reap(),
    "drain": lambda registry, _: registry.drain(0),
    "shutdown": lambda registry, _: registry.shutdown(),
    "close": lambda _, session: session.close(),
}


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("second", ENDINGS)
@pytest.mark.parametrize("first", ENDINGS)
async def test_session_has_one_end_whatever_is_called_at_once(
    first: str, second: str, cancelled: bool
) -> None:
    house = House()
    session = await house.create()
    house.clock.advance(IDLE_S)
    calls = [
        asyncio.ensure_future(ENDINGS[name](house.registry, session))
        for name in (first, second, "remove", "reap")
    ]
    await asyncio.sleep(0)

    if cancelled:
        for call in calls[:-1]:
            call.cancel()
    async with asyncio.timeout(5):
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert not isinstance(result, Exception)
        await session.wait_ended()
    await settle()
    await house.shutdown()

    assert [name for name, _ in house.agent_of(session).calls] == ["disconnect"]
    assert names(session.log).count("done") == 1
    assert sum(house.evicted.values()) == 1
    assert list(house.registry) == []
    assert house.registry.live_count() == 0


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [("remove", "reap", "closed"), ("reap", "remove", "idle"),
     ("remove", "drain", "closed"), ("shutdown", "remove", "drain")],
)  # fmt: skip
async def test_first_reason_is_why_a_session_ended(
    first: str, second: str, reason: str
) -> None:
    house = House()
    session = await house.create()
    house.clock.advance(IDLE_S)

    calls = [
        asyncio.ensure_future(ENDINGS[name](house.registry, session))
        for name in (first, second)
    ]
    await asyncio.gather(*calls)
    await settle()

    assert house.evicted == {reason: 1}
    expected = SessionExpired if reason == "idle" else SessionClosed
    assert gone(house, session.id) is expected


async def test_id_of_a_session_that_ended_may_be_used_and_ended_again() -> None:
    house = House()
    for _ in range(3):
        session = await house.registry.create(SessionConfig(session_id="chosen"))
        await house.registry.remove("chosen")
        assert session.released

    assert house.evicted == {"closed": 3}
    assert all(agent.disconnected for agent in house.factory.agents)


async def test_policy_of_the_registry_is_that_of_its_sessions() -> None:
    factory = ScriptedFactory()
    registry = SessionRegistry(factory, policy=lambda _name, _input: "deny")
    session = await registry.create()

    async with asyncio.timeout(5):
        answer = await factory.agents[0].ask("toolu_1")

    assert answer.behavior == "deny"
    assert "permission_request" not in names(session.log)
    await registry.shutdown()
