from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from tests.unit.core.stepping import settle
from webkit_asgi import Application, AuthConfig, Settings
from webkit_asgi.exchange import Exchange
from webkit_asgi.responses import Response
from webkit_asgi.routes import ROUTES
from webkit_asgi.types import Message
from webkit_core.testing import ScriptedFactory

from .driver import PATIENCE_S, TOKEN, Call, Server, serving

SECRET = "a detail that is nobody's business"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """``GET /readyz`` has a bug."""

    async def endpoint(server: object, exchange: Exchange) -> Response:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setitem(ROUTES["/readyz"], "GET", endpoint)


# --- who may come in


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer tök\xffn"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/sessions"),
        ("POST", "/sessions"),
        ("GET", "/sessions/x/stream"),
        ("GET", "/no/such/path"),
        ("OPTIONS", "/sessions"),
        ("GET", "/healthz/"),
    ],
)
async def test_request_without_the_token_is_unauthorized(
    server: Server, method: str, path: str, authorization: str | None
) -> None:
    """And learns nothing of what there is."""
    headers = {} if authorization is None else {"authorization": authorization}

    call = await server.ask(method, path, b"{", token=None, headers=headers)

    assert call.error == (401, "unauthorized")
    assert call.headers["www-authenticate"] == "Bearer"
    assert call.complete
    assert server.factory.configs == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_request_with_the_token_is_let_in(server: Server, scheme: str) -> None:
    """RFC 9110, 11.1: the scheme's name has no case."""
    call = await server.ask(
        "GET", "/sessions", token=None, headers={"authorization": f"{scheme} {TOKEN}"}
    )

    assert call.status == 200


async def test_request_without_authentication_needs_no_token() -> None:
    app = Application(AuthConfig(disabled=True), Settings(), ScriptedFactory(), None)

    call = await Call(app, "GET", "/sessions", token=None).done()

    assert call.status == 200
    await app.shutdown()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("token", [None, "wrong"])
async def test_health_checks_need_no_token(
    server: Server, path: str, token: str | None
) -> None:
    assert (await server.ask("GET", path, token=token)).status == 200


# --- dispatch


async def test_path_that_is_none_is_not_found(server: Server) -> None:
    call = await server.ask("GET", "/nothing/here")

    assert call.error == (404, "not_found")
    assert "/nothing/here" in call.detail


async def test_method_that_is_none_is_told_those_that_are(server: Server) -> None:
    call = await server.ask("PATCH", "/sessions")

    assert call.error == (405, "method_not_allowed")
    assert call.headers["allow"] == "GET, POST, HEAD"


@pytest.mark.parametrize("path", ["/healthz", "/sessions", "/sessions/none", "/none"])
async def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    get = await server.ask("GET", path)
    head = await server.ask("HEAD", path)

    assert (head.status, head.headers) == (get.status, get.headers)
    assert int(head.headers["content-length"]) == len(get.body) > 0
    assert head.body == b""
    assert head.complete


@pytest.mark.parametrize("root_path", ["", "/api", "/api/v1", "/sessions", "/s"])
async def test_mounted_application_serves_every_path(
    server: Server, root_path: str
) -> None:
    """ASGI: ``path`` begins with ``root_path``."""
    created = await server.ask("POST", "/sessions", root_path=root_path)
    location = created.headers["location"]
    assert location == f"{root_path}/sessions/{created.json['session_id']}"

    path = location.removeprefix(root_path)
    shown = await server.ask("GET", path, root_path=root_path)
    assert shown.json["session_id"] == created.json["session_id"]
    health = await server.ask("GET", "/healthz", root_path=root_path, token=None)
    assert health.status == 200
    none = await server.ask("GET", "/none", root_path=root_path)
    assert none.error == (404, "not_found")


@pytest.mark.parametrize("root_path", ["/api", "/s"])
async def test_mounted_application_takes_a_path_without_its_prefix(
    server: Server, root_path: str
) -> None:
    """Some servers set ``root_path`` alone; it is a prefix by whole segments."""
    call = server.call("GET", "/sessions")
    call.scope["root_path"] = root_path

    assert (await call.done()).status == 200


async def test_scope_without_a_root_path_is_served(server: Server) -> None:
    """ASGI lets a server leave it out."""
    call = server.call("GET", "/sessions")
    del call.scope["root_path"], call.scope["query_string"]

    assert (await call.done()).status == 200


async def test_websocket_is_closed_before_it_opens(server: Server) -> None:
    sent: list[Message] = []
    inbox = iter([{"type": "websocket.connect"}])

    async def receive() -> Message:
        return next(inbox)

    async def send(message: Message) -> None:
        assert next(inbox, None) is None, "answered before it was asked"
        sent.append(message)

    await server.app({"type": "websocket", "path": "/sessions"}, receive, send)

    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_scope_of_an_unknown_type_is_refused(server: Server) -> None:
    """ASGI: "raise an exception if it does not understand the scope's type"."""
    call = server.call("GET", "/")
    call.scope["type"] = "carrier pigeon"

    with pytest.raises(ValueError, match="carrier pigeon"):
        await call.done()
    assert call.sent == []


# --- the error boundary


@pytest.mark.usefixtures("broken")
async def test_bug_is_told_to_the_log_and_to_nobody_else(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    call = await server.ask("GET", "/readyz")

    assert call.error == (500, "internal_error")
    assert call.complete
    assert SECRET.encode() not in call.body
    assert b"ZeroDivision" not in call.body
    (record,) = caplog.records
    assert record.getMessage() == "error in GET /readyz"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.usefixtures("broken")
async def test_bug_that_head_meets_has_no_body(server: Server) -> None:
    call = await server.ask("HEAD", "/readyz")

    assert call.status == 500
    assert call.body == b""


@pytest.mark.usefixtures("broken")
async def test_bug_leaves_the_server_at_work(server: Server) -> None:
    await server.ask("GET", "/readyz")

    assert (await server.ask("GET", "/healthz")).status == 200


async def test_answer_that_has_begun_is_not_begun_again(server: Server) -> None:
    """``send`` of ASGI 2.4 raises when the client is gone; the server knows."""
    session = await server.session()
    call = server.call("GET", f"{session}/stream")

    async def send(message: Message) -> None:
        await call._send(message)
        if len(call.sent) == 2:
            raise OSError("connection lost")

    with contextlib.suppress(OSError):
        await server.app(call.scope, call._receive, send)

    assert len(call.sent) == 2
    assert call.status == 200
    assert (await server.ask("GET", session)).json["subscribers"] == 0


async def test_agents_text_that_was_cut_in_a_character_is_answered(
    server: Server,
) -> None:
    """JSON of a cut string holds half a surrogate pair, which is nothing in UTF-8."""
    server.factory.error = RuntimeError("cut: \ud83d")

    call = await server.ask("POST", "/sessions")

    assert call.error == (503, "agent_start_failed")
    assert call.detail == "cut: �"


async def test_session_that_failed_oddly_does_not_hide_the_others(
    server: Server,
) -> None:
    odd = await server.session()
    fine = await server.session()
    server.factory.agents[0].end(RuntimeError("cut: \ud83d"))
    stream = await server.ask("GET", f"{odd}/stream")
    assert stream.events[-1].type == "done"

    call = await server.ask("GET", "/sessions")

    assert call.status == 200
    ids = {session["session_id"] for session in call.json["sessions"]}
    assert {path.rpartition("/")[2] for path in (odd, fine)} <= ids


async def test_client_that_leaves_in_mid_body_is_not_answered(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    call = server.call("POST", "/sessions", [])
    call.feed(b'{"model":')
    call.leave()

    await call.done()

    assert call.sent == []
    assert server.factory.configs == []
    assert caplog.records == []


async def test_cancellation_of_a_request_is_raised_again(server: Server) -> None:
    call = server.call("POST", "/sessions", []).start()
    await asyncio.sleep(0)

    call.task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call.done()
    assert call.sent == []


# --- life


class Lifespan:
    """A server's side of the lifespan, step by step."""

    def __init__(self, app: Application) -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._task = asyncio.ensure_future(
            app({"type": "lifespan"}, self._inbox.get, self.sent.put)
        )

    async def step(self, name: str) -> Message:
        self._inbox.put_nowait({"type": f"lifespan.{name}"})
        with anyio.fail_after(PATIENCE_S):
            return await self.sent.get()

    async def over(self) -> bool:
        with anyio.fail_after(PATIENCE_S):
            await self._task
        return self.sent.empty()


class Handler:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, number: int, frame: object) -> None:
        self.seen.append(number)


@pytest.fixture
def handler() -> Iterator[Handler]:
    """Stands where a server's handler of SIGTERM would."""
    handler = Handler()
    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


async def test_lifespan_starts_and_ends_the_application(server: Server) -> None:
    lifespan = Lifespan(server.app)
    assert await lifespan.step("startup") == {"type": "lifespan.startup.complete"}
    session = await server.session()
    stream = (
        await server.call("GET", f"{session}/stream").start().heard("session_ready")
    )

    assert await lifespan.step("shutdown") == {"type": "lifespan.shutdown.complete"}

    assert await lifespan.over()
    await stream.done()
    assert stream.events[-1].type == "done"
    assert stream.complete
    assert server.agent.disconnected
    assert server.app.registry.live_count() == 0


async def test_lifespan_closes_idle_sessions_before_any_request_comes() -> None:
    """They may be an embedder's own."""
    async with serving(Settings(idle_timeout_s=0.01)) as server:
        lifespan = Lifespan(server.app)
        await lifespan.step("startup")
        session = await server.app.registry.create()

        with anyio.fail_after(PATIENCE_S):
            await session.wait_ended()

        await lifespan.step("shutdown")
        assert await lifespan.over()


async def test_lifespan_hears_the_signal_before_the_server_waits_for_streams(
    server: Server, handler: Handler
) -> None:
    """A server waits for open connections before it asks for the lifespan's end."""
    lifespan = Lifespan(server.app)
    await lifespan.step("startup")
    session = await server.session()
    stream = (
        await server.call("GET", f"{session}/stream").start().heard("session_ready")
    )

    signal.raise_signal(signal.SIGTERM)
    await stream.done()

    assert stream.events[-1].type == "done"
    assert handler.seen == [signal.SIGTERM]
    assert server.app.stopping
    await lifespan.step("shutdown")
    assert await lifespan.over()
    assert signal.getsignal(signal.SIGTERM) is handler


async def test_startup_with_an_agent_of_ones_own_does_not_import_the_sdk(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "claude_agent_sdk", None)

    lifespan = Lifespan(server.app)

    assert (await lifespan.step("startup"))["type"] == "lifespan.startup.complete"
    await lifespan.step("shutdown")
    assert await lifespan.over()


async def test_startup_without_the_sdk_fails_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "claude_agent_sdk", None)
    lifespan = Lifespan(Application(AuthConfig(token=TOKEN), Settings(), None, None))

    answer = await lifespan.step("startup")

    assert answer["type"] == "lifespan.startup.failed"
    assert "claude_agent_sdk" in answer["message"]
    assert await lifespan.over()


async def test_stop_turns_away_what_is_new(server: Server) -> None:
    """Each answer says when to come again."""
    server.app.stop()

    for method, path in (("GET", "/readyz"), ("POST", "/sessions")):
        call = await server.ask(method, path)
        assert call.error == (503, "draining")
        assert int(call.headers["retry-after"]) > 0
    assert (await server.ask("GET", "/healthz")).status == 200
    assert server.factory.configs == []


async def test_stop_ends_every_stream_though_nobody_waits_for_it(
    server: Server,
) -> None:
    sessions = [await server.session() for _ in range(3)]
    streams = [
        await server.call("GET", f"{session}/stream").start().heard("session_ready")
        for session in sessions
    ]

    server.app.stop()
    server.app.stop()

    for stream in streams:
        await stream.done()
        assert [event.type for event in stream.events].count("done") == 1
        assert stream.complete


async def test_stop_while_a_session_starts_ends_it_too(server: Server) -> None:
    server.factory.gate = asyncio.Event()
    creating = server.call("POST", "/sessions").start()
    await settle()
    assert len(server.factory.configs) == 1

    server.app.stop()
    await creating.done()

    assert creating.error[0] == 503
    assert "retry-after" in creating.headers
    assert server.factory.agents == []


async def test_shutdown_returns_when_every_agent_is_gone(server: Server) -> None:
    for _ in range(3):
        await server.session()

    await server.app.shutdown()

    assert [agent.disconnected for agent in server.factory.agents] == [True] * 3
    assert list(server.app.registry) == []
    await server.app.shutdown()


async def test_shutdown_waits_for_an_end_that_was_begun(server: Server) -> None:
    await server.session()

    server.app.stop()
    await server.app.shutdown()

    assert server.agent.disconnected


async def test_application_without_a_lifespan_closes_idle_sessions() -> None:
    """Mounted in another one, it gets no lifespan: the first request starts it."""
    async with serving(Settings(idle_timeout_s=0.01)) as server:
        session = await server.session()
        registered = server.app.registry.get(session.rpartition("/")[2])

        with anyio.fail_after(PATIENCE_S):
            await registered.wait_ended()

        assert server.agent.disconnected


async def test_settings_reach_the_sessions() -> None:
    settings = Settings(
        buffer_events=2, buffer_bytes=100_000, queued_messages=1, max_sessions=1
    )
    async with serving(settings) as server:
        session = await server.session()
        server.agent.say("one two three four five")
        stream = await server.call("GET", f"{session}/stream").start().heard("result")
        stream.leave()
        await stream.done()

        shown: dict[str, Any] = (await server.ask("GET", session)).json
        assert shown["last_event_id"] - shown["oldest_event_id"] + 1 == 2
        full = await server.ask("POST", "/sessions")
        assert full.error == (503, "at_capacity")
