"""Sessions with the fake CLI: start them, read their log, look for their processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any, Final, cast

import psutil

from webkit_core import (
    ClaudeFactory,
    Deadlines,
    Limits,
    LoggedEvent,
    Session,
    SessionConfig,
    SessionRegistry,
    UserMessage,
)

from . import fake_cli

WAIT_S: Final = 30.0
"""How long a test waits for what has to happen."""

PATIENT: Final = Deadlines(connect_s=WAIT_S, close_turn_s=0.5, disconnect_s=1.5)
"""Deadlines that pass only where nothing would happen without them."""

Steps = Sequence[Sequence[Any]]


def install_cli(directory: Path) -> Path:
    """Make the executable that ``cli_path`` names."""
    path = directory / "claude"
    path.write_text(
        f'#!/bin/sh\nexec {sys.executable} -I -S {fake_cli.__file__} "$@"\n'
    )
    path.chmod(0o755)
    return path


def turn(*steps: Sequence[Any]) -> UserMessage:
    """Return the message that makes the fake do ``steps``."""
    return UserMessage(json.dumps(steps))


class Fakes:
    """Makes sessions with fake CLIs and knows their processes."""

    def __init__(self, cli: Path, cwd: Path, mark: str) -> None:
        self.cli = cli
        self.cwd = cwd
        self.state = cwd / "state"
        self.mark = mark
        self.registries: list[SessionRegistry] = []
        self.logged: list[str] = []
        """How the errors end that a test expects in our log."""

    def factory(self, init: Steps = (), ready: Steps = ()) -> ClaudeFactory:
        script = json.dumps({"init": init, "ready": ready})
        env = {"FAKE_CLI": script, "FAKE_CLI_MARK": self.mark}
        return ClaudeFactory(
            env=env,
            state_dir=self.state,
            cli_path=str(self.cli),
            cwd=str(self.cwd),
        )

    def registry(
        self,
        init: Steps = (),
        ready: Steps = (),
        *,
        deadlines: Deadlines = PATIENT,
        limits: Limits | None = None,
    ) -> SessionRegistry:
        registry = SessionRegistry(
            self.factory(init, ready), deadlines=deadlines, limits=limits
        )
        self.registries.append(registry)
        return registry

    async def session(
        self,
        *,
        init: Steps = (),
        ready: Steps = (),
        deadlines: Deadlines = PATIENT,
        limits: Limits | None = None,
        config: SessionConfig | None = None,
    ) -> Session:
        registry = self.registry(init, ready, deadlines=deadlines, limits=limits)
        return await registry.create(config)

    def processes(self) -> list[psutil.Process]:
        """Return what our CLIs are and have started, whoever their parent is now."""
        mark = f"FAKE_CLI_MARK={self.mark}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0"):
                    found.append(psutil.Process(int(path.parent.name)))
            except (psutil.NoSuchProcess, OSError):  # it has just ended
                pass
        return found

    async def until_processes(self, count: int) -> list[psutil.Process]:
        async with asyncio.timeout(WAIT_S):
            while len(found := self.processes()) != count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found

    async def end(self) -> None:
        """End all sessions; what lives on is killed, and the test fails."""
        try:
            async with asyncio.timeout(2 * WAIT_S):
                for registry in self.registries:
                    await registry.shutdown()
                await self.until_processes(0)
                while self.state.exists() and any(self.state.iterdir()):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            for process in self.processes():
                process.kill()


# --- a session's log


def reading(
    session: Session, after: int = 0
) -> AbstractAsyncContextManager[AsyncGenerator[LoggedEvent, None]]:
    """Subscribe for as long as the block runs."""
    events = session.log.subscribe(after)
    return aclosing(cast("AsyncGenerator[LoggedEvent, None]", events))


async def until(
    session: Session, event: str, after: int = 0, **matching: Any
) -> LoggedEvent:
    """Wait for an event of that name, number above ``after``, and those fields."""
    async with asyncio.timeout(WAIT_S), reading(session, after) as events:
        async for seen in events:
            if seen.event == event and all(
                seen.data.get(k) == v for k, v in matching.items()
            ):
                return seen
    raise AssertionError(f"no {event} {matching} in {await history(session)}")


async def history(session: Session) -> list[LoggedEvent]:
    """Return what the log holds now."""
    seen: list[LoggedEvent] = []
    async with reading(session, session.log.oldest_seq - 1) as events:
        while len(seen) <= session.log.last_seq - session.log.oldest_seq:
            seen.append(await anext(events))
    return seen


async def named(session: Session, *names: str) -> list[LoggedEvent]:
    return [seen for seen in await history(session) if seen.event in names]


async def say(session: Session, *steps: Sequence[Any]) -> int:
    """Submit a turn of steps; return the number of the last event before it."""
    before = session.log.last_seq
    await session.submit(turn(*steps))
    return before


async def assert_answers(session: Session, text: str = "the next one") -> None:
    """The session is well: it takes a prompt and answers it, in a turn of its own."""
    before = session.log.last_seq
    await session.submit(UserMessage(text))
    running = await until(session, "session_state", before, state="running")
    complete = await until(session, "message_complete", running.seq)
    result = await until(session, "result", complete.seq)
    await until(session, "session_state", result.seq, state="idle")
    assert complete.data["message"]["content"] == [{"type": "text", "text": text}]
    assert result.data["subtype"] == "success"


async def ended(session: Session) -> list[LoggedEvent]:
    """Wait for the end; return all events, which end in the one ``done``."""
    async with asyncio.timeout(WAIT_S):
        await session.wait_ended()
    events = await history(session)
    assert [e.seq for e in events] == list(
        range(session.log.oldest_seq, session.log.last_seq + 1)
    )
    assert [e.event for e in events].count("done") == 1
    assert events[-1].event == "done"
    assert session.log.closed
    return events


async def assert_failed(session: Session, code: str) -> str:
    """The session ends in one ``error`` of that code; return its message."""
    events = await ended(session)
    (error,) = [e for e in events if e.event == "error"]
    assert error.data["code"] == code, error
    assert session.failure is not None
    message: str = error.data["message"]
    return message
