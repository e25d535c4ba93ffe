"""Census: the sessions there are, and the numbers of those that were.

Rules: a session that goes leaves its numbers behind in the same step, so that no total
ever falls; a snapshot may be taken in any thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from .gauges import Snapshot, Traffic
from .lifecycle import State
from .process import private_bytes
from .session import Session


class Census:
    """See the module. Changed on one event loop only.

    Attributes:
        traffic: what the sessions' streams count into.
    """

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._sessions: dict[str, Session] = {}
        self._past_events = 0
        self._past_evicted = 0
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def get(self, session_id: str) -> Session | None:
        """Return the session of that id, if there is one."""
        return self._sessions.get(session_id)

    def add(self, session: Session) -> None:
        """Take a session in."""
        self._sessions[session.id] = session

    def remove(self, session: Session) -> None:
        """Let a session go that has ended, and keep its numbers. Idempotent."""
        if self._sessions.get(session.id) is session:
            with self._lock:
                del self._sessions[session.id]
                self._past_events += session.log.last_seq
                self._past_evicted += session.log.oldest_seq - 1

    def snapshot(self, live: int, waiting: int, *, agents: bool = False) -> Snapshot:
        """Return what the sessions are and have done.

        Args:
            live: how many hold an agent or wait for one.
            waiting: how many of those are not there yet, as they wait for their start.
            agents: whether to ask for the memory of their processes, too.
        """
        with self._lock:
            sessions = tuple(self)
            events, evicted = self._past_events, self._past_evicted
        states = Counter(session.state.value for session in sessions)
        pids = [session.agent_pid for session in sessions] if agents else []
        return Snapshot(
            live=live,
            starting=waiting + states[State.STARTING.value],
            states=states,
            subscribers=sum(session.subscribers for session in sessions),
            events=events + sum(s.log.last_seq for s in sessions),
            events_evicted=evicted + sum(s.log.oldest_seq - 1 for s in sessions),
            frames=self.traffic.frames,
            bytes=self.traffic.bytes,
            ask_ages_s=[age_s for s in sessions for age_s in s.ask_ages_s],
            agent_bytes=[private_bytes(pid) for pid in pids if pid is not None],
        )
