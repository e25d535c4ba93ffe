"""Whoever comes, goes, dies or gives up, in any order: the registry's books balance."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from hypothesis import given, settings, strategies as st

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.collecting import Collecting
from webkit_core import (
    AgentStartError,
    CanUseTool,
    CapacityExceeded,
    Draining,
    Session,
    SessionConfig,
    SessionNotFound,
    SessionRegistry,
    StartQueueTimeout,
    TooManySessions,
    UserMessage,
)
from webkit_core.testing import ResultMessage, ScriptedAgent

EXPECTED: Final = (
    AgentStartError,
    CapacityExceeded,
    Draining,
    StartQueueTimeout,
    TooManySessions,
)
"""What a creation may be told; anything else is a mistake of ours."""

MAX_SESSIONS: Final = 4
MAX_PER_OWNER: Final = 3
OWNERS: Final = ("ann", "bob")
CONCURRENT_STARTS: Final = 2
START_QUEUE_S: Final = 10.0
IDLE_S: Final = 100.0
WAITS_S: Final = (0.5, 4.0, 11.0, 60.0, 120.0)


class Agent(ScriptedAgent):
    """An agent that a kill makes leave, whatever it was at."""

    def __init__(self, can_use_tool: CanUseTool) -> None:
        super().__init__(can_use_tool)
        self.dead = asyncio.Event()

    def kill(self) -> None:
        super().kill()
        self.dead.set()

    async def disconnect(self) -> None:
        if "disconnect" in self.hangs:
            await self.dead.wait()
        self.disconnected = True
        self.end()


class Course:
    """One registry and everything that can happen to it."""

    def __init__(self) -> None:
        self.seen = Collecting()
        self.registry = SessionRegistry(
            self.make_agent,
            idle_timeout_s=IDLE_S,
            max_sessions=MAX_SESSIONS,
            max_sessions_per_owner=MAX_PER_OWNER,
            concurrent_starts=CONCURRENT_STARTS,
            start_queue_s=START_QUEUE_S,
            telemetry=self.seen.telemetry,
            clock=now_s,
        )
        self.agents: dict[str, Agent] = {}
        self.creating: list[asyncio.Task[Session]] = []
        self.others: list[asyncio.Task[None]] = []
        self.starts: list[asyncio.Future[bool]] = []
        self.starts_of: Counter[str] = Counter()
        self.most_starts = 0
        self.made: list[Session] = []
        self.totals = (0, 0)

    async def make_agent(self, config: SessionConfig, ask: CanUseTool) -> Agent:
        """Wait until somebody says how this start ends."""
        start: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.starts.append(start)
        self.starts_of[config.owner] += 1
        self.most_starts = max(self.most_starts, len(self.starts))
        try:
            if not await start:
                raise OSError("no such CLI")
        finally:
            self.starts.remove(start)
            self.starts_of[config.owner] -= 1
        self.agents[config.session_id] = agent = Agent(ask)
        return agent

    async def create(self, owner: str) -> Session:
        session = await self.registry.create(SessionConfig(owner=owner))
        self.made.append(session)
        return session

    async def remove(self, session: Session, asker: str | None) -> None:
        try:
            await self.registry.remove(session.id, asker)
        except SessionNotFound:
            assert session.released or asker not in (None, session.config.owner)
        else:
            assert asker in (None, session.config.owner)
            assert session.released

    # --- what can happen

    def creates(self, number: int) -> None:
        owner = OWNERS[number // 3 % 2]
        self.creating.append(asyncio.ensure_future(self.create(owner)))

    def gives_up(self, number: int) -> None:
        if self.creating:
            self.creating[number % len(self.creating)].cancel()

    def comes_up(self, number: int) -> None:
        self.start_ends(number, well=True)

    def does_not_come_up(self, number: int) -> None:
        self.start_ends(number, well=False)

    def start_ends(self, number: int, *, well: bool) -> None:
        open_ = [start for start in self.starts if not start.done()]
        if open_:
            open_[number % len(open_)].set_result(well)

    def some(self, number: int) -> Session | None:
        return self.made[number % len(self.made)] if self.made else None

    def says(self, number: int) -> None:
        if session := self.some(number):
            self.begins(self.submit(session))

    async def submit(self, session: Session) -> None:
        try:
            await session.submit(UserMessage("hello"))
        except SessionNotFound:
            pass  # it is ending

    def answers(self, number: int) -> None:
        if session := self.some(number):
            self.agents[session.id].push(ResultMessage())

    def dies(self, number: int) -> None:
        if session := self.some(number):
            self.agents[session.id].end(RuntimeError("boom"))

    def wedges(self, number: int) -> None:
        if session := self.some(number):
            self.agents[session.id].hangs.add("disconnect")

    def removes(self, number: int) -> None:
        if session := self.some(number):
            asker = (None, session.config.owner, session.config.owner, *OWNERS)
            self.begins(self.remove(session, asker[number % len(asker)]))

    def reaps(self, _number: int) -> None:
        self.begins(self.reap())

    async def reap(self) -> None:
        await self.registry.reap()

    def drains(self, number: int) -> None:
        self.begins(self.registry.drain((0.0, 5.0, 200.0)[number % 3]))

    def begins(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        self.others.append(asyncio.ensure_future(work))

    # --- what holds

    def check(self) -> None:
        assert self.registry.live_count() <= MAX_SESSIONS
        assert self.most_starts <= CONCURRENT_STARTS
        now = self.registry.snapshot()
        assert now.live == self.registry.live_count()
        assert 0 <= now.starting <= now.live
        assert self.totals[0] <= now.events
        assert self.totals[1] <= now.events_evicted
        self.totals = (now.events, now.events_evicted)
        for session in self.made:
            self.check_who_finds(session)
        for owner in OWNERS:
            alive = [
                session
                for session in self.made
                if session.config.owner == owner and not session.released
            ]
            assert len(alive) + self.starts_of[owner] <= MAX_PER_OWNER

    def check_who_finds(self, session: Session) -> None:
        """Its owner and the embedder, alike; and never anybody else."""
        found = {
            asker: self.found(session, asker) for asker in (None, *OWNERS, "", "eve")
        }
        assert found[None] == found[session.config.owner]
        if not session.released:
            assert found[None] is session
        for asker, what in found.items():
            if asker not in (None, session.config.owner):
                assert what == (SessionNotFound, f"no session {session.id!r}")

    def found(self, session: Session, asker: str | None) -> object:
        """What the registry has for somebody: the session, or a word on it."""
        try:
            return self.registry.get(session.id, asker)
        except SessionNotFound as error:
            return type(error), str(error)

    def check_books(self) -> None:
        """When nothing is on its way: each that came up lives, or ended once."""
        for session in self.registry:
            assert session in self.made or not session.released
        evicted = self.seen.numbers("agent_webkit.sessions.evicted", "reason")
        created = self.seen.number("agent_webkit.sessions.created")
        assert created == len(self.made)
        alive = sum(not session.released for session in self.made)
        assert created == alive + sum(evicted.values())
        assert evicted["error"] == sum(
            session.released and session.failure is not None for session in self.made
        )
        assert set(evicted) == {"idle", "closed", "error", "drain"}

    async def run(self, steps: list[Step]) -> None:
        for step, number, pause in steps:
            if step is time_passes:
                await asyncio.sleep(WAITS_S[number % len(WAITS_S)])
            else:
                step(self, number)
            for _ in range(pause):
                await asyncio.sleep(0)
                self.check()
        await asyncio.sleep(0.05)
        self.check_books()
        await self.end()

    async def end(self) -> None:
        await self.registry.drain(1.0)
        if pending := {*self.creating, *self.others}:
            await asyncio.wait(pending)
        await asyncio.sleep(0.5)
        for task in self.creating:
            if not task.cancelled() and (error := task.exception()):
                assert isinstance(error, EXPECTED)
        for other in self.others:
            other.result()
        assert list(self.registry) == []
        assert self.registry.live_count() == 0
        assert self.starts == []
        assert all(agent.disconnected for agent in self.agents.values())
        self.check()
        self.check_books()
        assert all(session.released for session in self.made)
        assert self.totals[0] >= sum(session.log.last_seq for session in self.made)
        assert asyncio.all_tasks() == {asyncio.current_task()}


def time_passes(_course: Course, _number: int) -> None:
    """A step that :meth:`Course.run` takes."""


Step = tuple[Callable[[Course, int], None], int, int]

steps: Final = st.tuples(
    st.sampled_from(
        (
            *(Course.creates,) * 6,
            *(Course.comes_up,) * 3,
            *(Course.removes, Course.says, Course.answers, time_passes) * 2,
            Course.gives_up,
            Course.does_not_come_up,
            Course.dies,
            Course.wedges,
            Course.reaps,
            Course.drains,
        )
    ),
    st.integers(0, 15),
    st.integers(0, 5),
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Operators would hear of all this; here it is only long."""
    logging.getLogger("webkit_core").setLevel(logging.CRITICAL + 1)
    yield
    logging.getLogger("webkit_core").setLevel(logging.NOTSET)


@given(course=st.lists(steps, min_size=10, max_size=60))
@settings(max_examples=60)
def test_sessions_created_are_those_that_live_and_those_that_ended(
    course: list[Step],
) -> None:
    run_in_no_time(Course().run(course))
