"""The README's nginx block, as it stands, in the real nginx before real servers."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.integration.client import (
    Seen,
    SessionClient,
    Stream,
    answer_text,
    new_http,
    new_session,
)
from tests.integration.server import (
    TOKEN,
    ServerProcess,
    running_server,
    server_env,
)
from webkit_asgi import Settings
from webkit_asgi.scripted_model import script
from webkit_core.limits import Deadlines

from .conftest import ADMIN_TOKEN, KEEPALIVE_S
from .nginx import HOSTILE, NAME_A, NAME_B, Nginx, readme_block, running_nginx
from .serving import peers, port_of, serving_at, until_subscribers

READ_TIMEOUT_S = 1.0
SHORT_READ = {"proxy_read_timeout 120s;": f"proxy_read_timeout {READ_TIMEOUT_S:g}s;"}
LIMIT_BYTES = 16 * 1024 * 1024
PAUSE = script([{"say": "first"}, {"pause": 60}])
KEEPALIVE = b": keepalive\n\n"


def frames(stream: Stream) -> bytes:
    """Return what came without the retry line and keepalives, which are no events."""
    return bytes(stream.raw).partition(b"\n\n")[2].replace(KEEPALIVE, b"")


def block_seconds(directive: str) -> float:
    """Return the one time that the block sets with that directive."""
    found = re.findall(rf"^ *{directive} (\d+)s;", readme_block(), re.MULTILINE)
    (value,) = set(found)
    return float(value)


def request_head(
    method: str, path: str, token: str = TOKEN, content_length: int = 0
) -> bytes:
    """Return a request's head with the path as it is spelled."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {NAME_A}\r\nConnection: close\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {content_length}\r\n\r\n"
    ).encode()


@asynccontextmanager
async def connected(
    nginx: Nginx,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to nginx, for requests that no client would make."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(nginx.url))
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def refusal(session: SessionClient, **cursor: Any) -> httpx.Response:
    """Return the answer to a stream's request, which must not be a stream."""
    request = session.http.build_request("GET", f"{session.path}/stream", **cursor)
    response = await session.http.send(request, stream=True)
    try:
        assert response.status_code != 200
        await response.aread()
    finally:
        await response.aclose()
    return response


# --- streams


async def test_first_delta_arrives_while_the_turn_runs(session: SessionClient) -> None:
    async with session.stream() as stream:
        await session.say(PAUSE)
        delta = await stream.until("message_delta")
        assert (await session.info())["state"] == "running"
        await session.interrupt()
        result = await stream.until("result")

    assert delta.data["delta"]["text"] == "first"
    assert result.data["subtype"] == "error_during_execution"


@pytest.mark.parametrize(
    ("changes", "defaults"),
    [({}, HOSTILE), ({"proxy_buffering off;": ""}, "")],
    ids=["by the block", "by the header of the stream alone"],
)
async def test_client_that_never_reads_is_given_up_by_the_server(
    host_a: ServerProcess, tmp_path: Path, changes: dict[str, str], defaults: str
) -> None:
    """An nginx that buffers would take all of it, and the server know nothing."""
    with ExitStack() as stack:
        nginx = stack.enter_context(
            running_nginx(tmp_path, host_a.url, changes=changes, defaults=defaults)
        )
        async with nginx.http() as http:
            session = await new_session(http)
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port_of(nginx.url)))
            connection.sendall(request_head("GET", f"{session.path}/stream"))
            await until_subscribers(session, 1)
            await session.say(script([{"say": "x" * 10_000 + " ", "repeat": 500}]))
            await until_subscribers(session, 0)
            await http.delete(session.path)


async def test_proxied_bytes_are_the_servers_and_resume_is_exact(
    session: SessionClient, host_a: ServerProcess
) -> None:
    async with (
        new_http(host_a.url) as http,
        SessionClient(http, session.id).stream() as direct,
        session.stream() as whole,
    ):
        result = await session.turn(whole, script([{"say": "a few words more"}]))
        last = await whole.until("session_state", after=result.id)
        await direct.until("session_state", after=result.id)

    async def resumed(cursor: int) -> list[Seen]:
        async with session.stream(last_event_id=cursor) as rest:
            if cursor < last.id:
                await rest.until_true(lambda: rest.last_id >= last.id)
            return rest.events

    cursors = [seen.id for seen in whole.events]
    rests = await asyncio.gather(*map(resumed, cursors))
    ahead = await refusal(session, params={"last_event_id": "1000"})

    assert frames(whole) == frames(direct)
    assert cursors == list(range(1, last.id + 1))
    assert rests == [whole.events[cursor:] for cursor in cursors]
    assert (ahead.status_code, ahead.json()["code"]) == (412, "cursor_ahead")


async def test_headers_of_the_stream_arrive_and_those_for_nginx_stay_there(
    session: SessionClient,
) -> None:
    async with session.http.stream(
        "GET", f"{session.path}/stream", headers={"x-subscriber-id": "tab-1"}
    ) as response:
        headers = response.headers

    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-subscriber-id"] == "tab-1"
    assert "x-accel-buffering" not in headers
    assert "content-encoding" not in headers


async def test_quiet_stream_outlives_the_read_timeout_by_its_keepalives(
    host_a: ServerProcess, tmp_path: Path
) -> None:
    with running_nginx(tmp_path, host_a.url, changes=SHORT_READ) as nginx:
        async with nginx.http() as http:
            session = await new_session(http)
            async with session.stream() as stream:
                enough = 2 * READ_TIMEOUT_S / KEEPALIVE_S
                await stream.until_true(lambda: stream.raw.count(KEEPALIVE) >= enough)
                await session.turn(stream, script([{"say": "still here"}]))
            await http.delete(session.path)

    assert answer_text(stream) == "still here"


async def test_quiet_stream_without_keepalives_is_cut(
    host_b: ServerProcess, tmp_path: Path
) -> None:
    """The counter-proof of the test above."""
    with running_nginx(tmp_path, host_b.url, changes=SHORT_READ) as nginx:
        async with new_http(host_b.url) as direct, nginx.http() as http:
            session = await new_session(direct)
            async with http.stream("GET", f"{session.path}/stream") as response:
                with pytest.raises(httpx.RemoteProtocolError):
                    await response.aread()
            await direct.delete(session.path)

    assert "upstream timed out" in nginx.output


async def test_client_that_leaves_is_noticed_by_the_server(
    session: SessionClient,
) -> None:
    async with session.stream(), session.stream():
        await until_subscribers(session, 2)

    await until_subscribers(session, 0)


async def test_streams_beyond_the_limit_are_503_and_other_requests_are_not(
    host_a: ServerProcess, tmp_path: Path
) -> None:
    changes = {"limit_conn webkit_streams 300;": "limit_conn webkit_streams 2;"}
    with running_nginx(tmp_path, host_a.url, changes=changes) as nginx:
        async with nginx.http() as http:
            session = await new_session(http)
            async with session.stream():
                async with session.stream():
                    refused = await refusal(session)
                    await session.info()
                await until_subscribers(session, 1)
                async with session.stream() as admitted:
                    await admitted.until("session_ready")
            await http.delete(session.path)

    assert refused.status_code == 503


# --- requests


async def test_permission_makes_its_round_trip(
    session: SessionClient, tmp_path: Path
) -> None:
    async with session.stream() as stream:
        await session.say(
            script(
                [{"tool": "Bash", "input": {"command": "touch made"}}],
                [{"say": "made it"}],
            )
        )
        request = await stream.until("permission_request")
        await session.answer(request.data["correlation_id"], "allow")
        await stream.until("permission_resolved", outcome="allow")
        await stream.until("result")

    assert (tmp_path / "made").exists()
    assert answer_text(stream) == "made it"


async def test_body_over_the_limit_is_413_and_one_at_it_reaches_the_server(
    session: SessionClient,
) -> None:
    async def post(content: bytes | AsyncIterator[bytes]) -> httpx.Response:
        return await session.http.post(f"{session.path}/input", content=content)

    async def in_chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b"x" * (1024 * 1024)

    longest = await post(b"x" * LIMIT_BYTES)
    too_long = await post(b"x" * (LIMIT_BYTES + 1))
    too_long_in_chunks = await post(in_chunks())

    assert Settings().max_body_bytes == LIMIT_BYTES
    assert (longest.status_code, longest.json()["code"]) == (400, "malformed_json")
    for response in (too_long, too_long_in_chunks):
        assert response.status_code == 413
        assert response.headers["content-type"] == "text/html"  # nginx's own


async def test_body_that_comes_slowly_reaches_the_server_in_one_piece(
    session: SessionClient, nginx: Nginx, host_a: ServerProcess
) -> None:
    """Nobody holds a connection to the server with half a body."""
    body = b'{"type": "interrupt"}'
    head = request_head("POST", f"{session.path}/input", content_length=len(body))
    async with connected(nginx) as (reader, writer):
        writer.write(head + body[:5])
        await writer.drain()
        await session.info()  # what nginx was sent before has been looked at
        busy = peers(host_a)
        writer.write(body[5:])
        answer = await reader.read()

    assert len(busy) == 1
    assert answer.startswith(b"HTTP/1.1 204 ")


async def test_connections_to_the_server_are_used_again(
    nginx: Nginx, host_a: ServerProcess
) -> None:
    async with nginx.http() as http:
        await http.get("/readyz")
        before = peers(host_a)
        for _ in range(5):
            await http.get("/readyz")
        after = peers(host_a)

    assert len(before) == 1
    assert after == before


async def test_server_logs_the_clients_address_whatever_the_client_says(
    nginx: Nginx, host_a: ServerProcess
) -> None:
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    headers = {"host": NAME_A, "x-forwarded-for": "192.0.2.1"}
    async with httpx.AsyncClient(
        transport=transport, base_url=nginx.url, headers=headers
    ) as http:
        response = await http.get("/sessions/seen-from-afar")
        async with asyncio.timeout(30):
            while not any("seen-from-afar" in each for each in host_a.lines):
                await http.get("/readyz")

    (line,) = (each for each in host_a.lines if "seen-from-afar" in each)
    assert response.status_code == 401
    assert "127.0.0.2" in line
    assert "192.0.2.1" not in line


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/sessions/../metrics",
        "/sessions/%2e%2e/metrics",
        "/admin/drain",
        "//admin/drain",
        "/admin/%64rain",
        "/sessions/../admin/drain?wait=0",
        "/healthz",
    ],
)
async def test_paths_for_operators_are_not_reachable(nginx: Nginx, path: str) -> None:
    for method in ("GET", "POST"):
        async with connected(nginx) as (reader, writer):
            writer.write(request_head(method, path, ADMIN_TOKEN))
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"Content-Type: text/html" in answer  # nginx's own


async def test_paths_for_operators_are_there_behind_nginx(
    nginx: Nginx, host_a: ServerProcess
) -> None:
    async with new_http(host_a.url, token=ADMIN_TOKEN) as direct, nginx.http() as http:
        metrics = await direct.get("/metrics")
        drain = await direct.get("/admin/drain")
        ready = await http.get("/readyz")

    assert metrics.status_code == 200
    assert (drain.status_code, drain.headers["allow"]) == (405, "POST")
    assert ready.status_code == 200  # none of the attempts above has drained it


# --- several servers


async def test_sessions_live_at_the_name_they_were_made_at_and_nowhere_else(
    nginx: Nginx, host_a: ServerProcess, host_b: ServerProcess
) -> None:
    async with nginx.http(NAME_A) as http_a, nginx.http(NAME_B) as http_b:
        at_a, at_b = await asyncio.gather(new_session(http_a), new_session(http_b))
        async with at_a.stream() as stream_a, at_b.stream() as stream_b:
            await at_a.turn(stream_a, script([{"say": "I am at a"}]))
            await at_b.turn(stream_b, script([{"say": "I am at b"}]))
        async with at_b.stream(last_event_id=1) as resumed_b:
            await resumed_b.until("result")
        strangers = [await http_b.get(at_a.path), await http_a.get(at_b.path)]
        async with new_http(host_a.url) as direct_a, new_http(host_b.url) as direct_b:
            await SessionClient(direct_a, at_a.id).info()
            await SessionClient(direct_b, at_b.id).info()
        await http_a.delete(at_a.path)
        await http_b.delete(at_b.path)

    assert (answer_text(stream_a), answer_text(stream_b)) == ("I am at a", "I am at b")
    for response in strangers:
        assert response.status_code == 404
        assert response.json()["code"] == "session_not_found"


async def test_name_that_nobody_has_reaches_no_server(nginx: Nginx) -> None:
    async with nginx.http("c.agents.example.com") as http:
        response = await http.get("/sessions")

    assert response.status_code >= 500
    assert response.headers["content-type"] == "text/html"  # nginx's own


# --- servers that fail


async def test_restart_of_the_server_seen_through_nginx(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(model_env)
    with ExitStack() as stack:
        first = stack.enter_context(running_server(env, tmp_path))
        nginx = stack.enter_context(running_nginx(tmp_path, first.url))
        async with nginx.http() as http:
            session = await new_session(http)
            async with session.stream() as stream:
                await session.say(PAUSE)
                await stream.until("message_delta")
                code = await asyncio.to_thread(first.stop)
                await stream.until_end()
            cursor = {"last-event-id": str(stream.last_id)}

            away = [
                await http.get(session.path),
                await http.post("/sessions", json={}),
                await refusal(session, headers=cursor),
            ]

            stack.enter_context(
                serving_at("127.0.0.1", port_of(first.url), env, tmp_path)
            )
            ready = await http.get("/readyz")
            resumed = await refusal(session, headers=cursor)

    assert code == 0
    assert stream.events[-1].event == "done"
    assert [response.status_code for response in away] == [502, 502, 502]
    assert all(response.elapsed.total_seconds() < 1 for response in away)
    assert ready.status_code == 200
    assert resumed.status_code == 404
    assert resumed.json()["code"] == "session_not_found"


async def test_server_that_does_not_answer_the_connect_is_504_in_time(
    tmp_path: Path,
) -> None:
    changes = {"proxy_connect_timeout 2s;": "proxy_connect_timeout 300ms;"}
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # more than wait to be accepted; the rest get no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        nginx = stack.enter_context(running_nginx(tmp_path, url, changes=changes))
        async with nginx.http() as http:
            response = await http.post("/sessions", json={})

    assert response.status_code == 504
    assert response.elapsed.total_seconds() < 2


class Dying:
    """A server that answers GET, and dies of anything else when it has read it."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                self.requests.append(head.split()[0])
                if self.requests[-1] != b"GET":
                    break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_request_that_its_server_died_of_is_not_repeated(
    tmp_path: Path, method: str
) -> None:
    dying = Dying()
    async with dying.serving() as url:
        with running_nginx(tmp_path, url) as nginx:
            async with nginx.http() as http:
                await http.get("/sessions")  # from here on a connection is kept
                response = await http.request(method, "/sessions/x", content=b"{}")

    assert response.status_code == 502
    assert dying.requests == [b"GET", method.encode()]


# --- the block's figures


def test_idle_connections_are_closed_by_nginx_before_the_server_does() -> None:
    server_s = uvicorn.Config("webkit_asgi:app").timeout_keep_alive

    assert block_seconds("keepalive_timeout") < server_s


def test_read_timeout_covers_keepalives_and_the_slowest_start_of_a_session() -> None:
    settings, deadlines = Settings(), Deadlines()
    slowest_start_s = (
        settings.start_queue_s + deadlines.connect_s + deadlines.connect_cancel_s
    )

    assert block_seconds("proxy_read_timeout") >= 3 * settings.keepalive_s
    assert block_seconds("proxy_read_timeout") > slowest_start_s


def test_client_that_takes_nothing_is_given_up_as_the_server_would() -> None:
    assert block_seconds("send_timeout") == Settings().send_timeout_s
