"""Any server in a process of its own: found by its socket, checked at its end."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import psutil
from msgspec import Struct

from tests.integration.server import START_S, ServerProcess

from .examples import MODULE, Example

LOOK_AGAIN_S: Final = 0.05
GRACE_S: Final = 15.0
"""What the README gives each server for its end."""

BAD_SIGNS: Final = ("Traceback", "never retrieved", "was destroyed", "never awaited")


class Serving(Struct, frozen=True):
    """A server that runs."""

    example: Example
    process: ServerProcess

    @property
    def url(self) -> str:
        """Where our application is, below whatever it is mounted in."""
        return self.process.url + self.example.mount


@contextmanager
def serving(example: Example, env: Mapping[str, str], cwd: Path) -> Iterator[Serving]:
    """Run an example of the README; on the way out, check that it ended well."""
    if example.program:
        (cwd / MODULE).write_text(example.program)
    with running(example.command, env, cwd) as process:
        yield Serving(example, process)


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], cwd: Path
) -> Iterator[ServerProcess]:
    """Run a server; on the way out, check that it ended well and left nothing."""
    server = ServerProcess(list(command), env, cwd)
    try:
        _wait_listening(server)
        yield server
        below = server.descendants()
        assert server.stop() == 0, server.output
        assert_gone(below)
        for sign in BAD_SIGNS:
            assert sign not in server.output, server.output
    finally:
        for process in server.descendants():
            process.kill()
        server.stop()


def assert_gone(processes: Sequence[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive, f"left behind: {alive}"


async def until_ended(server: Serving) -> None:
    code = await asyncio.to_thread(server.process.wait_ended, GRACE_S)
    assert code == 0, server.process.output


async def until_unready(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(GRACE_S):
        while (await http.get("/readyz")).status_code == 200:
            pass


def _wait_listening(server: ServerProcess) -> None:
    """Wait until the server has a port, which is how any of them says it is up."""
    give_up_at = time.monotonic() + START_S
    while (port := _listening_port(server)) is None:
        assert time.monotonic() < give_up_at, server.output
        try:
            code = server.wait_ended(LOOK_AGAIN_S)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the server ended with {code}:\n{server.output}")
    server.url = f"http://127.0.0.1:{port}"


def _listening_port(server: ServerProcess) -> int | None:
    for process in (psutil.Process(server.pid), *server.descendants()):
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:  # it has just ended, or not quite begun
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1"
                return int(connection.laddr.port)
    return None
