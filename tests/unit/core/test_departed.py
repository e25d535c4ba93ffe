from __future__ import annotations

import pytest

from webkit_core import SessionClosed, SessionExpired, SessionNotFound
from webkit_core.departed import Departed


def test_what_became_of_a_session_is_told() -> None:
    departed = Departed()
    departed.remember("idle", "ann", expired=True)
    departed.remember("closed", "ann", expired=False)

    kinds = [type(departed.error(name)) for name in ("idle", "closed", "never")]

    assert kinds == [SessionExpired, SessionClosed, SessionNotFound]
    assert departed.error("idle").session_id == "idle"


def test_the_one_that_ended_longest_ago_is_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("webkit_core.departed.MAX_REMEMBERED", 2)
    departed = Departed()
    for name in ("x", "y", "x", "z"):
        departed.remember(name, "ann", expired=False)

    kinds = [type(departed.error(name)) for name in ("x", "y", "z")]

    assert kinds == [SessionClosed, SessionNotFound, SessionClosed]


def test_only_its_owner_hears_that_there_was_a_session() -> None:
    departed = Departed()
    departed.remember("x", "ann", expired=True)

    kinds = [type(departed.error("x", owner)) for owner in (None, "ann", "bob", "")]

    assert kinds == [SessionExpired, SessionExpired, SessionNotFound, SessionNotFound]
