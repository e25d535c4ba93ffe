"""What is left when everything was opened, used and closed: nothing.

The first round warms up: caches and pools grow once. What the others add is a leak.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import psutil
import pytest
from msgspec import Struct
from pytest_benchmark.fixture import BenchmarkFixture

from .conftest import Found
from .streaming import REPOSITORY, RUNNING

OPTIONS: Final = ("--port", "0", "--no-access-log")
AT_ONCE: Final = 50
MAX_GROWTH_MIB: Final = 4.0
SETTLE_S: Final = 30.0


class Held(Struct):
    """What the server's process holds."""

    files: int
    threads: int
    tasks: int
    temporary: int
    private_mib: float


class Server:
    """:mod:`bench.leaks`, running."""

    def __init__(self, process: subprocess.Popen[str], url: str, temp: Path) -> None:
        self.process = psutil.Process(process.pid)
        self.url = url
        self.temp = temp

    def held(self, http: httpx.Client) -> Held:
        memory = self.process.memory_info()
        return Held(
            self.process.num_fds(),
            self.process.num_threads(),
            int(http.get("/tasks").text),
            sum(1 for _ in self.temp.rglob("*")),
            (memory.rss - memory.shared) / 2**20,
        )

    def settled(self) -> Held:
        """Return what it holds when nothing changes any more."""
        with httpx.Client(base_url=self.url) as http:
            give_up_at = time.monotonic() + SETTLE_S
            before, now = None, self.held(http)
            while now != before and time.monotonic() < give_up_at:
                time.sleep(0.5)
                before, now = now, self.held(http)
            return now


@contextmanager
def serving(temp: Path) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "bench.leaks:app", *OPTIONS],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(temp)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if RUNNING in line)
        yield Server(process, line.split(RUNNING)[1].split()[0], temp)
    finally:
        process.terminate()
        process.communicate()


async def use_a_session(http: httpx.AsyncClient) -> None:
    """Make a session, watch a turn of it, close it."""
    session_id = (await http.post("/sessions")).json()["session_id"]
    path = f"/sessions/{session_id}"
    async with http.stream("GET", f"{path}/stream") as stream:
        hello = {"type": "user_message", "content": "hello"}
        assert (await http.post(f"{path}/input", json=hello)).status_code == 204
        async for line in stream.aiter_lines():
            if line == "event: result":
                break
    assert (await http.delete(path)).status_code == 204


async def drop_a_stream(host: str, port: int, path: str) -> None:
    """Open a stream and leave without a word."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path}/stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await reader.readuntil(b"session_ready")
    writer.transport.abort()


async def one_round(url: str, sessions: int, streams: int) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    parts = httpx.URL(url)

    async with httpx.AsyncClient(base_url=url, timeout=60) as http:

        async def one_session() -> None:
            async with gate:
                await use_a_session(http)

        async def one_stream(path: str) -> None:
            async with gate:
                await drop_a_stream(parts.host, parts.port or 0, path)

        await asyncio.gather(*(one_session() for _ in range(sessions)))
        kept = (await http.post("/sessions")).json()["session_id"]
        path = f"/sessions/{kept}"
        await asyncio.gather(*(one_stream(path) for _ in range(streams)))
        await http.delete(path)


@pytest.mark.benchmark(group="leaks")
def bench_leaks(
    benchmark: BenchmarkFixture, found: Found, full: bool, tmp_path: Path
) -> None:
    """1,000 sessions opened, used and closed, 10,000 streams opened and dropped."""
    sessions, streams = (1000, 10_000) if full else (50, 200)
    with serving(tmp_path) as server:
        asyncio.run(one_round(server.url, sessions // 2, streams // 2))
        before = server.settled()
        work = partial(one_round, server.url, sessions, streams)
        benchmark.pedantic(lambda: asyncio.run(work()), rounds=1)  # type: ignore[no-untyped-call]
        after = server.settled()
    found("sessions, streams", f"{sessions}, {streams}")
    for name in ("files", "threads", "tasks", "temporary"):
        found(name, f"{getattr(before, name)} before, {getattr(after, name)} after")
    grown = after.private_mib - before.private_mib
    found("private memory", f"{before.private_mib:.1f} MiB, {grown:+.1f} after")
    assert (after.files, after.tasks) == (before.files, before.tasks)
    assert after.threads <= before.threads
    assert after.temporary == before.temporary
    assert grown < MAX_GROWTH_MIB
