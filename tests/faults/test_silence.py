"""Turns in which nothing happens, people who do not answer, results for others."""

from __future__ import annotations

import msgspec
import pytest

from webkit_core import ConflictError, Interrupt, PermissionResponse, UserMessage

from .sessions import (
    PATIENT,
    Fakes,
    assert_answers,
    assert_failed,
    named,
    say,
    until,
)

SILENT = msgspec.structs.replace(PATIENT, turn_silence_s=0.3, tool_silence_s=60.0)


async def test_turn_in_which_nothing_happens_is_stopped(fakes: Fakes) -> None:
    """And its session goes on."""
    session = await fakes.session(deadlines=SILENT)

    before = await say(session, ["say", "up"], ["wait_interrupt"], ["interrupted"])

    stalled = await until(session, "notice", before, kind="turn_stalled")
    result = await until(session, "result", stalled.seq)
    assert result.data["subtype"] == "error_during_execution"
    await assert_answers(session)


async def test_silent_turn_that_cannot_be_stopped_ends_the_session(
    fakes: Fakes,
) -> None:
    hasty = msgspec.structs.replace(SILENT, interrupt_s=0.7)
    session = await fakes.session(deadlines=hasty)

    await say(session, ["say", "up"], ["wait"])

    await assert_failed(session, "interrupt_ignored")


async def test_permission_that_nobody_answers_expires(fakes: Fakes) -> None:
    """The tool is denied, the turn goes on, and a late answer is a conflict."""
    hasty = msgspec.structs.replace(PATIENT, permission_s=0.3)
    session = await fakes.session(deadlines=hasty)

    before = await say(
        session, ["tool", "t1"], ["ask", "t1"], ["answers", 1], ["result"]
    )

    resolved = await until(session, "permission_resolved", before)
    assert resolved.data["outcome"] == "expired"
    heard = await until(session, "tool_result", resolved.seq)
    assert heard.data["output"] == "deny"
    await until(session, "result", heard.seq)
    late = PermissionResponse(resolved.data["correlation_id"], "allow")
    with pytest.raises(ConflictError, match="expired"):
        await session.submit(late)
    await assert_answers(session)


async def test_late_result_does_not_end_the_next_turn(fakes: Fakes) -> None:
    """A second result of the first prompt arrives while the second one runs."""
    session = await fakes.session()
    before = await say(
        session,
        ["say", "up"],
        ["wait_interrupt"],
        ["interrupted"],
        ["wait_prompt"],
        ["interrupted"],
    )
    await until(session, "message_complete", before)
    await session.submit(Interrupt())
    first = await until(session, "result", before)

    await session.submit(UserMessage("two"))
    await session.submit(UserMessage("three"))
    late = await until(session, "result", first.seq)
    second = await until(session, "result", late.seq)
    third = await until(session, "result", second.seq)
    await until(session, "session_state", third.seq, state="idle")

    said = [
        seen.data["message"]["content"][0]["text"]
        for seen in await named(session, "message_complete")
        if seen.data["message"]["stop_reason"] is not None
    ]
    assert said == ["up", "two", "three"]
    states = [
        seen.data["state"]
        for seen in await named(session, "session_state")
        if late.seq - 1 < seen.seq < second.seq
    ]
    assert states == []
