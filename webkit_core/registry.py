"""SessionRegistry: the sessions of one process.

Creates, finds, removes and counts them, evicts the idle ones, and ends them all.

Rules: a session counts against the cap from the moment its creation begins; one that
failed stays readable until it has been idle as long as a live one may, so that a
client that was away learns what happened; whatever ends a session ends its agent.

Invariant: every session that was ever started is in here or its agent is gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from msgspec.structs import replace

from .agent import SdkFactory, SessionConfig
from .claude import ClaudeFactory
from .errors import CapacityExceeded, Draining, SessionExists, SessionNotFound
from .limits import Deadlines, Limits
from .session import Session

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
        limits: what each session may hold.
        deadlines: how long each agent may take.
        clock: monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        sdk_factory: SdkFactory | None = None,
        *,
        idle_timeout_s: float = 300.0,
        max_sessions: int = 100,
        limits: Limits | None = None,
        deadlines: Deadlines | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if idle_timeout_s <= 0:
            raise ValueError(f"idle_timeout_s must be above 0, got {idle_timeout_s}")
        self._factory = sdk_factory or ClaudeFactory()
        self._idle_timeout_s = idle_timeout_s
        self._max_sessions = max_sessions
        self._limits = limits
        self._deadlines = deadlines
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._reaper: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Future[None]] = set()
        self._shut_down = False

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def live_count(self) -> int:
        """Return how many sessions hold an agent, coming up or on its way out."""
        return sum(not session.released for session in self._sessions.values())

    async def create(self, config: SessionConfig | None = None) -> Session:
        """Start a session and return it when its agent is up.

        Raises:
            CapacityExceeded: as many are live as may be.
            SessionExists: the id asked for is taken.
            Draining: the registry is being shut down.
            AgentStartError: the agent did not start.
        """
        if self._shut_down:
            raise Draining
        if self.live_count() >= self._max_sessions:
            raise CapacityExceeded(self._max_sessions)
        config = config or SessionConfig()
        if not config.session_id:
            config = replace(config, session_id=str(uuid.uuid4()))
        if config.session_id in self._sessions:
            raise SessionExists(config.session_id)
        session = Session(
            config,
            self._factory,
            limits=self._limits,
            deadlines=self._deadlines,
            clock=self._clock,
        )
        self._sessions[session.id] = session
        try:
            await session.start()
        except BaseException:
            # Failed or cancelled: nobody knows its id. Its agent may still be on its
            # way out, and shutdown() must be able to wait for that.
            self._begin_end(session, "not started")
            raise
        logger.info("session %s created", session.id)
        return session

    def get(self, session_id: str) -> Session:
        """Return the session.

        Raises:
            SessionNotFound: there is none of that id.
        """
        try:
            return self._sessions[session_id]
        except KeyError:
            raise SessionNotFound(session_id) from None

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
        try:
            await session.close()
        finally:
            if session.ended:
                self._drop(session)
        logger.info("session %s ended: %s", session.id, reason)

    def _drop(self, session: Session) -> None:
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]

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

    async def shutdown(self) -> None:
        """Take no new sessions, close all there are, in parallel. Idempotent.

        Returns when every agent is gone; bounded by the deadlines.
        """
        self._shut_down = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        await asyncio.gather(*(self._end(session, "shutdown") for session in self))
