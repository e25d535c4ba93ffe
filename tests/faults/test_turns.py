"""Turns that do not end as they should, and control requests that are not heard."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from webkit_core import (
    AgentRefused,
    AgentTimeout,
    Interrupt,
    SetModel,
    SetPermissionMode,
    UserMessage,
)

from .sessions import (
    PATIENT,
    WAIT_S,
    Fakes,
    assert_answers,
    assert_failed,
    history,
    named,
    say,
    until,
)

HASTY_INTERRUPT = msgspec.structs.replace(PATIENT, interrupt_s=0.7)
HASTY_CONTROL = msgspec.structs.replace(PATIENT, control_s=0.5)


# --- interrupts


async def test_interrupt_ends_the_turn_and_the_next_one_is_its_own(
    fakes: Fakes,
) -> None:
    session = await fakes.session()
    before = await say(session, ["say", "up"], ["wait_interrupt"], ["interrupted"])
    await until(session, "message_complete", before)
    await session.submit(UserMessage("queued"))

    await session.submit(Interrupt())

    first = await until(session, "result", before)
    assert first.data["subtype"] == "error_during_execution"
    second = await until(session, "result", first.seq)
    assert second.data["subtype"] == "success"
    await assert_answers(session)


async def test_interrupt_that_is_never_acknowledged_ends_the_session(
    fakes: Fakes,
) -> None:
    """What clients see: ``interrupt_failed``, then ``done``."""
    session = await fakes.session(deadlines=HASTY_INTERRUPT)
    before = await say(
        session, ["control", "interrupt", "ignore"], ["say", "up"], ["wait"]
    )
    await until(session, "message_complete", before)

    await session.submit(Interrupt())

    await assert_failed(session, "interrupt_failed")
    await fakes.until_processes(0)


async def test_interrupt_that_is_refused_ends_the_session(fakes: Fakes) -> None:
    """What clients see: ``interrupt_failed`` with the CLI's words, then ``done``."""
    session = await fakes.session()
    before = await say(
        session, ["control", "interrupt", "not now"], ["say", "up"], ["wait"]
    )
    await until(session, "message_complete", before)

    await session.submit(Interrupt())

    assert "not now" in await assert_failed(session, "interrupt_failed")
    await fakes.until_processes(0)


async def test_interrupt_without_effect_is_repeated_and_then_ends_the_session(
    fakes: Fakes,
) -> None:
    """What clients see: ``interrupt_ignored``, then ``done``."""
    session = await fakes.session(deadlines=HASTY_INTERRUPT)
    before = await say(session, ["say", "up"], ["wait"])
    await until(session, "message_complete", before)

    await session.submit(Interrupt())

    await assert_failed(session, "interrupt_ignored")
    await fakes.until_processes(0)


async def test_interrupt_that_has_effect_the_second_time_ends_the_turn(
    fakes: Fakes,
) -> None:
    """The first came before the CLI took the prompt up."""
    session = await fakes.session()
    before = await say(
        session,
        ["say", "up"],
        ["wait_interrupt"],
        ["forget_interrupts"],
        ["wait_interrupt"],
        ["interrupted"],
    )
    await until(session, "message_complete", before)

    await session.submit(Interrupt())

    await until(session, "result", before, subtype="error_during_execution")
    await assert_answers(session)


async def test_interrupt_in_vain_that_meets_the_result_is_over_with_the_turn(
    fakes: Fakes,
) -> None:
    """The turn had ended by itself: its ``success`` is no failure of the interrupt."""
    session = await fakes.session()
    before = await say(session, ["say", "up"], ["wait_interrupt"], ["result"])
    await until(session, "message_complete", before)

    await session.submit(Interrupt())

    await until(session, "result", before, subtype="success")
    await assert_answers(session)


# --- results


async def test_result_of_the_agents_own_turn_does_not_end_the_next_prompts_turn(
    fakes: Fakes,
) -> None:
    """It names its origin and another message; the prompt's own result follows."""
    session = await fakes.session()
    own = {
        "origin": {"kind": "task-notification"},
        "user_message_uuids": ["another"],
        "result": "own",
    }

    before = await say(session, ["result_with", own], ["say", "ours"], ["result"])

    other = await until(session, "result", before, result="own")
    complete = await until(session, "message_complete", before)
    idle = await until(session, "session_state", before + 1, state="idle")
    assert other.seq < complete.seq < idle.seq
    await assert_answers(session)


async def test_result_twice_ends_one_turn_and_is_told_twice(fakes: Fakes) -> None:
    """What clients see: a second ``result`` while the session is idle."""
    session = await fakes.session()
    go = fakes.cwd / "go"

    before = await say(
        session, ["say", "up"], ["result"], ["wait_file", str(go)], ["result"]
    )
    first = await until(session, "result", before)
    await until(session, "session_state", first.seq, state="idle")
    go.touch()
    second = await until(session, "result", first.seq)

    assert not [e for e in await history(session) if e.seq > second.seq]
    await assert_answers(session)


async def test_result_without_a_prompt_is_told_and_changes_nothing(
    fakes: Fakes,
) -> None:
    session = await fakes.session(ready=[["result"]])

    await until(session, "result")

    assert not await named(session, "session_state", "error")
    await assert_answers(session)


async def test_cli_that_merges_prompts_gets_one_at_a_time(fakes: Fakes) -> None:
    """Two prompts at once, and two results: the second waits for the first."""
    session = await fakes.session()

    before = await say(session, ["merge"], ["say", "first"], ["result"])
    await session.submit(UserMessage("second"))

    first = await until(session, "result", before)
    second = await until(session, "result", first.seq)
    texts = [
        e.data["message"]["content"][0]["text"]
        for e in await named(session, "message_complete")
        if e.data["message"]["stop_reason"]
    ]
    assert texts == ["first", "second"]
    await until(session, "session_state", second.seq, state="idle")
    await assert_answers(session)


async def test_result_that_never_comes_keeps_the_session_running_until_interrupted(
    fakes: Fakes,
) -> None:
    """What clients see: ``running``. An interrupt brings the session back."""
    session = await fakes.session()
    before = await say(session, ["say", "all"], ["wait_interrupt"], ["interrupted"])
    await until(session, "message_complete", before)
    await session.submit(UserMessage("queued"))

    assert session.state == "running"
    assert session.queued == 1
    assert session.idle_s() == 0

    await session.submit(Interrupt())
    first = await until(session, "result", before)
    await until(session, "result", first.seq)
    await assert_answers(session)


# --- control requests


async def test_model_that_is_refused_becomes_a_notice(fakes: Fakes) -> None:
    """What clients see: ``notice`` of kind ``refused``, with the CLI's words."""
    session = await fakes.session(ready=[["control", "set_model", "no such model"]])

    await session.submit(SetModel("none"))

    notice = await until(session, "notice", kind="refused")
    assert notice.data["details"] == {
        "request": "set_model",
        "reason": "no such model",
    }
    await assert_answers(session)


async def test_model_that_is_never_answered_ends_the_session(fakes: Fakes) -> None:
    """What clients see: ``agent_timeout``, then ``done``."""
    session = await fakes.session(
        ready=[["control", "set_model", "ignore"]], deadlines=HASTY_CONTROL
    )

    await session.submit(SetModel("none"))

    await assert_failed(session, "agent_timeout")
    await fakes.until_processes(0)


async def test_permission_mode_that_is_refused_is_told_to_the_caller(
    fakes: Fakes,
) -> None:
    """What the caller sees: ``agent_refused``, with the CLI's words."""
    session = await fakes.session(ready=[["control", "set_permission_mode", "no"]])

    with pytest.raises(AgentRefused, match="no"):
        await session.submit(SetPermissionMode("plan"))

    assert AgentRefused.code == "agent_refused"
    await assert_answers(session)


async def test_permission_mode_that_is_never_answered_is_told_at_the_deadline(
    fakes: Fakes,
) -> None:
    """What the caller sees: ``agent_timeout``. The session goes on."""
    session = await fakes.session(
        ready=[["control", "set_permission_mode", "ignore"]], deadlines=HASTY_CONTROL
    )

    async with asyncio.timeout(WAIT_S):
        with pytest.raises(AgentTimeout):
            await session.submit(SetPermissionMode("plan"))

    assert AgentTimeout.code == "agent_timeout"
    await assert_answers(session)
