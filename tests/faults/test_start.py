"""The CLI does not come up: creation fails, with the reason, and nothing is left."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from webkit_core import (
    AgentStartError,
    ClaudeFactory,
    SessionConfig,
    SessionRegistry,
)
from webkit_core.errors import Draining

from .sessions import PATIENT, WAIT_S, Fakes, Steps, assert_answers

HASTY = msgspec.structs.replace(PATIENT, connect_s=1.0)


async def registry_forgets(registry: SessionRegistry) -> None:
    """A session that did not come up counts no more, and is soon gone."""
    async with asyncio.timeout(WAIT_S):
        while registry.live_count() or list(registry):  # noqa: ASYNC110 - a few turns
            await asyncio.sleep(0)


async def fails_to_start(
    registry: SessionRegistry, config: SessionConfig | None = None
) -> str:
    """Create a session that does not come up; return why."""
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(AgentStartError) as caught:
            await registry.create(config)
    assert caught.value.code == "agent_start_failed"
    await registry_forgets(registry)
    return str(caught.value)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (
            [["stderr", "bad key\n"], ["exit", 3]],
            "exited with code 3; it said: bad key",
        ),
        ([["kill"]], "killed (SIGKILL"),
        ([["kill", "SIGSEGV"]], "killed (SIGSEGV"),
        ([["line", "{no json"]], "no JSON"),
    ],
    ids=["exit 3", "SIGKILL", "SIGSEGV", "no JSON"],
)
async def test_death_during_init_fails_the_creation_at_once_and_says_why(
    fakes: Fakes, steps: list[list[Any]], why: str
) -> None:
    """What clients see: ``agent_start_failed``, with the exit and standard error."""
    assert why in await fails_to_start(fakes.registry(init=steps))
    await fakes.until_processes(0)


async def test_init_without_an_answer_fails_the_creation_at_the_connect_deadline(
    fakes: Fakes,
) -> None:
    """With what the CLI has said: it may say what it waits for."""
    steps: Steps = [["stderr", "please log in"], ["ignore", "SIGTERM"], ["wait"]]
    registry = fakes.registry(init=steps, deadlines=HASTY)

    why = await fails_to_start(registry)

    assert why.endswith("did not start within 1 s; it said: please log in")
    assert not fakes.processes()


@pytest.mark.parametrize("spawn", [[], [["spawn", True]]], ids=["alone", "with child"])
async def test_good_end_during_init_fails_the_creation_long_before_the_deadline(
    fakes: Fakes, spawn: list[list[Any]]
) -> None:
    steps = [*spawn, ["stderr", "please log in\n"], ["exit", 0]]

    why = await fails_to_start(fakes.registry(init=steps))

    assert "exited with code 0; it said: please log in" in why
    assert not fakes.processes()


async def test_result_that_ends_the_init_is_the_reason(fakes: Fakes) -> None:
    """What the CLI does with a conversation that it cannot resume."""
    result = {"is_error": True, "errors": ["No conversation found"]}

    why = await fails_to_start(
        fakes.registry(init=[["result_with", result], ["exit", 1]])
    )

    assert "No conversation found" in why


async def test_start_that_failed_leaves_nothing_it_has_started(fakes: Fakes) -> None:
    steps: Steps = [["spawn_detached"], ["spawn"], ["exit", 3]]

    await fails_to_start(fakes.registry(init=steps))

    assert not fakes.processes()
    assert not list(fakes.state.iterdir())


async def test_state_directory_without_execution_is_named_with_its_setting(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_such_a_file_system(path: Any, mode: int) -> bool:
        return fakes.state not in Path(path).parents or not mode & os.X_OK

    monkeypatch.setattr(os, "access", on_such_a_file_system)

    why = await fails_to_start(fakes.registry())

    assert "allows no execution" in why
    assert "AGENT_WEBKIT_STATE_DIR" in why
    assert not list(fakes.state.iterdir())


async def test_missing_cli_fails_the_creation_and_names_it(fakes: Fakes) -> None:
    fakes.cli = fakes.cwd / "no-such-cli"

    assert "no-such-cli" in await fails_to_start(fakes.registry())


async def test_cli_without_its_interpreter_fails_the_creation(fakes: Fakes) -> None:
    fakes.cli.write_text("#!/no/such/interpreter\n")

    assert "No such file" in await fails_to_start(fakes.registry())


async def test_cli_that_is_not_executable_fails_the_creation_and_the_check(
    fakes: Fakes,
) -> None:
    """The check is what ``/readyz`` asks."""
    fakes.cli.chmod(0o644)

    assert "cannot be executed" in await fails_to_start(fakes.registry())
    with pytest.raises(AgentStartError, match="cannot be executed"):
        await ClaudeFactory(cli_path=str(fakes.cli)).check()


async def test_cwd_that_has_vanished_fails_the_creation_and_is_named(
    fakes: Fakes, tmp_path: Path
) -> None:
    gone = str(tmp_path / "gone")

    why = await fails_to_start(fakes.registry(), SessionConfig(cwd=gone))

    assert "Working directory does not exist" in why
    assert gone in why


async def test_failed_start_leaves_room_for_the_next(fakes: Fakes) -> None:
    registry = SessionRegistry(
        fakes.factory(init=[["exit", 3]]), max_sessions=1, concurrent_starts=1
    )
    fakes.registries.append(registry)
    for _ in range(3):
        await fails_to_start(registry)
    (fakes.cwd / "FAKE_CLI").write_text("{}")

    await assert_answers(await registry.create())


async def test_session_closed_while_it_starts_fails_the_creation(
    fakes: Fakes,
) -> None:
    registry = fakes.registry(init=[["wait"]])
    creation = asyncio.ensure_future(registry.create())
    await fakes.until_processes(1)
    (session,) = registry

    await registry.remove(session.id)

    with pytest.raises(AgentStartError, match="closed while it started"):
        await creation
    await fakes.until_processes(0)
    assert not list(registry)


async def test_shutdown_while_a_session_starts_fails_its_creation(
    fakes: Fakes,
) -> None:
    registry = fakes.registry(init=[["wait"]])
    creation = asyncio.ensure_future(registry.create())
    await fakes.until_processes(1)

    await registry.shutdown()

    with pytest.raises(Draining):
        await creation
    await fakes.until_processes(0)


async def test_creation_cancelled_while_the_cli_starts_ends_the_cli(
    fakes: Fakes,
) -> None:
    registry = fakes.registry(init=[["wait"]])
    creation = asyncio.ensure_future(registry.create())
    await fakes.until_processes(1)

    creation.cancel()

    with pytest.raises(asyncio.CancelledError):
        await creation
    await fakes.until_processes(0)
    await registry.shutdown()
    assert not list(registry)


async def test_creation_cancelled_at_any_moment_leaves_no_cli(fakes: Fakes) -> None:
    """Before the process is there, while it starts, while it answers, afterwards."""
    registry = fakes.registry()
    for moment_ms in range(0, 80, 8):
        try:
            async with asyncio.timeout(moment_ms / 1000):
                session = await registry.create()
            await registry.remove(session.id)
        except TimeoutError:
            pass
    async with asyncio.timeout(WAIT_S):
        await registry.shutdown()

    await fakes.until_processes(0)
    assert registry.live_count() == 0
