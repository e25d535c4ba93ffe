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
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from msgspec.structs import replace
from opentelemetry.trace import use_span

from .agent import SdkFactory, SessionConfig
from .broadcast import Broadcast
from .claude import ClaudeFactory
from .errors import (
    AgentStartError,
    CapacityExceeded,
    Draining,
    SessionClosed,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StartQueueTimeout,
)
from .gauges import Snapshot, Traffic
from .lifecycle import State
from .limits import Deadlines, Limits
from .process import private_bytes
from .session import Session
from .telemetry import Telemetry, now_s, telemetry_for

logger = logging.getLogger(__name__)

REAPS_PER_TIMEOUT: Final = 4
"""An idle session is evicted at most a quarter of its time-out early or late."""

MAX_REAP_INTERVAL_S: Final = 15.0

MAX_REMEMBERED: Final = 4096
"""Sessions that are gone and still told apart from those that never were."""


class SessionRegistry:
    """See the module. Belongs to one event loop.

    Args:
        sdk_factory: ``async (config, can_use_tool) -> connected agent``; by default a
            Claude Code CLI per session.
        idle_timeout_s: a session that nobody uses for so long is closed.
        max_sessions: how many are live at most.
        concurrent_starts: how many start at a time; starting one takes a core for half
            a second, so by default as many as there are cores.
        start_queue_s: how long a creation waits for its turn to start.
        limits: what each session may hold.
        deadlines: how long each agent may take.
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
        concurrent_starts: int | None = None,
        start_queue_s: float = 30.0,
        limits: Limits | None = None,
        deadlines: Deadlines | None = None,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if idle_timeout_s <= 0:
            raise ValueError(f"idle_timeout_s must be above 0, got {idle_timeout_s}")
        self.telemetry = telemetry or telemetry_for()
        self._factory = sdk_factory or ClaudeFactory()
        self._idle_timeout_s = idle_timeout_s
        self._max_sessions = max_sessions
        self._starts = asyncio.Semaphore(concurrent_starts or os.cpu_count() or 1)
        self._start_queue_s = start_queue_s
        self._limits = limits
        self._deadlines = deadlines
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._queued = 0
        self._gone: dict[str, type[SessionNotFound]] = {}
        self._reasons: dict[str, str] = {}
        self._traffic = Traffic()
        self._past_events = 0
        self._past_evicted = 0
        self._changed = Broadcast()
        self._reaper: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Future[None]] = set()
        self._drain_by_s = math.inf
        self._draining = False
        self._shut_down = False
        self.telemetry.watch(self)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def live_count(self) -> int:
        """Return how many sessions hold an agent or wait for one.

        Those are counted too that are coming up or on their way out.
        """
        return self._queued + sum(not session.released for session in self)

    @property
    def draining(self) -> bool:
        """Whether no new sessions are taken any more."""
        return self._draining

    async def create(self, config: SessionConfig | None = None) -> Session:
        """Start a session and return it when its agent is up.

        Raises:
            CapacityExceeded: as many are live as may be.
            StartQueueTimeout: its turn to start did not come in time.
            SessionExists: the id asked for is taken.
            Draining: the registry takes no new sessions.
            AgentStartError: the agent did not start.
        """
        began_s = now_s()
        config = config or SessionConfig()
        if not config.session_id:
            config = replace(config, session_id=str(uuid.uuid4()))
        span = self.telemetry.span("create", config.session_id)
        with use_span(span, end_on_exit=True):
            session = await self._create(config)
            span.set_attribute("event_seq", session.log.last_seq)
        self.telemetry.session_created(now_s() - began_s)
        logger.info("session %s created", session.id, extra={"session_id": session.id})
        return session

    async def _create(self, config: SessionConfig) -> Session:
        if self._draining:
            raise Draining
        if self.live_count() >= self._max_sessions:
            raise CapacityExceeded(self._max_sessions)
        if config.session_id in self._sessions:
            raise SessionExists(config.session_id)
        await self._turn_to_start()
        try:
            if self._draining:
                raise Draining
            return await self._start(config)
        finally:
            self._starts.release()

    async def _turn_to_start(self) -> None:
        """Wait for a turn; the caller has to release it."""
        self._queued += 1
        try:
            async with asyncio.timeout(self._start_queue_s):
                await self._starts.acquire()
        except TimeoutError:
            raise StartQueueTimeout(self._start_queue_s) from None
        finally:
            self._queued -= 1
            self._changed.publish()

    async def _start(self, config: SessionConfig) -> Session:
        session = Session(
            config,
            self._factory,
            limits=self._limits,
            deadlines=self._deadlines,
            telemetry=self.telemetry,
            traffic=self._traffic,
            clock=self._clock,
        )
        self._sessions[session.id] = session
        try:
            await session.start()
        except AgentStartError as error:
            self._begin_end(session, "not started")
            if self._shut_down:
                raise Draining from error
            raise
        except BaseException:
            # Cancelled: nobody knows its id. Its agent may still be on its way out, and
            # shutdown() must be able to wait for that.
            self._begin_end(session, "not started")
            raise
        session.on_released(self._released)
        return session

    def get(self, session_id: str) -> Session:
        """Return the session.

        Raises:
            SessionExpired, SessionClosed: there was one, not long ago.
            SessionNotFound: there is none of that id.
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise self._gone.get(session_id, SessionNotFound)(session_id)
        return session

    async def remove(self, session_id: str) -> None:
        """Close the session and forget it; return when its agent is gone.

        Cancelling the caller does not stop it.

        Raises:
            SessionNotFound: there is none of that id.
        """
        await asyncio.shield(self._begin_end(self.get(session_id), "closed"))

    def _begin_end(self, session: Session, reason: str) -> asyncio.Future[None]:
        ending = asyncio.ensure_future(self._end(session, reason))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return ending

    async def _end(self, session: Session, reason: str) -> None:
        self._reasons.setdefault(session.id, reason)
        try:
            await session.close()
        finally:
            if session.ended:
                self._drop(session, reason)

    def _drop(self, session: Session, reason: str) -> None:
        self._reasons.pop(session.id, None)
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]
            self._past_events += session.log.last_seq
            self._past_evicted += session.log.oldest_seq - 1
            gone = SessionExpired if reason == "idle" else SessionClosed
            self._gone[session.id] = gone
            if len(self._gone) > MAX_REMEMBERED:
                del self._gone[next(iter(self._gone))]
        self._changed.publish()

    def _released(self, session: Session) -> None:
        """Count a session whose agent is gone, for whatever reason."""
        reason = "error" if session.failure else self._reasons.get(session.id, "closed")
        self.telemetry.session_evicted(reason)
        self.telemetry.span(
            "evict", session.id, reason=reason, event_seq=session.log.last_seq
        ).end()
        logger.info(
            "session %s ended: %s", session.id, reason, extra={"session_id": session.id}
        )
        self._changed.publish()

    # --- idle eviction

    def start_reaper(self) -> None:
        """Begin to evict idle sessions. Idempotent; needs a running loop."""
        if self._reaper is None and not self._shut_down:
            self._reaper = asyncio.get_running_loop().create_task(self._reap_for_ever())

    async def _reap_for_ever(self) -> None:
        interval_s = min(self._idle_timeout_s / REAPS_PER_TIMEOUT, MAX_REAP_INTERVAL_S)
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.reap()
            except Exception:
                logger.exception("the reaper stumbled; it goes on")

    async def reap(self) -> int:
        """Close every session that has been idle too long; return how many."""
        idle = [session for session in self if session.idle_s() >= self._idle_timeout_s]
        for session in idle:
            session.stop()  # before anybody can say something to it
        await asyncio.gather(*(self._end(session, "idle") for session in idle))
        return len(idle)

    # --- the end

    async def drain(self, timeout_s: float) -> None:
        """Take no new sessions, let those there are go on, then end what is left.

        Returns when every agent is gone: when the last session has been closed or has
        idled out, or when ``timeout_s`` seconds are over and the rest was ended as by
        :meth:`shutdown`. May be called again: the earliest end holds.
        """
        loop = asyncio.get_running_loop()
        self._draining = True
        self._drain_by_s = min(self._drain_by_s, loop.time() + timeout_s)
        self._changed.publish()
        self.start_reaper()
        span = self.telemetry.span("drain", "", live_sessions=self.live_count())
        with use_span(span, end_on_exit=True):
            while self.live_count() and loop.time() < self._drain_by_s:
                try:
                    async with asyncio.timeout_at(self._drain_by_s):
                        await self._changed.wait()
                except TimeoutError:
                    break
            span.set_attribute("ended_sessions", self.live_count())
            await self.shutdown()

    async def shutdown(self) -> None:
        """Take no new sessions, close all there are, in parallel. Idempotent.

        Returns when every agent is gone; bounded by the deadlines.
        """
        self._draining = self._shut_down = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        await asyncio.gather(*(self._end(session, "drain") for session in self))

    # --- what metrics are made of

    def snapshot(self, *, agents: bool = False) -> Snapshot:
        """Return what the sessions are and have done. May be asked in any thread."""
        sessions = tuple(self)
        states = Counter(session.state.value for session in sessions)
        pids = [session.agent_pid for session in sessions] if agents else []
        return Snapshot(
            live=self.live_count(),
            starting=self._queued + states[State.STARTING.value],
            states=states,
            subscribers=sum(session.subscribers for session in sessions),
            events=self._past_events + sum(s.log.last_seq for s in sessions),
            events_evicted=self._past_evicted
            + sum(s.log.oldest_seq - 1 for s in sessions),
            frames=self._traffic.frames,
            bytes=self._traffic.bytes,
            ask_ages_s=[age_s for s in sessions for age_s in s.ask_ages_s],
            agent_bytes=[private_bytes(pid) for pid in pids if pid is not None],
        )
