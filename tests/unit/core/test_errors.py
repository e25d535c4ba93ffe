from __future__ import annotations

import pytest

from webkit_core import errors
from webkit_core.errors import WebkitError

TEXTS = [
    (errors.InvalidInput("`x` is wrong"), "`x` is wrong"),
    (errors.SessionNotFound("s1"), "no session 's1'"),
    (errors.SessionClosed("s1"), "session 's1' is closed"),
    (errors.SessionExpired("s1"),
     "session 's1' has expired: nobody used it for too long"),
    (errors.SessionFailed("s1", "no memory"), "session 's1' has failed: no memory"),
    (errors.ConflictError("t1"), "no open request with correlation_id 't1'"),
    (errors.ConflictError("t1", "deny"), "request 't1' is already resolved: deny"),
    (errors.EvictedError(3, 10, 20),
     "event 4 is no longer held; the buffer holds 10 to 20"),
    (errors.CursorAheadError(30, 10, 20),
     "event 30 was never sent; the last one is 20"),
    (errors.CapacityExceeded(8), "Server at capacity"),
    (errors.StartQueueTimeout(2.5),
     ("as many sessions as may are starting at this moment, and none of them was done"
      " within 2.5 s")),
    (errors.TooManySessions(3),
     "you have 3 sessions, as many as anybody may have; close one"),
    (errors.BackpressureError(32),
     "the session's inbound queue holds its limit of 32 messages"),
    (errors.BackpressureError(1000, "characters"),
     "the session's inbound queue holds its limit of 1000 characters"),
    (errors.Draining(), "Server is draining and takes no new sessions"),
    (errors.InvalidTransition("idle", "asked"), "no transition from idle on asked"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "text"),
    TEXTS,
    ids=[f"{n}-{type(error).__name__}" for n, (error, _) in enumerate(TEXTS)],
)
def test_error_text_names_what_is_wrong(error: WebkitError, text: str) -> None:
    assert str(error) == text


def test_session_failed_keeps_the_reason() -> None:
    error = errors.SessionFailed("s1", "out of memory")

    assert (error.session_id, error.reason) == ("s1", "out of memory")


def test_conflict_keeps_the_outcome() -> None:
    error = errors.ConflictError("t1", "allow")

    assert (error.correlation_id, error.outcome) == ("t1", "allow")


@pytest.mark.parametrize("kind", [errors.EvictedError, errors.CursorAheadError])
def test_cursor_error_keeps_the_bounds_of_the_buffer(
    kind: type[errors.CursorError],
) -> None:
    error = kind(3, 10, 20)

    assert (error.after_seq, error.oldest, error.last) == (3, 10, 20)


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (errors.CapacityExceeded(8), 8),
        (errors.TooManySessions(3), 3),
        (errors.BackpressureError(32), 32),
    ],
)
def test_limit_error_keeps_the_limit(
    error: errors.CapacityExceeded | errors.TooManySessions | errors.BackpressureError,
    limit: int,
) -> None:
    assert error.limit == limit


def test_full_queue_keeps_what_there_is_too_much_of() -> None:
    assert errors.BackpressureError(32).what == "messages"
    assert errors.BackpressureError(32, "characters").what == "characters"


def test_start_queue_timeout_keeps_how_long_was_waited() -> None:
    assert errors.StartQueueTimeout(2.5).waited_s == 2.5


def test_invalid_transition_keeps_the_pair() -> None:
    error = errors.InvalidTransition("idle", "asked")

    assert (error.state, error.given) == ("idle", "asked")


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (errors.SessionClosed("s"), errors.SessionNotFound),
        (errors.SessionExpired("s"), errors.SessionNotFound),
        (errors.SessionFailed("s", "r"), errors.SessionNotFound),
        (errors.MalformedJSON("x"), errors.InvalidInput),
        (errors.UnknownType("x"), errors.InvalidInput),
        (errors.InvalidCursor("x"), errors.InvalidInput),
        (errors.BackpressureError(1), errors.Unavailable),
        (errors.StartQueueTimeout(1.0), errors.Unavailable),
        (errors.TooManySessions(1), errors.Unavailable),
        (errors.AgentTimeout("x"), errors.AgentError),
    ],
)
def test_error_is_caught_by_its_family(
    error: WebkitError, family: type[WebkitError]
) -> None:
    assert isinstance(error, family)


@pytest.mark.parametrize("kind", [errors.EvictedError, errors.CursorAheadError])
def test_cursor_error_is_not_the_callers_malformed_input(
    kind: type[errors.CursorError],
) -> None:
    assert not issubclass(kind, errors.InvalidInput)


def test_full_queue_is_worth_asking_again_sooner_than_a_full_server() -> None:
    assert (
        0
        < errors.BackpressureError.retry_after_s
        < errors.CapacityExceeded.retry_after_s
    )
