"""The client that loads a streaming server, in a process of its own.

It opens the streams, checks that the numbers of each are contiguous, and takes the time
from publication to arrival of every event. As little Python per chunk as it takes: the
client must not be what is measured.

    python -m bench.load <url> <sessions> <subscribers> [<stalled>]

prints ``ready`` when all streams are open, then one JSON report per line it reads from
its standard input (``report <frames>`` waits for that many frames in all); it ends with
its input. Stalled subscribers open a stream and never read.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time
from functools import partial
from typing import Any, Final, cast
from urllib.parse import urlsplit

import uvloop

FRAME: Final = re.compile(rb'id: (\d+)\nevent: message_delta\ndata: [^\n]* (\d{6,})"')
GIVE_UP_S: Final = 120.0


class Totals:
    """What all streams have seen together."""

    def __init__(self) -> None:
        self.frames = 0
        self.chunks = 0
        self.gaps = 0
        self.evictions = 0
        self.latencies_ns: list[int] = []
        self.last_at_ns = 0
        self.opened = 0
        self.news = asyncio.Event()


class Stream(asyncio.Protocol):
    """One subscriber."""

    def __init__(self, totals: Totals, host: str, path: str) -> None:
        self.totals = totals
        self.request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self.rest = b""
        self.last = 0
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one, but does not say so.
        cast("asyncio.Transport", transport).write(self.request)

    def data_received(self, data: bytes) -> None:
        totals = self.totals
        if not self.open:
            self.open = True
            totals.opened += 1
            totals.news.set()
        if self.rest:
            data = self.rest + data
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self.rest = data
            return
        self.rest = data[end:]
        now = time.monotonic_ns()
        last = self.last
        count = 0
        for seq, at in FRAME.findall(data, 0, end):
            number = int(seq)
            if number != last + 1 and last:
                totals.gaps += 1
            last = number
            totals.latencies_ns.append(now - int(at))
            count += 1
        self.last = last
        totals.frames += count
        totals.chunks += 1
        totals.last_at_ns = now
        if b'"evicted"' in data:
            totals.evictions += 1
        totals.news.set()


async def report(totals: Totals, wanted: int) -> dict[str, Any]:
    """Wait for frames, tell what was seen, and begin to count anew."""
    try:
        async with asyncio.timeout(GIVE_UP_S):
            while totals.frames < wanted:
                totals.news.clear()
                await totals.news.wait()
    except TimeoutError:
        pass
    ordered = sorted(totals.latencies_ns) or [0]
    told = {
        "frames": totals.frames,
        "chunks": totals.chunks,
        "gaps": totals.gaps,
        "evictions": totals.evictions,
        "last_at_ns": totals.last_at_ns,
        "p50_ms": ordered[len(ordered) // 2] / 1e6,
        "p99_ms": ordered[len(ordered) * 99 // 100] / 1e6,
        "max_ms": ordered[-1] / 1e6,
    }
    totals.frames = totals.chunks = totals.gaps = totals.evictions = 0
    totals.latencies_ns.clear()
    return told


async def main(url: str, sessions: int, subscribers: int, stalled: int = 0) -> None:
    loop = asyncio.get_running_loop()
    totals = Totals()
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    keep = []
    for number in range(sessions):
        path = f"/sessions/{number}/stream"
        for _ in range(subscribers):
            make = partial(Stream, totals, host, path)
            keep.append(await loop.create_connection(make, host, port))
            while totals.opened < len(keep):
                totals.news.clear()
                await totals.news.wait()
    never_read = []
    for _ in range(stalled):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((host, port))
        raw.sendall(f"GET /sessions/0/stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        never_read.append(raw)
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        print(json.dumps(await report(totals, int(line.split()[1]))), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], *(int(argument) for argument in sys.argv[2:])))
