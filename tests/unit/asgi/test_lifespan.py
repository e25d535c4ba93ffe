from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest

from webkit_asgi.lifespan import run_lifespan
from webkit_asgi.types import Message
from webkit_core import ConfigError

Step = Callable[[], Awaitable[None]]


class Script:
    """A server's side of the lifespan, and a record of all that happens, in order."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.messages: list[str] = []

    def step(self, name: str, error: Exception | None = None) -> Step:
        async def run() -> None:
            self.happened.append(name)
            if error is not None:
                raise error

        return run

    async def run(self, startup: Step, shutdown: Step) -> None:
        inbox = iter(("lifespan.startup", "lifespan.shutdown"))

        async def receive() -> Message:
            kind = next(inbox)
            self.happened.append(kind)
            return {"type": kind}

        async def send(message: Message) -> None:
            self.happened.append(message["type"])
            self.messages.append(message.get("message", ""))

        await run_lifespan(receive, send, startup, shutdown)


async def test_run_lifespan_runs_each_step_when_asked_and_says_so() -> None:
    script = Script()

    await script.run(script.step("up"), script.step("down"))

    assert script.happened == [
        "lifespan.startup",
        "up",
        "lifespan.startup.complete",
        "lifespan.shutdown",
        "down",
        "lifespan.shutdown.complete",
    ]


async def test_run_lifespan_with_a_wrong_setting_says_so_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script()

    with caplog.at_level(logging.DEBUG, "webkit_asgi"):
        await script.run(script.step("up", ConfigError("set X")), script.step("down"))

    assert script.happened == ["lifespan.startup", "up", "lifespan.startup.failed"]
    assert script.messages == ["set X"]
    assert caplog.records == []


async def test_run_lifespan_with_a_broken_startup_logs_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script()

    await script.run(script.step("up", OSError("no room")), script.step("down"))

    assert script.happened == ["lifespan.startup", "up", "lifespan.startup.failed"]
    assert script.messages == ["no room"]
    (record,) = caplog.records
    assert record.getMessage() == "startup failed"
    assert record.exc_info is not None


@pytest.mark.parametrize("error", [ConfigError("stuck"), OSError("stuck")])
async def test_run_lifespan_with_a_broken_shutdown_says_so(error: Exception) -> None:
    script = Script()

    await script.run(script.step("up"), script.step("down", error))

    assert script.happened[-2:] == ["down", "lifespan.shutdown.failed"]
    assert script.messages == ["", "stuck"]
