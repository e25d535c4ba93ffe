"""SessionRegistry: the sessions of one process.

Creates, finds, removes and counts them, evicts the idle ones, and ends them all.

Rules: a session counts against the cap from the moment its creation begins; one that
failed stays readable until it has been idle as long as a live one may, so that a
client that was away learns what happened; whatever ends a session ends its agent.

Invariant: every session that was ever started is in here or its agent is gone; each
that came up is counted once as created and, when its agent is gone, once as evicted.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode

from .agent import SdkFactory, SessionConfig
from .broadcast import Broadcast
from .census import Census
from .claude import ClaudeFactory
from .departed import Departed
from .errors import (
    AgentStartError,
    CapacityExceeded,
    Draining,
    SessionExists,
    TooManySessions,
    WebkitError,
)
from .gauges import Snapshot
from .limits import Deadlines, Limits
from .reaper import Reaper
from .rules import Policy
from .session import Session
from .start_queue import StartQueue
from .telemetry import Telemetry, current, now_s, telemetry_for

logger = logging.getLogger(__name__)

REAPS_PER_TIMEOUT: Final = 4
"""An idle session is evicted at most a quarter of its time-out early or late."""

MAX_REAP_INTERVAL_S: Final = 15.0


class SessionRegistry:
    """See the module. Belongs to one event loop.

    Args:
        sdk_factory: ``async (config, can_use_tool) -> connected agent``; by default a
            Claude Code CLI per session.
        idle_timeout_s: a session that nobody uses for so long is closed.
        max_sessions: how many are live at most.
        max_sessions_per_owner: how many of them one owner may have; 0 is all.
        concurrent_starts: how many start at a time; starting one takes a core for half
            a second, so by default as many as there are cores.
        start_queue_s: how long a creation waits for its turn to start.
        limits: what each session may hold.
        deadlines: how long each agent may take.
        policy: what is decided about tools before people are asked.
        telemetry: where metrics and spans go; by default to the process's global
            providers.
        clock: monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        sdk_factory: SdkFactory | None = None,
        *,
        idle_timeout_s: float = 300.0,
        max_sessions: int = 100,
        max_sessions_per_owner: int = 0,
        concurrent_starts: int | None = None,
        start_queue_s: float = 30.0,
        limits: Limits | None = None,
        deadlines: Deadlines | None = None,
        policy: Policy | None = None,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if idle_timeout_s <= 0:
            raise ValueError(f"idle_timeout_s must be above 0, got {idle_timeout_s}")
        self.telemetry = telemetry or telemetry_for()
        self._factory = sdk_factory or ClaudeFactory()
        self._idle_timeout_s = idle_timeout_s
        self._max_sessions = max_sessions
        self._max_sessions_per_owner = max_sessions_per_owner
        # Who holds an agent or waits for one, and whose they are.
        self._admitted: dict[str, str] = {}
        self._starting: set[str] = set()
        self._starts = StartQueue(
            concurrent_starts or os.cpu_count() or 1, start_queue_s
        )
        self._limits = limits
        self._deadlines = deadlines
        self._policy = policy
        self._clock = clock
        self._census = Census()
        self._departed = Departed()
        self._reasons: dict[str, str] = {}
        self._changed = Broadcast()
        self._reaper = Reaper(
            min(idle_timeout_s / REAPS_PER_TIMEOUT, MAX_REAP_INTERVAL_S), self.reap
        )
        self._endings: dict[str, asyncio.Future[None]] = {}
        self._drain_by_s = math.inf
        self._draining = False
        self._shut_down = False
        self.telemetry.watch(self)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._census)

    def live_count(self) -> int:
        """Return how many sessions hold an agent, wait for one, or let one go."""
        return len(self._admitted)

    @property
    def draining(self) -> bool:
        """Whether no new sessions are taken any more."""
        return self._draining

    async def create(self, config: SessionConfig | None = None) -> Session:
        """Start a session and return it when its agent is up.

        Raises:
            CapacityExceeded: as many are live as may be.
            TooManySessions: its owner has as many as one may have.
            StartQueueTimeout: its turn to start did not come in time.
            SessionExists: the id asked for is taken.
            Draining: the registry takes no new sessions.
            AgentStartError: the agent did not start.
        """
        began_s = now_s()
        config = config or SessionConfig()
        if not config.session_id:
            config = replace(config, session_id=str(uuid.uuid4()))
        with current(self.telemetry.span("create", config.session_id)) as span:
            try:
                session = await self._create(config)
            except WebkitError as error:
                span.set_status(Status(StatusCode.ERROR, error.code))
                raise
            span.set_attribute("event_seq", session.log.last_seq)
        self.telemetry.session_created(now_s() - began_s)
        logger.info("session %s created", session.id, extra={"session_id": session.id})
        return session

    async def _create(self, config: SessionConfig) -> Session:
        if self._draining:
            raise Draining
        if self.live_count() >= self._max_sessions:
            raise CapacityExceeded(self._max_sessions)
        most = self._max_sessions_per_owner
        if most and list(self._admitted.values()).count(config.owner) >= most:
            raise TooManySessions(most)
        if config.session_id in self._admitted or self._census.get(config.session_id):
            raise SessionExists(config.session_id)
        self._admitted[config.session_id] = config.owner
        try:
            await self._starts.enter()
        except BaseException:
            self._leave(config.session_id)
            raise
        return await self._start(config)

    async def _start(self, config: SessionConfig) -> Session:
        """Start a session in its turn, which is given back when it is up or gone."""
        session = Session(
            config,
            self._factory,
            limits=self._limits,
            deadlines=self._deadlines,
            policy=self._policy,
            telemetry=self.telemetry,
            traffic=self._census.traffic,
            clock=self._clock,
        )
        self._census.add(session)
        self._starting.add(session.id)
        try:
            await session.start()
        except BaseException as error:
            # Failed or cancelled: nobody knows its id. Its agent may still be on its
            # way out, and shutdown() must be able to wait for that.
            self._begin_end(session, "closed")
            if isinstance(error, AgentStartError) and self._shut_down:
                raise Draining from error
            raise
        self._starting.remove(session.id)
        self._starts.leave()
        session.on_released(self._released)
        return session

    def get(self, session_id: str, owner: str | None = None) -> Session:
        """Return the session.

        Args:
            session_id: the session's id.
            owner: who asks. Somebody else's session is not there for them, and never
                was; None is the embedder, who may have all.

        Raises:
            SessionExpired, SessionClosed: there was one, not long ago.
            SessionNotFound: there is none of that id.
        """
        session = self._census.get(session_id)
        if session is None or owner not in (None, session.config.owner):
            raise self._departed.error(session_id, owner)
        return session

    async def remove(self, session_id: str, owner: str | None = None) -> None:
        """Close the session and forget it; return when its agent is gone.

        Cancelling the caller does not stop it. Arguments are those of :meth:`get`.

        Raises:
            SessionNotFound: there is none of that id.
        """
        await self._end([self.get(session_id, owner)], "closed")

    async def _end(self, sessions: Iterable[Session], reason: str) -> None:
        """End sessions, in parallel; it goes on when the caller is cancelled."""
        endings = [self._begin_end(session, reason) for session in sessions]
        await asyncio.gather(*(asyncio.shield(ending) for ending in endings))

    def _begin_end(self, session: Session, reason: str) -> asyncio.Future[None]:
        """Begin to end a session, once; the first reason is why."""
        if session.id not in self._endings:
            self._reasons[session.id] = reason
            ending = asyncio.ensure_future(self._close(session))
            self._endings[session.id] = ending
            ending.add_done_callback(lambda _: self._endings.pop(session.id))
        return self._endings[session.id]

    async def _close(self, session: Session) -> None:
        await session.close()
        reason = self._reasons.pop(session.id)
        self._census.remove(session)
        if session.id in self._starting:  # it never was up
            self._starting.remove(session.id)
            self._starts.leave()
            self._leave(session.id)
        else:
            owner, expired = session.config.owner, reason == "idle"
            self._departed.remember(session.id, owner, expired=expired)

    def _released(self, session: Session) -> None:
        """Count a session whose agent is gone, for whatever reason."""
        reason = "error" if session.failure else self._reasons.get(session.id, "closed")
        self._leave(session.id)
        self.telemetry.session_evicted(reason)
        seq = session.log.last_seq
        self.telemetry.span(
            "evict", session.id, Context(), reason=reason, event_seq=seq
        ).end()
        logger.info(
            "session %s ended: %s", session.id, reason, extra={"session_id": session.id}
        )

    def _leave(self, session_id: str) -> None:
        """Take note that a session holds no agent, and will not get one."""
        del self._admitted[session_id]
        self._changed.publish()

    # --- idle eviction

    def start_reaper(self) -> None:
        """Begin to evict idle sessions. Idempotent; needs a running loop."""
        if not self._shut_down:
            self._reaper.start()

    async def reap(self) -> int:
        """Close every session that has been idle too long; return how many."""
        idle = [session for session in self if session.idle_s() >= self._idle_timeout_s]
        for session in idle:
            session.stop()  # before anybody can say something to it
        await self._end(idle, "idle")
        return len(idle)

    # --- the end

    async def drain(self, timeout_s: float) -> None:
        """Take no new sessions, let those there are go on, then end what is left.

        Returns when every agent is gone: when the last session has been closed or has
        idled out, or when ``timeout_s`` seconds are over and the rest was ended as by
        :meth:`shutdown`. May be called again: the earliest end holds.
        """
        by_s = asyncio.get_running_loop().time() + timeout_s
        self._drain_by_s = min(self._drain_by_s, by_s)
        if self._draining:
            self._changed.publish()
            await self._drain_until_due()
        else:
            self._draining = True
            self._starts.close()
            self.start_reaper()
            live = self.live_count()
            with current(self.telemetry.span("drain", "", live_sessions=live)) as span:
                span.set_attribute("ended_sessions", await self._drain_until_due())

    async def _drain_until_due(self) -> int:
        """Wait, end what is left, and return how many that were."""
        while self.live_count():
            try:
                async with asyncio.timeout_at(self._drain_by_s):
                    await self._changed.wait()
            except TimeoutError:
                if asyncio.get_running_loop().time() >= self._drain_by_s:
                    break
        left = self.live_count()
        await self.shutdown()
        return left

    async def shutdown(self) -> None:
        """Take no new sessions, close all there are, in parallel. Idempotent.

        Returns when every agent is gone; bounded by the deadlines.
        """
        self._draining = self._shut_down = True
        self._starts.close()
        self._reaper.stop()
        await self._end(self, "drain")

    def snapshot(self, *, agents: bool = False) -> Snapshot:
        """Return what the sessions are and have done. May be asked in any thread."""
        return self._census.snapshot(
            self.live_count(), self._starts.waiting, agents=agents
        )
