"""The CLI dies, or does not want to: clients are told, and no process is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Any

import msgspec
import psutil
import pytest

from webkit_core import (
    AgentRefused,
    Interrupt,
    Session,
    SetPermissionMode,
    UserMessage,
    claude,
)
from webkit_core.errors import SessionFailed
from webkit_core.lifecycle import State

from .sessions import (
    PATIENT,
    WAIT_S,
    Fakes,
    assert_answers,
    assert_failed,
    ended,
    named,
    say,
    until,
)

BLOCKED = UserMessage("x" * 1_000_000)
"""More than a pipe holds."""


async def close(session: Session) -> None:
    async with asyncio.timeout(WAIT_S):
        await session.close()


async def begin_blocked_turn(session: Session) -> None:
    """Let the CLI read no more, and say more to it than its pipe holds."""
    before = await say(session, ["result"], ["sleep"])
    result = await until(session, "result", before)
    await session.submit(BLOCKED)
    await until(session, "session_state", result.seq, state="running")


async def begin(session: Session, *steps: Sequence[Any]) -> int:
    """Begin a turn, and wait until it has done ``steps``."""
    before = await say(session, *steps, ["say", "up"], ["wait"])
    return (await until(session, "message_complete", before)).seq


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([["exit", 0]], "ended by itself"),
        ([["stderr", "out of luck\n"], ["exit", 1]], "code 1; it said: out of luck"),
        ([["kill"]], "killed (SIGKILL"),
        ([["kill", "SIGSEGV"]], "killed (SIGSEGV"),
        ([["exit", 137]], "killed (SIGKILL"),
    ],
    ids=["exit 0", "exit 1", "SIGKILL", "SIGSEGV", "exit 137"],
)
async def test_death_in_mid_turn_ends_the_session_with_the_reason(
    fakes: Fakes, steps: list[list[Any]], why: str
) -> None:
    """What clients see: what was said, ``agent_exited``, ``done``. No ``result``."""
    session = await fakes.session()

    await say(session, ["say", "so far"], *steps)
    await session.submit(UserMessage("queued behind it"))

    assert why in await assert_failed(session, "agent_exited")
    assert await named(session, "message_complete")
    assert not await named(session, "result")
    dropped = await until(session, "notice", kind="messages_dropped")
    assert dropped.data["details"] == {"count": 1}
    assert not fakes.processes()
    with pytest.raises(SessionFailed, match="failed"):
        await session.submit(UserMessage("anybody there?"))


async def test_sigkill_while_idle_ends_the_session_with_the_reason(
    fakes: Fakes,
) -> None:
    session = await fakes.session()
    await assert_answers(session)
    assert session.agent_pid is not None

    os.kill(session.agent_pid, signal.SIGKILL)

    assert "SIGKILL" in await assert_failed(session, "agent_exited")
    assert session.state is State.FAILED
    assert not fakes.processes()


async def test_error_result_and_exit_end_the_turn_and_then_the_session(
    fakes: Fakes,
) -> None:
    """What the CLI does when a run fails for good: the ``result`` says why."""
    session = await fakes.session()

    result = {"is_error": True, "errors": ["no credit"]}
    await say(session, ["result_with", result], ["exit", 1])

    await assert_failed(session, "agent_exited")
    (seen,) = await named(session, "result")
    assert seen.data["errors"] == ["no credit"]


async def test_death_leaves_the_other_sessions_alone(fakes: Fakes) -> None:
    registry = fakes.registry()
    victim, other = await registry.create(), await registry.create()

    await say(victim, ["kill"])
    await assert_failed(victim, "agent_exited")

    await assert_answers(other)
    assert registry.live_count() == 1


# --- it does not want to end


async def test_cli_that_ignores_eof_and_sigterm_is_killed_at_close(
    fakes: Fakes,
) -> None:
    """What clients see: ``done``, before the process is gone."""
    session = await fakes.session(ready=[["ignore", "EOF"], ["ignore", "SIGTERM"]])
    await assert_answers(session)

    await close(session)

    assert not [e for e in await ended(session) if e.event == "error"]
    assert not fakes.processes()


async def test_turn_that_never_ends_is_aborted_at_close(fakes: Fakes) -> None:
    """What clients see: ``error`` with ``turn_aborted``, then ``done``."""
    session = await fakes.session()
    await begin(session)
    await session.submit(UserMessage("queued behind it"))

    await close(session)

    (error,) = [e for e in await ended(session) if e.event == "error"]
    assert error.data["code"] == "turn_aborted"
    await until(session, "notice", kind="messages_dropped")
    assert session.state is State.CLOSED
    assert not fakes.processes()


async def test_turn_that_stops_when_asked_has_its_result_before_the_close(
    fakes: Fakes,
) -> None:
    session = await fakes.session(
        deadlines=msgspec.structs.replace(PATIENT, close_turn_s=WAIT_S)
    )
    await say(session, ["say", "up"], ["wait_interrupt"], ["interrupted"])
    await until(session, "message_complete")

    await close(session)

    assert not [e for e in await ended(session) if e.event == "error"]
    (result,) = await named(session, "result")
    assert result.data["subtype"] == "error_during_execution"


async def test_descendant_is_killed_with_a_cli_that_does_not_end(
    fakes: Fakes,
) -> None:
    session = await fakes.session()
    await begin(session, ["spawn"], ["ignore", "EOF"], ["ignore", "SIGTERM"])
    assert len(fakes.processes()) == 2

    await close(session)

    await fakes.until_processes(0)


async def test_descendant_is_ended_by_a_cli_that_ends_on_sigterm(
    fakes: Fakes,
) -> None:
    """As the real one does, which outlives its input while a command runs."""
    session = await fakes.session()
    await begin(session, ["spawn"], ["tidy"], ["ignore", "EOF"])
    assert len(fakes.processes()) == 2

    await close(session)

    await fakes.until_processes(0)


async def test_descendant_is_killed_with_a_cli_that_has_failed(fakes: Fakes) -> None:
    """The session fails, here by an interrupt in vain; then all is killed at once."""
    session = await fakes.session(
        deadlines=msgspec.structs.replace(PATIENT, interrupt_s=0.5)
    )
    await begin(session, ["spawn"], ["ignore", "EOF"], ["ignore", "SIGTERM"])

    await session.submit(Interrupt())

    await assert_failed(session, "interrupt_ignored")
    await fakes.until_processes(0)


# --- its pipes


async def test_cli_that_closes_its_output_and_lives_on_is_given_up(
    fakes: Fakes,
) -> None:
    """What clients see: what was said, ``agent_exited``, ``done``, in 2 to 4 s."""
    session = await fakes.session()

    await say(session, ["say", "the last words"], ["close", 1], ["wait"])

    assert "closed its output" in await assert_failed(session, "agent_exited")
    assert await named(session, "message_complete")
    await fakes.until_processes(0)


async def test_cli_that_closes_its_input_fails_the_next_prompt(fakes: Fakes) -> None:
    """What clients see: ``agent_unreachable``, then ``done``, and no silence."""
    session = await fakes.session()
    before = await say(session, ["close", 0], ["say", "up"], ["result"], ["sleep"])
    await until(session, "result", before)

    await session.submit(UserMessage("anybody there?"))

    await assert_failed(session, "agent_unreachable")
    await fakes.until_processes(0)


async def test_cli_that_closes_its_input_refuses_a_control_request_at_once(
    fakes: Fakes,
) -> None:
    session = await fakes.session()
    before = await say(session, ["close", 0], ["say", "up"], ["result"], ["sleep"])
    await until(session, "result", before)

    with pytest.raises(AgentRefused):
        await session.submit(SetPermissionMode("plan"))


# --- what it leaves behind


@pytest.mark.parametrize("how", [["kill"], ["exit", 0], ["exit", 1]], ids=str)
async def test_dead_cli_whose_child_holds_its_output_is_noticed(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, how: list[Any]
) -> None:
    """What clients see: all that was said, then ``agent_exited``, within a second.

    The child is killed, so that the SDK reads the output to its end.
    """
    monkeypatch.setattr(claude, "GRACE_S", 600.0)
    session = await fakes.session()

    await say(session, ["spawn", True], ["say", "the last words"], how)

    why = await assert_failed(session, "agent_exited")
    assert {"kill": "SIGKILL", "exit": "code 1"}[how[0]] in why or how == ["exit", 0]
    assert await named(session, "message_complete")
    await fakes.until_processes(0)


@pytest.mark.parametrize("spawned", ["spawn", "spawn_detached", "spawn_unmarked"])
@pytest.mark.parametrize(
    "end", [["kill"], ["exit", 0], ["result"]], ids=["killed", "ended", "closed"]
)
async def test_what_a_cli_has_started_does_not_outlive_it(
    fakes: Fakes, spawned: str, end: list[Any]
) -> None:
    """In its group, in a session of its own, or without its environment."""
    session = await fakes.session()
    before = await say(session, [spawned], ["say", "up"], ["wait_file", "go"], end)
    said = await until(session, "message_complete", before)
    (pid,) = (int(word) for word in (fakes.cwd / "spawned").read_text().split())
    child = psutil.Process(pid)
    (fakes.cwd / "go").touch()
    if end == ["result"]:
        await until(session, "result", said.seq)

    await close(session)

    assert psutil.wait_procs([child], timeout=WAIT_S)[1] == []


async def test_sessions_of_one_server_do_not_kill_each_others_processes(
    fakes: Fakes,
) -> None:
    registry = fakes.registry()
    one, other = await registry.create(), await registry.create()
    before = await say(other, ["spawn_detached"], ["say", "up"], ["result"])
    await until(other, "result", before)

    await close(one)

    assert len(fakes.processes()) == 2
    await assert_answers(other)


async def test_cli_that_reads_nothing_fails_the_prompt_at_the_control_deadline(
    fakes: Fakes,
) -> None:
    """What clients see: ``agent_timeout``, then ``done``."""
    session = await fakes.session(
        deadlines=msgspec.structs.replace(PATIENT, control_s=0.5)
    )

    await begin_blocked_turn(session)

    await assert_failed(session, "agent_timeout")
    await fakes.until_processes(0)


async def test_cli_that_reads_nothing_fails_the_interrupt_at_its_deadline(
    fakes: Fakes,
) -> None:
    """The prompt still waits for room in the pipe, and the interrupt behind it."""
    session = await fakes.session(
        deadlines=msgspec.structs.replace(PATIENT, interrupt_s=0.5)
    )
    await begin_blocked_turn(session)

    await session.submit(Interrupt())

    await assert_failed(session, "interrupt_failed")
    await fakes.until_processes(0)


async def test_cli_that_reads_nothing_does_not_hold_up_the_close(
    fakes: Fakes,
) -> None:
    session = await fakes.session()
    await begin_blocked_turn(session)

    await close(session)

    (error,) = [e for e in await ended(session) if e.event == "error"]
    assert error.data["code"] == "turn_aborted"
    assert not fakes.processes()


async def test_control_request_under_way_is_refused_when_the_cli_dies(
    fakes: Fakes,
) -> None:
    """What the caller sees: ``agent_refused``, at once, not the deadline."""
    session = await fakes.session()
    go = fakes.cwd / "go"
    await begin_and_wait_for(session, go)

    request = asyncio.ensure_future(session.submit(SetPermissionMode("plan")))
    await asyncio.sleep(0)
    go.touch()

    async with asyncio.timeout(WAIT_S):
        with pytest.raises(AgentRefused):
            await request
    await assert_failed(session, "agent_exited")


async def begin_and_wait_for(session: Session, go: os.PathLike[str]) -> None:
    before = await say(
        session,
        ["control", "set_permission_mode", "ignore"],
        ["say", "up"],
        ["wait_file", os.fspath(go)],
        ["exit", 1],
    )
    await until(session, "message_complete", before)
