"""The same on every server and framework: real CLIs, a real socket.

The tests of a server share its process, and the last one ends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urljoin

import httpx
import pytest

from tests.integration.client import SessionClient, Stream, new_http, new_session
from webkit_asgi.scripted_model import script

from .examples import FASTAPI, GRANIAN, HYPERCORN, STARLETTE, UVICORN, name_of
from .running import Serving, assert_gone, until_ended, until_unready

NOTICED_S = 10.0
"""Less than the time to the first keepalive, which a leaver would fail to take."""

ENDLESS = script([{"say": "word " * 900, "delay_s": 0.05}])


@asynccontextmanager
async def from_now(session: SessionClient) -> AsyncIterator[Stream]:
    """Subscribe to what comes after all that other tests have made of the session."""
    cursor = (await session.info())["last_event_id"]
    async with session.stream(last_event_id=cursor) as stream:
        yield stream


async def test_health_and_readiness_need_no_token(served: Serving) -> None:
    async with new_http(served.url, token=None) as http:
        health = await http.get("/healthz")
        ready = await http.get("/readyz")

    assert (health.status_code, ready.status_code) == (200, 200)
    assert health.json()["ok"] is True
    assert ready.json() == {"ready": True, "checks": ["agent"]}


async def test_location_of_a_new_session_is_its_path_as_clients_see_it(
    served: Serving, session: SessionClient, created: httpx.Response
) -> None:
    location = created.headers["location"]
    found = await session.http.get(urljoin(served.url, location))

    assert location == f"{served.example.mount}/sessions/{session.id}"
    assert found.json()["session_id"] == session.id


async def test_first_delta_arrives_while_the_turn_still_runs(
    session: SessionClient,
) -> None:
    async with from_now(session) as stream:
        await session.say(ENDLESS)
        await stream.until("message_delta")
        assert (await session.info())["state"] == "running"
        await session.interrupt()
        await stream.until("result")


async def test_permission_is_asked_for_and_the_answer_reaches_the_agent(
    session: SessionClient,
) -> None:
    tool = {"tool": "Bash", "input": {"command": "echo hi | tee made"}}
    async with from_now(session) as stream:
        await session.say(script([tool], [{"say": "It said: {tool_results}"}]))
        request = await stream.until("permission_request")
        assert (await session.info())["state"] == "waiting"
        await session.answer(request.data["correlation_id"], "allow")
        result = await stream.until("result")

    assert stream.named("tool_result")[0].data["output"] == "hi"
    assert result.data["result"] == "It said: hi"


async def test_resume_gives_the_same_events_after_the_cursor(
    session: SessionClient,
) -> None:
    async with from_now(session) as whole:
        result = await session.turn(whole, script([{"say": "a few words to keep"}]))
        await whole.until("session_state", after=result.id)
        recorded = list(whole.events)

    async def resume_after(n: int) -> None:
        async with session.stream(last_event_id=recorded[n].id) as rest:
            await rest.until_true(lambda: rest.last_id >= recorded[-1].id)
            assert rest.events == recorded[n + 1 :]

    await asyncio.gather(*(resume_after(n) for n in range(len(recorded) - 1)))


async def test_interrupt_ends_the_turn_and_the_next_is_normal(
    session: SessionClient,
) -> None:
    async with from_now(session) as stream:
        await session.say(ENDLESS)
        await stream.until("message_delta")
        await session.interrupt()
        stopped = await stream.until("result")
        after = await session.turn(stream, script([{"say": "All well."}]))

    assert stopped.data["terminal_reason"] == "aborted_streaming"
    assert after.data["result"] == "All well."


async def test_client_that_leaves_a_quiet_stream_is_noticed(
    session: SessionClient,
) -> None:
    async def subscribers(count: int) -> None:
        async with asyncio.timeout(NOTICED_S):
            while (await session.info())["subscribers"] != count:
                pass

    async with from_now(session), from_now(session):
        await subscribers(2)
    await subscribers(0)


async def test_resume_of_a_thousand_events_arrives_whole(
    session: SessionClient,
) -> None:
    """The log hands the server a view of its own memory, in one send."""
    async with from_now(session) as live:
        await session.turn(live, script([{"say": "word " * 1200}]))
        recorded = live.events[-1000:]
    async with session.stream(last_event_id=recorded[0].id - 1) as resumed:
        await resumed.until_true(lambda: resumed.last_id >= recorded[-1].id)

    assert resumed.events[:1000] == recorded


async def test_delete_ends_every_stream_with_done(http: httpx.AsyncClient) -> None:
    session = await new_session(http)
    async with session.stream() as one, session.stream() as two:
        await session.say(ENDLESS)
        await one.until("message_delta")
        await two.until("message_delta")
        response = await http.delete(session.path)
        await one.until_end()
        await two.until_end()

    assert response.status_code == 204
    assert one.events == two.events
    assert one.events[-1].event == "done"
    assert (await http.get(session.path)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("PUT", "/sessions", None, 405, "method_not_allowed"),
        ("POST", "{session}/input", b"{", 400, "malformed_json"),
        ("GET", "{session}/stream?last_event_id=1000000", None, 412, "cursor_ahead"),
    ],
    ids=["404", "405", "400", "412"],
)
async def test_errors_are_json(
    session: SessionClient,
    method: str,
    path: str,
    body: bytes | None,
    status: int,
    code: str,
) -> None:
    url = path.format(session=session.path)
    response = await session.http.request(method, url, content=body)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.json()["code"] == code


async def test_wrong_token_is_401_in_json(served: Serving) -> None:
    async with new_http(served.url, token="wrong") as http:
        response = await http.get("/sessions")

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["code"] == "unauthorized"


WAITS = (UVICORN, STARLETTE, FASTAPI)
CANNOT_WAIT = (HYPERCORN, GRANIAN)


@pytest.mark.parametrize("served", WAITS, ids=name_of, indirect=True)
async def test_sigterm_lets_a_turn_end_first_and_a_second_one_ends_all_at_once(
    served: Serving, session: SessionClient
) -> None:
    """Mounted or not: it is the lifespan that begins to listen for signals."""
    tool = {"tool": "Bash", "input": {"command": "touch made"}}
    async with from_now(session) as stream:
        await session.say(script([{"say": "May I?"}, tool], [{"say": "done"}]))
        request = await stream.until("permission_request")
        below = served.process.descendants()
        assert served.process.named("claude")
        os.kill(served.process.pid, signal.SIGTERM)
        await until_unready(session.http)
        refused = await session.http.post("/sessions", json={})
        await session.answer(request.data["correlation_id"], "allow")
        finished = await stream.until("result")
        await session.say(ENDLESS)
        await stream.until("message_delta", after=finished.id)
        os.kill(served.process.pid, signal.SIGTERM)
        await stream.until_end()
        await until_ended(served)

    assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    assert finished.data["result"] == "done"
    stopped = stream.named("result")[1]
    assert stopped.data["subtype"] == "error_during_execution"
    assert stream.events[-1].event == "done"
    assert_gone(below)


@pytest.mark.parametrize("served", CANNOT_WAIT, ids=name_of, indirect=True)
async def test_sigterm_ends_all_at_once_where_the_server_cannot_be_told_to_wait(
    served: Serving, session: SessionClient
) -> None:
    """Both begin to close on the signal; neither has a flag that could come later."""
    async with from_now(session) as stream:
        await session.say(ENDLESS)
        await stream.until("message_delta")
        below = served.process.descendants()
        assert served.process.named("claude")
        os.kill(served.process.pid, signal.SIGTERM)
        await stream.until_end()
        await until_ended(served)

    (stopped,) = stream.named("result")
    assert stopped.data["subtype"] == "error_during_execution"
    assert stream.events[-1].event == "done"
    assert_gone(below)
