"""Departed: what is remembered of sessions that are gone.

A client that was away for a while comes back to a session that is not there: it shall
hear whether it came too late or was never right.

Rule: memory is bounded; the one that ended longest ago is forgotten first.
"""

from __future__ import annotations

from typing import Final

from .errors import SessionClosed, SessionExpired, SessionNotFound

MAX_REMEMBERED: Final = 4096
"""Sessions that are gone and still told apart from those that never were."""


class Departed:
    """See the module."""

    def __init__(self) -> None:
        self._kinds: dict[str, type[SessionNotFound]] = {}

    def remember(self, session_id: str, *, expired: bool) -> None:
        """Remember a session that ended: idle for too long, or for another reason."""
        self._kinds.pop(session_id, None)
        self._kinds[session_id] = SessionExpired if expired else SessionClosed
        if len(self._kinds) > MAX_REMEMBERED:
            del self._kinds[next(iter(self._kinds))]

    def error(self, session_id: str) -> SessionNotFound:
        """Return what to tell somebody who asks for a session that is not there."""
        return self._kinds.get(session_id, SessionNotFound)(session_id)
