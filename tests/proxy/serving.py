"""Servers at an address of their own, and what is known of their connections."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.integration.client import SessionClient
from tests.integration.server import ServerProcess


@contextmanager
def serving_at(
    host: str, port: int, env: Mapping[str, str], cwd: Path
) -> Iterator[ServerProcess]:
    """Run a server at that address; port 0 is a free one."""
    command = [sys.executable, "-m", "uvicorn", "webkit_asgi:app"]
    server = ServerProcess([*command, "--host", host, "--port", str(port)], env, cwd)
    try:
        server.wait_up()
        yield server
    finally:
        server.stop()


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def peers(server: ServerProcess) -> set[int]:
    """Return the ports from which somebody is connected to the server."""
    port = port_of(server.url)
    connections = psutil.Process(server.pid).net_connections("tcp")
    return {
        each.raddr.port
        for each in connections
        if each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port
    }


async def until_subscribers(session: SessionClient, number: int) -> None:
    """Wait until the session has so many streams."""
    async with asyncio.timeout(30):
        while (await session.info())["subscribers"] != number:
            pass
