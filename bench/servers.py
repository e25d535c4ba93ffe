"""The two servers that streaming benches load: ours, and the control.

The control is what one writes in an afternoon: every subscriber has an
``asyncio.Queue``, a publisher puts ready-made frames into all of them, one ``send`` per
frame; no log, no resume, no keepalive. Ours is the whole application with agents that
are told what to say, so that each event is translated, encoded, logged and resumable.

Both run in a process of their own on the same uvicorn (uvloop, httptools) and know the
same extra routes: ``POST /publish?sessions=&rate=&seconds=`` publishes that many events
per second to each of the first sessions, evenly spread; ``rate=0`` publishes
``seconds`` events to each as fast as the loop turns; ``GET /memory`` tells the resident
bytes. Each event carries the time it was published at, in nanoseconds.

    python -m bench.servers ours|control
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import uvicorn

from webkit_asgi import Application, AuthConfig, Settings
from webkit_asgi.types import Receive, Scope, Send
from webkit_core import Session, SessionConfig
from webkit_core.testing import (
    ScriptedAgent,
    ScriptedFactory,
    message_start,
    text_delta,
)

from .events import MESSAGE_ID

TICK_S: Final = 0.001

Publish = Callable[[int, int], None]
"""``publish(session number, time in ns)``."""


class Control:
    """See the module."""

    def __init__(self) -> None:
        self.queues: dict[int, set[asyncio.Queue[bytes]]] = {}
        self.last: dict[int, int] = {}

    def sessions(self) -> list[int]:
        return sorted(self.queues)

    def publish(self, session: int, now_ns: int) -> None:
        seq = self.last[session] = self.last.get(session, 0) + 1
        frame = (
            b'id: %d\nevent: message_delta\ndata: {"message_id":"%b",'
            b'"delta":{"type":"text","text":" %d"}}\n\n'
            % (seq, MESSAGE_ID.encode(), now_ns)
        )
        for queue in self.queues[session]:
            queue.put_nowait(frame)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = int(scope["path"].split("/")[2])
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.queues.setdefault(session, set()).add(queue)
        watcher = asyncio.create_task(_left(receive))
        watcher.add_done_callback(lambda _: queue.put_nowait(b""))
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        await send({"type": "http.response.body", "body": b"\n", "more_body": True})
        while frame := await queue.get():
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        self.queues[session].discard(queue)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Ours:
    """The application, with sessions made on demand: ``/sessions/<number>/stream``."""

    def __init__(self) -> None:
        self.factory = ScriptedFactory()
        settings = Settings(max_sessions=100_000)
        self.app = Application(AuthConfig(disabled=True), settings, self.factory, None)
        self.made: dict[int, Session] = {}
        self.delta = text_delta("")

    def sessions(self) -> list[int]:
        return sorted(self.made)

    def publish(self, session: int, now_ns: int) -> None:
        # As the pump does with what the SDK hands it; the SDK's share is not ours, so
        # the message is ready-made too, but for its words.
        self.delta.event["delta"]["text"] = f" {now_ns}"
        self.made[session]._talk.receive(self.delta)

    async def make(self, number: int) -> Session:
        if number not in self.made:
            config = SessionConfig(session_id=str(number))
            session = await self.app.registry.create(config)
            session._talk.receive(message_start(MESSAGE_ID))
            self.made[number] = session
        return self.made[number]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].endswith("/stream"):
            await self.make(int(scope["path"].split("/")[2]))
        await self.app(scope, receive, send)


class Bench:
    """An ASGI application with the benches' routes around one of the two."""

    def __init__(self, kind: str) -> None:
        self.served: Control | Ours = Ours() if kind == "ours" else Control()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        query = dict(parse_qsl(scope["query_string"].decode()))
        match scope["path"]:
            case "/publish":
                answer: Any = await self.publish(
                    **{k: float(v) for k, v in query.items()}
                )
            case "/memory":
                answer = await self.memory(int(query.get("make", 0)))
            case "/agents":
                answer = self.agents(int(query["count"]))
            case "/events":
                answer = self.fill(int(query["count"]))
            case _:
                await self.served(scope, receive, send)
                return
        body = json.dumps(answer).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def publish(self, sessions: float, rate: float, seconds: float) -> int:
        """Publish, and return how many events."""
        chosen = self.served.sessions()[: int(sessions)]
        if rate:
            return await _publish_evenly(self.served.publish, chosen, rate, seconds)
        for _ in range(int(seconds)):
            for session in chosen:
                self.served.publish(session, time.monotonic_ns())
            await asyncio.sleep(0)
        return int(seconds) * len(chosen)

    async def memory(self, make: int) -> int:
        """Make sessions up to that many, and return the resident bytes."""
        if isinstance(self.served, Ours):
            for number in range(make):
                await self.served.make(number)
        gc.collect()
        return resident_bytes()

    def agents(self, count: int) -> int:
        """Make scripted agents that nobody uses, and return the resident bytes."""
        self.kept = [ScriptedAgent() for _ in range(count)]
        return resident_bytes()

    def fill(self, count: int) -> int:
        """Log that many typical events in every session, without anybody listening."""
        assert isinstance(self.served, Ours)
        for session in self.served.made.values():
            for _ in range(count):
                session.log.append(
                    "message_delta",
                    {
                        "message_id": MESSAGE_ID,
                        "delta": {"type": "text", "text": " word"},
                    },
                )
        return count


async def _publish_evenly(
    publish: Publish, sessions: list[int], rate: float, seconds: float
) -> int:
    """Publish ``rate`` events a second to each session, spread over milliseconds."""
    loop = asyncio.get_running_loop()
    ticks = int(seconds / TICK_S)
    every = int(1 / (rate * TICK_S))
    began = loop.time()
    count = 0
    for tick in range(ticks):
        wait_s = began + tick * TICK_S - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        elif tick % 4 == 0:
            await asyncio.sleep(0)
        for session in sessions[tick % every :: every]:
            publish(session, time.monotonic_ns())
            count += 1
    return count


def resident_bytes(pid: int | str = "self") -> int:
    """Return the resident set size of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    config = uvicorn.Config(
        Bench(sys.argv[1]),
        port=0,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="info",
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
