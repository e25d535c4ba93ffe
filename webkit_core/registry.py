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
from opentelemetry.trace import Status, StatusCode, use_span

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
    WebkitError,
)
from .gauges import Snapshot
from .limits import Deadlines, Limits
from .session import Session
from .start_queue import StartQueue
from .telemetry import Telemetry, now_s, telemetry_for

logger = logging.getLogger(__name__)

REAPS_PER_TIMEOUT: Final = 4
"""An idle session is evicted at most a quarter of its time-out early or late."""

MAX_REAP_INTERVAL_S: Final = 15.0

NOT_STARTED: Final = "not started"
"""Why a session ended that never was up: it is neither counted nor remembered."""


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
        self._starts = StartQueue(
            concurrent_starts or os.cpu_count() or 1, start_queue_s
        )
        self._limits = limits
        self._deadlines = deadlines
        self._clock = clock
        self._census = Census()
        self._departed = Departed()
        self._reasons: dict[str, str] = {}
        self._changed = Broadcast()
        self._reaper: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Future[None]] = set()
        self._drain_by_s = math.inf
        self._draining = False
        self._shut_down = False
        self.telemetry.watch(self)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._census)

    def live_count(self) -> int:
        """Return how many sessions hold an agent or wait for one.

        Those are counted too that are coming up or on their way out.
        """
        return self._starts.waiting + self._census.live

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
        # An agent's own words may be in the error: the span has its code alone.
        with use_span(
            span,
            end_on_exit=True,
            record_exception=False,
            set_status_on_exception=False,
        ):
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
        self._check_is_new(config.session_id)
        try:
            await self._starts.enter()
        finally:
            self._changed.publish()
        try:
            self._check_is_new(config.session_id)
        except SessionExists:
            self._starts.leave()
            raise
        return await self._start(config)

    def _check_is_new(self, session_id: str) -> None:
        if self._census.get(session_id) is not None:
            raise SessionExists(session_id)

    async def _start(self, config: SessionConfig) -> Session:
        """Start a session in its turn, which is given back when it is up or gone."""
        session = Session(
            config,
            self._factory,
            limits=self._limits,
            deadlines=self._deadlines,
            telemetry=self.telemetry,
            traffic=self._census.traffic,
            clock=self._clock,
        )
        self._census.add(session)
        try:
            await session.start()
        except BaseException as error:
            # Failed or cancelled: nobody knows its id. Its agent may still be on its
            # way out, and shutdown() must be able to wait for that.
            ending = self._begin_end(session, NOT_STARTED)
            ending.add_done_callback(lambda _: self._starts.leave())
            if isinstance(error, AgentStartError) and self._shut_down:
                raise Draining from error
            raise
        self._starts.leave()
        session.on_released(self._released)
        return session

    def get(self, session_id: str) -> Session:
        """Return the session.

        Raises:
            SessionExpired, SessionClosed: there was one, not long ago.
            SessionNotFound: there is none of that id.
        """
        session = self._census.get(session_id)
        if session is None:
            raise self._departed.error(session_id)
        return session

    async def remove(self, session_id: str) -> None:
        """Close the session and forget it; return when its agent is gone.

        Cancelling the caller does not stop it.

        Raises:
            SessionNotFound: there is none of that id.
        """
        await self._end([self.get(session_id)], "closed")

    async def _end(self, sessions: Iterable[Session], reason: str) -> None:
        """End sessions, in parallel; it goes on when the caller is cancelled."""
        endings = [self._begin_end(session, reason) for session in sessions]
        await asyncio.gather(*(asyncio.shield(ending) for ending in endings))

    def _begin_end(self, session: Session, reason: str) -> asyncio.Future[None]:
        self._reasons.setdefault(session.id, reason)
        ending = asyncio.ensure_future(self._close(session))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return ending

    async def _close(self, session: Session) -> None:
        await session.close()
        reason = self._reasons.pop(session.id, NOT_STARTED)
        self._census.remove(session)
        if reason != NOT_STARTED:
            self._departed.remember(session.id, expired=reason == "idle")
        self._changed.publish()

    def _released(self, session: Session) -> None:
        """Count a session whose agent is gone, for whatever reason."""
        reason = "error" if session.failure else self._reasons.get(session.id, "closed")
        self.telemetry.session_evicted(reason)
        seq = session.log.last_seq
        self.telemetry.span(
            "evict", session.id, Context(), reason=reason, event_seq=seq
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
            span = self.telemetry.span("drain", "", live_sessions=self.live_count())
            with use_span(span, end_on_exit=True):
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
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        await self._end(self, "drain")

    # --- what metrics are made of

    def snapshot(self, *, agents: bool = False) -> Snapshot:
        """Return what the sessions are and have done. May be asked in any thread."""
        return self._census.snapshot(self._starts.waiting, agents=agents)
