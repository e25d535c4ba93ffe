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
        self._gone: dict[str, tuple[type[SessionNotFound], str]] = {}

    def remember(self, session_id: str, owner: str, *, expired: bool) -> None:
        """Remember a session that ended: idle for too long, or for another reason."""
        self._gone.pop(session_id, None)
        self._gone[session_id] = SessionExpired if expired else SessionClosed, owner
        if len(self._gone) > MAX_REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def error(self, session_id: str, owner: str | None = None) -> SessionNotFound:
        """Return what to tell somebody who asks for a session that is not there.

        Args:
            session_id: what is asked for.
            owner: who asks: only its owner hears that there was one. None is somebody
                who may know of all.
        """
        kind, whose = self._gone.get(session_id, (SessionNotFound, ""))
        return (kind if owner in (None, whose) else SessionNotFound)(session_id)
