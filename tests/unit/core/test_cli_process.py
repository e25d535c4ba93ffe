from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import psutil
import pytest

from webkit_core import cli_process
from webkit_core.cli_process import CliProcess
from webkit_core.environment import MARK
from webkit_core.last_words import LastWords
from webkit_core.private_dirs import PrivateDir, StateDir
from webkit_core.process import PROC

WAIT_S = 10.0

CLOSE_OTHERS = """for f in /dev/fd/*; do
    n=${f##*/}; [ $n -gt 2 ] && eval "exec $n>&-"
done"""
"""What the launcher does: uvloop's processes have a second copy of their output."""


class Started:
    """Stands for a client that has started a shell."""

    def __init__(self) -> None:
        self._transport = SimpleNamespace(_process=None)

    async def start(self, code: str, directory: PrivateDir | None = None) -> int:
        """Run ``code`` and return the number it tells first."""
        env = {"PATH": os.environ["PATH"]}
        if directory is not None:
            env[MARK] = str(directory.path)
        self._transport._process = process = await anyio.open_process(
            ["bash", "-c", code], env=env, start_new_session=True, stderr=None
        )
        assert process.stdout is not None
        return int(await process.stdout.receive())


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[PrivateDir]:
    made = await StateDir(tmp_path / "state").make()
    yield made
    made.remove()


@pytest.fixture
async def client() -> AsyncIterator[Started]:
    started = Started()
    yield started
    if (process := started._transport._process) is not None:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await process.aclose()


def test_process_that_is_not_there_yet_is_nobody() -> None:
    process = CliProcess(SimpleNamespace())

    process.kill()
    process.terminate()

    assert (process.pid, process.exit_code, process.runs) == (None, None, False)
    assert not process.output_ended


async def test_process_is_remembered_when_the_sdk_has_dropped_it(
    client: Started,
) -> None:
    pid = await client.start("echo $$; exec sleep 600")
    process = CliProcess(client)
    assert (process.pid, process.runs) == (pid, True)
    kept, client._transport._process = client._transport._process, None

    process.kill()

    async with asyncio.timeout(WAIT_S):
        await process.gone()
    assert (process.exit_code, process.runs) == (-signal.SIGKILL, False)
    client._transport._process = kept


async def test_terminate_lets_it_end_by_itself(client: Started) -> None:
    await client.start("trap 'exit 7' TERM; echo 1; while :; do sleep 0.05; done")
    process = CliProcess(client)

    process.terminate()

    async with asyncio.timeout(WAIT_S):
        await process.gone()
    assert process.exit_code == 7


def test_pid_of_a_process_that_has_been_waited_for_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be somebody else's by now."""
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, _signal: killed.append(pid))
    ended = SimpleNamespace(pid=4242, returncode=None)
    process = CliProcess(SimpleNamespace(_transport=SimpleNamespace(_process=ended)))
    process.kill()
    process.terminate()
    assert killed == [4242, 4242]

    ended.returncode = 0
    process.kill()
    process.terminate()

    assert killed == [4242, 4242]


async def test_process_that_ends_its_output_is_mute_after_the_grace(
    client: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_process, "OUTPUT_GRACE_S", 0.3)
    await client.start(f"echo 1; {CLOSE_OTHERS}; exec >&-; exec sleep 600")
    process = CliProcess(client)

    async with asyncio.timeout(WAIT_S):
        with pytest.raises(anyio.EndOfStream):
            await process.process.stdout.receive()
        await process.mute()

    assert process.output_ended
    assert process.runs


async def test_process_that_has_ended_is_mute_at_once(
    client: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds its output."""
    monkeypatch.setattr(cli_process, "OUTPUT_GRACE_S", 600.0)
    await client.start("sleep 600 & echo $!; exit 3")
    process = CliProcess(client)

    async with asyncio.timeout(WAIT_S):
        await process.mute()

    assert process.exit_code == 3
    assert not process.output_ended
    os.killpg(process.process.pid, signal.SIGKILL)


linux_only = pytest.mark.skipif(not PROC.is_dir(), reason="there is no /proc")


@linux_only
@pytest.mark.parametrize("alive", [True, False])
async def test_clean_up_leaves_neither_processes_nor_files(
    client: Started, directory: PrivateDir, alive: bool
) -> None:
    words = LastWords(directory.stderr)
    code = "setsid sleep 600 >/dev/null & echo $!" + ("; wait" if alive else "")
    child = psutil.Process(await client.start(code, directory))
    process = CliProcess(client, directory, words)
    fd = os.open(directory.stderr, os.O_WRONLY)
    os.write(fd, b"the end")

    await process.clean_up()
    await process.clean_up()

    os.close(fd)
    assert psutil.wait_procs([child], timeout=WAIT_S)[1] == []
    assert not directory.path.exists()
    assert str(process.words) == "the end"


async def test_clean_up_goes_on_when_its_caller_is_cancelled(
    directory: PrivateDir,
) -> None:
    process = CliProcess(SimpleNamespace(), directory)
    caller = asyncio.ensure_future(process.clean_up())
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    async with asyncio.timeout(WAIT_S):
        await process.clean_up()

    assert not directory.path.exists()


async def test_files_are_removed_when_nothing_can_be_killed(
    directory: PrivateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise OSError("no threads left")

    monkeypatch.setattr(cli_process._marked, "kill", broken)

    with pytest.raises(OSError, match="no threads"):
        await CliProcess(SimpleNamespace(), directory).clean_up()

    assert not directory.path.exists()
