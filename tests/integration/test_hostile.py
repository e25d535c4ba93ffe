"""Clients that are slow, rude or many: memory is bounded, and nobody else waits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from .client import SessionClient, new_http, new_session
from .server import TOKEN, ServerProcess, running_server, server_env

PATIENCE_S = 20.0


@pytest.fixture
def strict(model_env: dict[str, str], tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that waits for nobody for long."""
    env = server_env(
        model_env,
        AGENT_WEBKIT_BODY_TIMEOUT_S="1",
        AGENT_WEBKIT_KEEPALIVE_S="0.2",
        AGENT_WEBKIT_MAX_BODY_BYTES="100000",
        AGENT_WEBKIT_INPUTS_PER_S="5",
        AGENT_WEBKIT_MAX_STREAMS="50",
    )
    with running_server(env, tmp_path) as server:
        yield server


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        yield connection


def request(method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


async def status_of(connection: socket.socket) -> int:
    """Return the status that the server answers with."""
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE_S):
        head = await loop.sock_recv(connection, 4096)
    return int(head.split()[1])


async def subscribers(session: SessionClient) -> int:
    return int((await session.info())["subscribers"])


async def until_nobody_listens(session: SessionClient) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await subscribers(session):
            pass


async def test_body_that_never_comes_is_given_up(strict: ServerProcess) -> None:
    async with new_http(strict.url) as http:
        session = await new_session(http)
        with connected(strict.url) as slow:
            head = request("POST", f"{session.path}/input", "Content-Length: 100")
            slow.sendall(head + b"{")
            assert (await http.get("/healthz")).status_code == 200
            assert await status_of(slow) == 408


async def test_stalled_body_does_not_keep_a_server_from_ending(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(model_env, AGENT_WEBKIT_BODY_TIMEOUT_S="3600")
    with running_server(env, tmp_path) as server, connected(server.url) as slow:
        slow.sendall(request("POST", "/sessions", "Content-Length: 100") + b"{")
        async with new_http(server.url) as http:
            assert (await http.get("/healthz")).status_code == 200
        os.kill(server.pid, signal.SIGTERM)
        code = await asyncio.to_thread(server.wait_ended, PATIENCE_S)
        # It is cut off, and that is in the log.
        server.lines.clear()

    assert code == 0


@pytest.mark.parametrize(
    "body",
    [b"[" * 99_000, b'{"type":' * 10_000, b"\xff" * 1000, b"\0" * 1000, b'{"a":1e999}'],
    ids=["nested", "nested objects", "no text", "zeros", "infinite"],
)
async def test_absurd_body_is_the_clients_error(
    strict: ServerProcess, body: bytes
) -> None:
    async with new_http(strict.url) as http:
        session = await new_session(http)
        for path in ("/sessions", f"{session.path}/input"):
            answer = await http.post(path, content=body)
            assert answer.status_code == 400
            assert answer.json()["detail"]


async def test_inputs_beyond_the_rate_are_told_when_to_come_back(
    strict: ServerProcess,
) -> None:
    async with new_http(strict.url) as http:
        session = await new_session(http)
        answers = await asyncio.gather(
            *(session.post({"type": "interrupt"}) for _ in range(30))
        )
        late = [answer for answer in answers if answer.status_code == 429]

    assert {a.status_code for a in answers} == {204, 429}
    assert len(late) >= 15
    assert {a.json()["code"] for a in late} == {"too_many_requests"}
    assert all(int(a.headers["retry-after"]) >= 1 for a in late)


async def test_request_behind_a_stream_does_not_hide_that_the_client_left(
    strict: ServerProcess,
) -> None:
    """The server reads no further while it answers, so the end is not seen there."""
    async with new_http(strict.url) as http:
        session = await new_session(http)
        with connected(strict.url) as rude:
            rude.sendall(request("GET", f"{session.path}/stream"))
            rude.sendall(request("GET", "/healthz") * 1000)
            async with asyncio.timeout(PATIENCE_S):
                while not await subscribers(session):
                    pass
        await until_nobody_listens(session)


async def test_streams_are_bounded_and_make_room_again(strict: ServerProcess) -> None:
    async with new_http(strict.url) as http:
        session = await new_session(http)
        with ExitStack() as stack:
            for _ in range(50):
                one = stack.enter_context(connected(strict.url))
                one.sendall(request("GET", f"{session.path}/stream"))
            async with asyncio.timeout(PATIENCE_S):
                while await subscribers(session) < 50:
                    pass
            one_more = await http.get(f"{session.path}/stream")
            assert (one_more.status_code, one_more.json()["code"]) == (
                503,
                "too_many_streams",
            )
        await until_nobody_listens(session)
        async with session.stream() as stream:
            await stream.until("session_ready")


async def test_thousand_idle_connections_delay_nobody(
    server: ServerProcess, http: httpx.AsyncClient, session: SessionClient
) -> None:
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    with ExitStack() as stack:
        for number in range(1000):
            idle = stack.enter_context(connected(server.url))
            idle.sendall(b"GET / HTTP/1.1\r\nX-Slow: " + b"%d" % number)
        async with session.stream() as stream:
            await session.turn(stream, "hello")
        grown = process.memory_info().rss - before

    assert grown < 32 * 2**20


async def test_storm_of_reconnects_gives_each_all_it_missed(
    server: ServerProcess, session: SessionClient
) -> None:
    async with session.stream() as first:
        await session.turn(first, "word " * 100)
        await first.until("session_state", after=2, state="idle")
    missed = [seen for seen in first.events if seen.id > 2]
    async with new_http(server.url) as many:
        storm = SessionClient(many, session.id)

        async def come_back() -> list[str]:
            async with storm.stream(last_event_id=2) as stream:
                last = missed[-1].id
                await stream.until_true(lambda: stream.last_id == last)
                return [json.dumps([s.id, s.event, s.data]) for s in stream.events]

        got = await asyncio.gather(*(come_back() for _ in range(80)))

    expected = [json.dumps([s.id, s.event, s.data]) for s in missed]
    assert all(each == expected for each in got)
    await until_nobody_listens(session)


async def test_client_that_asks_byte_by_byte_is_answered(
    server: ServerProcess, session: SessionClient
) -> None:
    body = b'{"type": "interrupt"}'
    head = request("POST", f"{session.path}/input", f"Content-Length: {len(body)}")
    loop = asyncio.get_running_loop()
    with connected(server.url) as slow:
        slow.setblocking(False)
        for byte in head + body:
            await loop.sock_sendall(slow, bytes([byte]))
        assert await status_of(slow) == 204
