"""Permission requests that go wrong: each is resolved once, and told to everybody."""

from __future__ import annotations

import asyncio

import pytest

from webkit_core import ConflictError, PermissionResponse, Session, conversation
from webkit_core.errors import SessionFailed

from .sessions import (
    WAIT_S,
    Fakes,
    assert_answers,
    assert_failed,
    ended,
    named,
    say,
    until,
)


async def allow(session: Session, correlation_id: str) -> None:
    await session.submit(PermissionResponse(correlation_id, "allow"))


async def outcomes(session: Session) -> dict[str, str]:
    """Return how each request ended; each has ended once."""
    resolved = await named(session, "permission_resolved")
    asked = await named(session, "permission_request")
    ids = [e.data["correlation_id"] for e in resolved]
    assert sorted(ids) == sorted(e.data["correlation_id"] for e in asked)
    return {e.data["correlation_id"]: e.data["outcome"] for e in resolved}


async def test_request_that_is_taken_back_is_cancelled_and_a_late_answer_conflicts(
    fakes: Fakes,
) -> None:
    """What clients see: ``permission_resolved`` cancelled; 409 ``already_resolved``."""
    session = await fakes.session()
    go = fakes.cwd / "go"
    before = await say(
        session,
        ["tool", "t1"],
        ["ask", "t1"],
        ["wait_file", str(go)],
        ["take_back", 1],
        ["say", "never mind"],
        ["result"],
    )
    await until(session, "permission_request", before)
    go.touch()
    await until(session, "permission_resolved", before, outcome="cancelled")

    with pytest.raises(ConflictError, match="cancelled") as caught:
        await allow(session, "t1")

    assert caught.value.code == "already_resolved"
    await until(session, "result", before)
    assert await outcomes(session) == {"t1": "cancelled"}
    await assert_answers(session)


async def test_request_that_is_taken_back_before_it_was_shown_is_never_shown(
    fakes: Fakes,
) -> None:
    session = await fakes.session()

    before = await say(
        session, ["ask", "t1"], ["take_back", 1], ["tool", "t1"], ["result"]
    )

    await until(session, "result", before)
    assert not await named(session, "permission_request", "permission_resolved")
    with pytest.raises(ConflictError):
        await allow(session, "t1")
    await assert_answers(session)


async def test_second_request_for_one_tool_use_gets_an_id_of_its_own(
    fakes: Fakes,
) -> None:
    """``t1`` and ``t1.2``: both are shown, and answered each for itself."""
    session = await fakes.session()
    before = await say(
        session,
        ["tool", "t1"],
        ["ask", "t1"],
        ["ask", "t1"],
        ["answers", 2],
        ["result"],
    )
    await until(session, "permission_request", before, correlation_id="t1.2")

    await session.submit(PermissionResponse("t1.2", "deny"))
    await allow(session, "t1")

    await until(session, "result", before)
    assert await outcomes(session) == {"t1": "allow", "t1.2": "deny"}
    results = await named(session, "tool_result")
    assert sorted(e.data["output"] for e in results) == ["allow", "deny"]
    await assert_answers(session)


async def test_several_requests_at_once_are_answered_in_any_order(
    fakes: Fakes,
) -> None:
    session = await fakes.session()
    ids = [f"t{n}" for n in range(10)]
    before = await say(
        session,
        *[["tool", name] for name in ids],
        *[["ask", name] for name in ids],
        ["answers", len(ids)],
        ["result"],
    )
    for name in ids:
        await until(session, "permission_request", before, correlation_id=name)
    assert len(session.pending) == len(ids)

    for name in reversed(ids):
        await allow(session, name)

    await until(session, "result", before)
    assert await outcomes(session) == dict.fromkeys(ids, "allow")
    results = [e.data["tool_use_id"] for e in await named(session, "tool_result")]
    assert results == ids[::-1]
    await assert_answers(session)


async def test_request_without_the_message_it_is_about_is_shown_all_the_same(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two seconds (here less) nobody waits for ``tool_use`` any more."""
    monkeypatch.setattr(conversation, "ANNOUNCED_S", 0.1)
    session = await fakes.session()
    before = await say(session, ["ask", "t1"], ["answers", 1], ["result"])

    await until(session, "permission_request", before)
    await allow(session, "t1")

    await until(session, "result", before)
    assert not await named(session, "tool_use")
    await assert_answers(session)


async def test_request_that_is_open_when_the_cli_dies_is_cancelled(
    fakes: Fakes,
) -> None:
    """What clients see: ``agent_exited``, ``permission_resolved``, ``done``."""
    session = await fakes.session()
    go = fakes.cwd / "go"
    before = await say(
        session, ["tool", "t1"], ["ask", "t1"], ["wait_file", str(go)], ["kill"]
    )
    await until(session, "permission_request", before)
    go.touch()

    await assert_failed(session, "agent_exited")
    assert await outcomes(session) == {"t1": "cancelled"}
    assert not session.pending
    with pytest.raises(SessionFailed):
        await allow(session, "t1")


async def test_request_that_is_open_at_close_is_cancelled(fakes: Fakes) -> None:
    session = await fakes.session()
    before = await say(session, ["tool", "t1"], ["ask", "t1"], ["wait"])
    await until(session, "permission_request", before)

    async with asyncio.timeout(WAIT_S):
        await session.close()

    assert await outcomes(session) == {"t1": "cancelled"}
    await ended(session)
    assert not fakes.processes()


async def test_request_whose_turn_ends_stays_open_and_can_be_answered(
    fakes: Fakes,
) -> None:
    """A background task's question outlives the turn: ``background_waiting``."""
    session = await fakes.session()
    before = await say(
        session, ["tool", "t1"], ["ask", "t1"], ["result"], ["answers", 1]
    )
    await until(session, "session_state", before, state="background_waiting")

    await allow(session, "t1")

    await until(session, "tool_result", before, output="allow")
    assert await outcomes(session) == {"t1": "allow"}
    await assert_answers(session)
