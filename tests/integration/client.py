"""A client for tests: collects a stream in the background and waits for events."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
from msgspec import Struct

from tests.sse_parser import SseParser

from .server import TOKEN

WAIT_S = 30.0


class Seen(Struct, frozen=True):
    """An event as a client saw it; one without an id has that of the one before."""

    id: int
    event: str
    data: dict[str, Any]


class Stream:
    """One subscriber: what it has received so far."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.events: list[Seen] = []
        self.raw = bytearray()
        self.ended = False
        self._news = asyncio.Event()

    async def read(self) -> None:
        parser = SseParser()
        async for chunk in self.response.aiter_raw():
            self.raw += chunk
            for event in parser.feed(chunk):
                self.events.append(
                    Seen(
                        int(event.last_event_id or 0),
                        event.type,
                        json.loads(event.data),
                    )
                )
            self._news.set()
        self.ended = True
        self._news.set()

    async def until_true(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition`` holds for what has been received."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                assert not self.ended, f"the stream ended: {self.events[-5:]}"
                self._news.clear()
                await self._news.wait()

    async def until(self, event: str, after: int = 0, **matching: Any) -> Seen:
        """Wait for an event of that name, number above ``after``, and those fields."""
        found: list[Seen] = []

        def look() -> bool:
            found[:] = [
                seen
                for seen in self.events
                if seen.event == event
                and seen.id > after
                and all(seen.data.get(k) == v for k, v in matching.items())
            ]
            return bool(found)

        await self.until_true(look)
        return found[0]

    async def until_end(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while not self.ended:
                self._news.clear()
                await self._news.wait()

    def named(self, event: str) -> list[Seen]:
        return [seen for seen in self.events if seen.event == event]

    @property
    def last_id(self) -> int:
        return max((seen.id for seen in self.events), default=0)


class SessionClient:
    """One session, driven over HTTP."""

    def __init__(self, http: httpx.AsyncClient, session_id: str) -> None:
        self.http = http
        self.id = session_id

    @property
    def path(self) -> str:
        return f"/sessions/{self.id}"

    async def post(self, message: Any, **headers: str) -> httpx.Response:
        return await self.http.post(
            f"{self.path}/input",
            json=message,
            headers={k.replace("_", "-"): v for k, v in headers.items()},
        )

    async def send(self, message: Any) -> None:
        response = await self.post(message)
        assert response.status_code == 204, response.text

    async def say(self, content: Any) -> None:
        await self.send({"type": "user_message", "content": content})

    async def interrupt(self) -> None:
        await self.send({"type": "interrupt"})

    async def answer(self, correlation_id: str, behavior: str, **fields: Any) -> None:
        await self.send(
            {
                "type": "permission_response",
                "correlation_id": correlation_id,
                "behavior": behavior,
                **fields,
            }
        )

    async def info(self) -> dict[str, Any]:
        response = await self.http.get(self.path)
        assert response.status_code == 200, response.text
        data: dict[str, Any] = response.json()
        return data

    @asynccontextmanager
    async def stream(self, last_event_id: int | None = None) -> AsyncIterator[Stream]:
        """Subscribe for as long as the block runs."""
        headers = {} if last_event_id is None else {"last-event-id": str(last_event_id)}
        async with self.http.stream(
            "GET", f"{self.path}/stream", headers=headers
        ) as response:
            assert response.status_code == 200, await response.aread()
            stream = Stream(response)
            reader = asyncio.create_task(stream.read())
            try:
                yield stream
            finally:
                reader.cancel()
                await asyncio.wait({reader})

    async def turn(self, stream: Stream, content: Any) -> Seen:
        """Say something and return the turn's result."""
        before = stream.last_id
        await self.say(content)
        return await stream.until("result", after=before)


@contextmanager
def never_reading(url: str, session: SessionClient) -> Iterator[socket.socket]:
    """Open a stream and read nothing of it, with as little buffer as can be had."""
    host, port = url.removeprefix("http://").split(":")
    request = (
        f"GET {session.path}/stream HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: Bearer {TOKEN}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(request.encode())
        yield connection


def new_http(url: str, token: str | None = TOKEN) -> httpx.AsyncClient:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=WAIT_S)


async def new_session(http: httpx.AsyncClient, **body: Any) -> SessionClient:
    response = await http.post("/sessions", json=body)
    assert response.status_code == 200, response.text
    return SessionClient(http, response.json()["session_id"])


def complete_text(stream: Stream, message_id: str) -> str:
    """Return the text of a message by its latest ``message_complete``."""
    latest = [
        seen.data["message"]
        for seen in stream.named("message_complete")
        if seen.data["message_id"] == message_id
    ][-1]
    return "".join(b["text"] for b in latest["content"] if b["type"] == "text")


def delta_text(stream: Stream, message_id: str) -> str:
    """Return the text deltas of a message, joined."""
    return "".join(
        seen.data["delta"]["text"]
        for seen in stream.named("message_delta")
        if seen.data["message_id"] == message_id
        and seen.data["delta"]["type"] == "text"
    )


def message_ended(stream: Stream) -> bool:
    """Whether the last message is whole: its end may come after its permission."""
    latest = stream.named("message_complete")[-1]
    return latest.data["message"]["stop_reason"] is not None


def answer_text(stream: Stream) -> str:
    """Return the text of the latest message."""
    return complete_text(
        stream, stream.named("message_complete")[-1].data["message_id"]
    )
