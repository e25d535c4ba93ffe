"""Streams: resume, many subscribers, cursors, keepalive, the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import psutil
import pytest

from webkit_asgi.scripted_model import script

from .client import SessionClient, never_reading, new_http, new_session
from .server import running_server, server_env


async def test_two_subscribers_see_the_same_bytes(session: SessionClient) -> None:
    async with session.stream() as one, session.stream() as two:
        await session.turn(one, script([{"say": "the same for everybody"}]))
        await two.until("session_state", after=one.named("result")[0].id)
        await one.until("session_state", after=one.named("result")[0].id)

    def frames(raw: bytearray) -> bytes:
        return bytes(raw).partition(b"\n\n")[2]  # without the jittered retry line

    assert frames(one.raw) == frames(two.raw)
    assert (
        one.response.headers["x-subscriber-id"]
        != two.response.headers["x-subscriber-id"]
    )


async def test_resume_at_every_event_gives_the_rest_without_gap_or_repeat(
    session: SessionClient,
) -> None:
    async with session.stream() as whole:
        await session.say(
            script(
                [
                    {"say": "first a few words"},
                    {"tool": "Bash", "input": {"command": "touch made"}},
                ],
                [{"say": "then a few more"}],
            )
        )
        request = await whole.until("permission_request")
        await session.answer(request.data["correlation_id"], "allow")
        result = await whole.until("result")
        await whole.until("session_state", after=result.id)
        recorded = list(whole.events)

    async def resume_after(cursor: int) -> None:
        async with session.stream(last_event_id=cursor) as rest:
            if cursor < recorded[-1].id:
                await rest.until_true(lambda: rest.last_id >= recorded[-1].id)
            assert rest.events == recorded[cursor:]

    assert len(recorded) > 15
    await asyncio.gather(*(resume_after(seen.id) for seen in recorded))


async def test_resume_in_mid_turn_goes_live_without_a_seam(
    session: SessionClient,
) -> None:
    """Drop the stream again and again while the turn runs; nothing is lost."""
    seen: list[int] = []
    text = " ".join(f"w{n}" for n in range(60))
    await session.say(script([{"say": text, "delay_s": 0.02}]))
    ended = False
    while not ended:
        async with session.stream(last_event_id=seen[-1] if seen else None) as part:
            await part.until_true(lambda: len(part.events) >= 5 or part.named("result"))
            seen += [event.id for event in part.events]
            ended = bool(part.named("result"))

    assert seen == list(range(1, seen[-1] + 1))


async def test_resume_by_query_parameter_and_header_wins_over_it(
    session: SessionClient,
) -> None:
    async with session.stream() as stream:
        await session.turn(stream, "hello")
    url = f"{session.path}/stream"

    async def first_id(query: str, **headers: str) -> bytes:
        async with session.http.stream("GET", url + query, headers=headers) as response:
            data = b""
            async for chunk in response.aiter_raw():
                data += chunk
                if b"event:" in data:
                    break
        return data.partition(b"\n\n")[2].split(b"\n")[0]

    assert await first_id("?last_event_id=3") == b"id: 4"
    assert await first_id("?last_event_id=3", **{"last-event-id": "5"}) == b"id: 6"


async def test_cursor_from_the_future_is_412_with_what_is_held(
    session: SessionClient,
) -> None:
    response = await session.http.get(
        f"{session.path}/stream", headers={"last-event-id": "1000"}
    )

    assert response.status_code == 412
    assert response.json()["code"] == "cursor_ahead"
    assert (response.json()["oldest"], response.json()["last"]) == (1, 1)


async def test_cursor_too_old_is_412_and_no_cursor_starts_at_the_oldest_held(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(model_env, AGENT_WEBKIT_BUFFER_EVENTS="10")
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            async with session.stream() as stream:
                await session.turn(stream, script([{"say": "word " * 50}]))
                await stream.until("session_state", state="idle")
            response = await http.get(
                f"{session.path}/stream", headers={"last-event-id": "2"}
            )
            async with session.stream() as late:
                await late.until("session_state", state="idle")

    assert response.status_code == 412
    assert response.json()["code"] == "evicted"
    last = response.json()["last"]
    assert response.json()["oldest"] == last - 9
    assert [seen.id for seen in late.events] == list(range(last - 9, last + 1))


async def test_quiet_stream_lives_through_keepalives_and_still_delivers(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(model_env, AGENT_WEBKIT_KEEPALIVE_S="0.2")
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            async with session.stream() as stream:
                await stream.until_true(
                    lambda: stream.raw.count(b": keepalive\n\n") >= 3
                )
                await session.turn(stream, script([{"say": "still here"}]))

    assert stream.raw.startswith(b"retry: ")
    assert [seen.id for seen in stream.events] == list(range(1, stream.last_id + 1))


async def test_stream_answers_with_headers_that_keep_proxies_from_buffering(
    session: SessionClient,
) -> None:
    async with session.stream() as stream:
        headers = stream.response.headers

    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in headers


async def test_subscriber_keeps_the_id_it_sends_and_a_bad_one_is_400(
    session: SessionClient,
) -> None:
    url = f"{session.path}/stream"
    async with session.http.stream(
        "GET", url, headers={"x-subscriber-id": "tab-1"}
    ) as response:
        assert response.headers["x-subscriber-id"] == "tab-1"
    bad = await session.http.get(url, headers={"x-subscriber-id": "a b"})

    assert bad.status_code == 400
    assert "X-Subscriber-Id" in bad.json()["detail"]


async def test_delete_ends_every_stream_with_done_and_the_session_is_gone(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    session = await new_session(http, cwd=str(tmp_path))
    async with session.stream() as one, session.stream() as two:
        await session.say(script([{"say": "word " * 400, "delay_s": 0.05}]))
        await one.until("message_delta")
        response = await http.delete(session.path)
        await one.until_end()
        await two.until_end()

    assert response.status_code == 204
    for stream in (one, two):
        assert stream.events[-1].event == "done"
        assert len(stream.named("done")) == 1
        assert len(stream.named("result")) == 1
    for method, path in [
        ("GET", session.path),
        ("GET", f"{session.path}/stream"),
        ("DELETE", session.path),
        ("POST", f"{session.path}/input"),
    ]:
        gone = await http.request(method, path, content=b'{"type":"interrupt"}')
        assert gone.status_code == 404
        assert gone.json()["code"] == "session_closed"


@pytest.mark.parametrize("query", ["", "?last_event_id="], ids=["none", "empty"])
async def test_no_cursor_starts_from_the_beginning(
    session: SessionClient, query: str
) -> None:
    async with session.http.stream("GET", f"{session.path}/stream{query}") as response:
        async for chunk in response.aiter_raw():
            if b"id: 1\n" in chunk:
                break


async def test_client_that_never_reads_is_dropped_and_its_socket_with_it(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(
        model_env,
        AGENT_WEBKIT_SEND_TIMEOUT_S="0.5",
        AGENT_WEBKIT_BUFFER_BYTES=str(1 << 26),
    )
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            with never_reading(server.url, session) as connection:
                text = "x" * 10_000 + " "
                await session.say(script([{"say": text, "repeat": 500}]))
                async with asyncio.timeout(30):
                    while (await session.info())["subscribers"] == 0:
                        pass
                    while (await session.info())["subscribers"] > 0:
                        pass
                ours = connection.getsockname()
                seen = psutil.Process(server.pid).net_connections("tcp")
                assert ours not in [tuple(connection.raddr) for connection in seen]
                healthy = await http.get("/healthz")

    assert healthy.status_code == 200
    assert "completing response" not in server.output
