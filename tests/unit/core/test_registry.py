from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.unit.core.stepping import settle
from tests.unit.core.test_conversation import names, started as task_started
from webkit_core import (
    AgentStartError,
    CanUseTool,
    CapacityExceeded,
    Deadlines,
    Draining,
    Limits,
    Session,
    SessionConfig,
    SessionNotFound,
    SessionRegistry,
    State,
    UserMessage,
    WebkitError,
)
from webkit_core.testing import (
    FakeClock,
    ResultMessage,
    ScriptedAgent,
    ScriptedFactory,
)

IDLE_S = 300.0


class House:
    """A registry of scripted agents on a clock that stands still."""

    def __init__(self, max_sessions: int = 100, **deadlines: float) -> None:
        self.clock = FakeClock()
        self.factory = ScriptedFactory()
        self.registry = SessionRegistry(
            self.factory,
            idle_timeout_s=IDLE_S,
            max_sessions=max_sessions,
            deadlines=Deadlines(**deadlines),
            clock=self.clock,
        )

    async def create(self) -> Session:
        async with asyncio.timeout(5):
            return await self.registry.create()

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

    async def failed(self) -> Session:
        """A session whose agent died."""
        session = await self.create()
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

    with pytest.raises(AgentStartError, match="closed while it started"):
        await creating
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
