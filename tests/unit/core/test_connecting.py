from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from webkit_core import connecting
from webkit_core.cli_process import CliProcess
from webkit_core.connecting import connect
from webkit_core.errors import AgentStartError
from webkit_core.tasks import OwnedTasks


class Client:
    """Has a process that the test ends, and connects when the test says so."""

    stubborn = False
    """Whether it comes up although it was cancelled."""

    def __init__(self) -> None:
        self.process = SimpleNamespace(pid=2**22 + 1, returncode=None, stdout=None)
        self._transport = SimpleNamespace(_process=self.process)
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cleaned_up = asyncio.Event()
        self.may_leave = asyncio.Event()
        self.disconnected = asyncio.Event()

    async def connect(self) -> None:
        try:
            await self.answer
        except BaseException:
            await self.may_leave.wait()
            self.cleaned_up.set()
            if not self.stubborn:
                raise

    async def disconnect(self) -> None:
        self.disconnected.set()


def start(client: Client) -> asyncio.Task[None]:
    return asyncio.ensure_future(
        connect(client, CliProcess(client), OwnedTasks("a test"))
    )


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def no_task_is_left() -> None:
    async with asyncio.timeout(5):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        mine = [task for task in others if "connecting" in repr(task.get_coro())]
        await asyncio.gather(*mine, return_exceptions=True)


async def test_client_that_connects_is_connected() -> None:
    client = Client()
    connected = start(client)
    await turns()
    client.answer.set_result(None)

    await connected

    assert not client.disconnected.is_set()
    await no_task_is_left()


async def test_error_of_the_sdk_is_raised_as_it_is() -> None:
    client = Client()
    client.may_leave.set()
    connected = start(client)
    client.answer.set_exception(ZeroDivisionError("its own"))

    with pytest.raises(ZeroDivisionError, match="its own"):
        await connected

    assert not client.disconnected.is_set()


async def test_process_that_ends_fails_the_start_when_the_sdk_does_not_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connecting, "GRACE_S", 0.01)
    client = Client()
    client.may_leave.set()
    client.process.returncode = 0

    with pytest.raises(AgentStartError, match="exited with code 0"):
        await start(client)

    assert client.cleaned_up.is_set()


async def test_sdk_that_notices_the_end_says_why() -> None:
    client = Client()
    client.may_leave.set()
    client.process.returncode = 1
    connected = start(client)
    await turns()
    client.answer.set_exception(ValueError("No conversation"))

    with pytest.raises(ValueError, match="No conversation"):
        await connected


async def test_cancelling_twice_cancels_the_sdk_once() -> None:
    """A second time it would leave its process behind."""
    client = Client()
    connected = start(client)
    await turns()

    connected.cancel()
    await turns()
    connected.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connected
    assert not client.cleaned_up.is_set()
    client.may_leave.set()

    async with asyncio.timeout(5):
        await client.cleaned_up.wait()
    await no_task_is_left()


async def test_client_that_comes_up_when_nobody_waits_is_disconnected() -> None:
    client = Client()
    client.stubborn = True
    connected = start(client)
    await turns()
    for _ in range(2):
        connected.cancel()
        await turns()
    assert connected.cancelled()

    client.may_leave.set()

    async with asyncio.timeout(5):
        await client.disconnected.wait()


async def test_client_that_comes_up_as_it_is_given_up_is_disconnected() -> None:
    client = Client()
    connected = start(client)
    await turns()
    client.answer.set_result(None)
    await turns(1)
    connected.cancel()

    with pytest.raises(asyncio.CancelledError):
        await connected

    assert client.disconnected.is_set()
