"""Real sessions, and what they cost: the parts of the capacity bench.

Figures come from /proc: private and shared memory from ``smaps_rollup``, CPU seconds
from ``stat``. Latencies are measured where the client is; a delivery is the time from
the model saying a word to a subscriber reading it, through CLI, SDK, server and socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from claude_agent_sdk._internal.message_parser import parse_message
from msgspec import Struct

from webkit_core import Limits
from webkit_core.conversation import Conversation
from webkit_core.protocol import DEFAULT_DELTAS

from .events import START
from .streaming import REPOSITORY, RUNNING, cpu_s

MIB: Final = 1024 * 1024
CLI_BYTES: Final = 140 * MIB
"""What a CLI is expected to take, before any has been measured."""

CREATES_AT_ONCE: Final = 4
WORD: Final = re.compile(rb'event: message_delta\ndata: [^\n]*" (\d{9,})"')


class Memory(Struct):
    """Bytes of a process: its own, shared with others, and its fair share of all."""

    private: int
    shared: int
    fair: int

    @classmethod
    def of(cls, pid: int) -> Memory:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kib = {
            name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+) kB", rollup)
        }
        return cls(
            (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024,
            (kib["Shared_Clean"] + kib["Shared_Dirty"]) * 1024,
            kib["Pss"] * 1024,
        )


class Clis(Struct):
    """What the CLIs of a server cost at one moment, per CLI."""

    count: int
    private_mib: float
    shared_mib: float
    fair_mib: float
    cpu_s: float

    @classmethod
    def below(cls, pid: int) -> Clis:
        processes = [
            child
            for child in psutil.Process(pid).children(recursive=True)
            if "claude" in child.name()
        ]
        each = [Memory.of(process.pid) for process in processes]
        count = max(1, len(each))
        return cls(
            len(each),
            sum(memory.private for memory in each) / count / MIB,
            sum(memory.shared for memory in each) / count / MIB,
            sum(memory.fair for memory in each) / count / MIB,
            sum(cpu_s(process.pid) for process in processes),
        )


def percentiles(values_s: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile."""
    ordered = sorted(values_s) or [0.0]
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


def refusal(sessions: int) -> str | None:
    """Return why so many sessions cannot be tried here, if they cannot."""
    available = psutil.virtual_memory().available
    needed = sessions * CLI_BYTES
    if needed <= available * 0.9:
        return None
    return (
        f"{sessions} sessions need about {needed / MIB / 1024:.1f} GiB"
        f" ({CLI_BYTES // MIB} MiB each), and {available / MIB / 1024:.1f} GiB are"
        f" available: try {int(available * 0.9 / CLI_BYTES)} at most"
    )


@contextmanager
def process(command: list[str], env: Mapping[str, str], cwd: Path) -> Iterator[Any]:
    """Run something on uvicorn; yields ``(pid, url)``."""
    running = subprocess.Popen(
        [sys.executable, *command], env=env, cwd=cwd, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    said = []
    try:
        for line in running.stderr:
            said.append(line)
            if RUNNING in line:
                yield running.pid, line.split(RUNNING)[1].split()[0]
                break
        else:
            raise RuntimeError("".join(said))
    finally:
        running.terminate()
        running.wait(60)
        running.stderr.close()


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a server that finds this repository."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **more}


class Subscriber(asyncio.Protocol):
    """One stream: counts words, and takes the time each needed to get here."""

    def __init__(self, host: str, session_id: str) -> None:
        path = f"/sessions/{session_id}/stream"
        self.request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self.rest = b""
        self.words_s: list[float] = []
        self.first_word_s = 0.0
        self.results = 0
        self.news = asyncio.Event()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        end = data.rfind(b"\n\n") + 2
        now = time.monotonic()
        words = WORD.findall(data, 0, end)
        if words and not self.first_word_s:
            self.first_word_s = now
        self.words_s.extend(now - int(word) / 1e9 for word in words)
        self.rest = data[end:] if end >= 2 else data
        self.results += data.count(b"event: result\n", 0, end)
        self.news.set()

    async def until_results(self, count: int) -> None:
        while self.results < count:
            self.news.clear()
            await self.news.wait()


class Client:
    """Creates sessions, subscribes twice to each, runs turns."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.AsyncClient(
            base_url=url, timeout=300, limits=httpx.Limits(max_connections=20)
        )
        self.ids: list[str] = []
        self.subscribers: list[tuple[Subscriber, Subscriber]] = []
        self.create_s: list[float] = []
        self.first_word_s: list[float] = []
        self.turns = 0

    async def create(self, count: int, tell: Any) -> float:
        """Create sessions and return how many per second."""
        gate = asyncio.Semaphore(CREATES_AT_ONCE)
        loop = asyncio.get_running_loop()
        host, port = self.url.removeprefix("http://").split(":")

        async def one() -> None:
            async with gate:
                began = time.monotonic()
                response = await self.http.post("/sessions", json={})
                self.create_s.append(time.monotonic() - began)
            session_id = response.raise_for_status().json()["session_id"]
            pair = []
            for _ in range(2):
                _, protocol = await loop.create_connection(
                    lambda: Subscriber(host, session_id), host, int(port)
                )
                pair.append(protocol)
            self.ids.append(session_id)
            self.subscribers.append((pair[0], pair[1]))
            tell(f"{len(self.ids)} of {count} sessions are up")

        began = time.monotonic()
        await asyncio.gather(*(one() for _ in range(count)))
        return count / (time.monotonic() - began)

    async def turn(self, prompt: str) -> None:
        """Run a turn in every session at once."""
        self.turns += 1
        began = time.monotonic()
        for one, _ in self.subscribers:
            one.first_word_s = 0.0
        message = {"type": "user_message", "content": prompt}
        await asyncio.gather(
            *(
                self.http.post(f"/sessions/{each}/input", json=message)
                for each in self.ids
            )
        )
        await asyncio.gather(
            *(
                each.until_results(self.turns)
                for pair in self.subscribers
                for each in pair
            )
        )
        self.first_word_s += [one.first_word_s - began for one, _ in self.subscribers]

    async def close(self) -> None:
        """End all sessions and streams."""
        paths = [f"/sessions/{session_id}" for session_id in self.ids]
        await asyncio.gather(*(self.http.delete(path) for path in paths))
        for one, other in self.subscribers:
            one.transport.close()
            other.transport.close()
        await self.http.aclose()

    @property
    def words_s(self) -> list[float]:
        """How long every word took to every subscriber."""
        return [s for pair in self.subscribers for each in pair for s in each.words_s]


def python_share_us() -> tuple[float, float]:
    """Return what one delta costs in the SDK's Python, and in ours, in microseconds."""
    event = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": " 123456789012345"},
    }
    raw = {
        "type": "stream_event",
        "event": event,
        "session_id": "3fda2410-5261-4994-921d-d9550bdf512a",
        "parent_tool_use_id": None,
        "uuid": "618f7e63-b3f3-4063-8c65-843d058c63d2",
    }
    line = json.dumps(raw)
    talk = Conversation("s", DEFAULT_DELTAS, Limits())
    talk.ready()
    talk.receive(START)
    message = parse_message(raw)
    runs = 20_000
    sdk = min(
        timeit.repeat(lambda: parse_message(json.loads(line)), number=runs, repeat=5)
    )
    ours = min(timeit.repeat(lambda: talk.receive(message), number=runs, repeat=5))
    return sdk / runs * 1e6, ours / runs * 1e6
