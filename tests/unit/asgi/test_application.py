from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.unit.core.stepping import settle
from webkit_asgi import Application, AuthConfig, Principal, Settings, application
from webkit_asgi.application import FORCE_EXIT_S, LAST_WORDS_S
from webkit_asgi.auth import VERIFIER_TIMEOUT_S
from webkit_asgi.drain import SIGNALS
from webkit_asgi.exchange import Exchange
from webkit_asgi.loop_lag import INTERVAL_S
from webkit_asgi.responses import Response, Unauthorized
from webkit_asgi.routes import ROUTES
from webkit_asgi.stream import RETRY_AFTER_DRAIN_MS, RETRY_MS
from webkit_asgi.types import Message
from webkit_core import sse
from webkit_core.testing import ScriptedFactory

from .driver import PATIENCE_S, TOKEN, Call, Server, serving
from .patient_server import Uvicorn
from .principals import ANN, BOB, TENANTS
from .virtual_time import now_s, run_in_no_time

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


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
@pytest.mark.parametrize("token", [None, "wrong"])
async def test_health_checks_need_no_token(
    server: Server, path: str, token: str | None
) -> None:
    assert (await server.ask("GET", path, token=token)).status == 200


OPERATORS = AuthConfig(token=TOKEN, admin_token="admin", metrics_token="scraper")


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("GET", "/healthz", {None: 200, TOKEN: 200, "admin": 200, "scraper": 200}),
        ("GET", "/readyz", {None: 200, TOKEN: 200, "admin": 200, "scraper": 200}),
        ("GET", "/metrics", {None: 401, TOKEN: 200, "admin": 200, "scraper": 200}),
        ("GET", "/sessions", {None: 401, TOKEN: 200, "admin": 401, "scraper": 401}),
        ("GET", "/none", {None: 401, TOKEN: 404, "admin": 401, "scraper": 401}),
        ("GET", "/admin", {None: 401, TOKEN: 404, "admin": 401, "scraper": 401}),
        ("GET", "/admin/drain", {None: 401, TOKEN: 401, "admin": 405, "scraper": 401}),
    ],
)
async def test_path_is_for_those_of_its_role(
    method: str, path: str, statuses: dict[str | None, int]
) -> None:
    async with serving(auth=OPERATORS) as server:
        for token, status in statuses.items():
            call = await server.ask(method, path, token=token)
            assert (token, call.status) == (token, status)


@pytest.mark.parametrize("root_path", ["", "/api"])
async def test_path_has_its_role_where_it_is_mounted(root_path: str) -> None:
    """What is in front of it does not make it another one."""
    async with serving(auth=OPERATORS) as server:
        for token, status in ((TOKEN, 401), ("admin", 202)):
            call = await server.ask(
                "POST", "/admin/drain", token=token, root_path=root_path
            )
            assert call.status == status


# --- who it is


@pytest.fixture
async def tenants() -> AsyncIterator[Server]:
    """A server of ann's and bob's."""
    async with serving(auth=TENANTS) as server:
        yield server


async def session_of(server: Server, name: str) -> str:
    created = await server.ask("POST", "/sessions", token=name)
    assert created.status == 200
    return created.headers["location"]


async def ids_of(server: Server, name: str) -> list[str]:
    listed = (await server.ask("GET", "/sessions", token=name)).json["sessions"]
    return [item["session_id"] for item in listed]


async def test_session_belongs_to_whoever_made_it(tenants: Server) -> None:
    anns, bobs = [await session_of(tenants, name) for name in (ANN, BOB)]

    assert [config.owner for config in tenants.factory.configs] == [ANN, BOB]
    assert await ids_of(tenants, ANN) == [anns.rpartition("/")[2]]
    assert await ids_of(tenants, BOB) == [bobs.rpartition("/")[2]]
    assert (await tenants.ask("GET", anns, token=ANN)).status == 200


ON_A_SESSION = [
    ("GET", ""),
    ("HEAD", ""),
    ("DELETE", ""),
    ("POST", "/input"),
    ("GET", "/stream"),
    ("HEAD", "/stream"),
]


def test_routes_on_a_session_are_all_that_there_are() -> None:
    """The tests below go through them."""
    prefix = "/sessions/{id}"
    routes = {
        (method, path.removeprefix(prefix))
        for path, methods in ROUTES.items()
        if path.startswith(prefix)
        for method in methods
    }

    assert {row for row in ON_A_SESSION if row[0] != "HEAD"} == routes


async def told(server: Server, name: str, method: str, path: str) -> tuple[int, str]:
    """Return what somebody is told, with the session's id left out."""
    headers = {"idempotency-key": "a-key", "last-event-id": "1"}
    call = await server.ask(method, path, SAY, token=name, headers=headers)
    body = call.body.decode().replace(path.split("/")[2], "ID")
    return call.status, body


@pytest.mark.parametrize(("method", "below"), ON_A_SESSION)
@pytest.mark.parametrize("end", ["lives", "failed", "closed", "idle"])
async def test_session_of_somebody_else_is_not_there_and_never_was(
    tenants: Server, method: str, below: str, end: str
) -> None:
    anns = await session_of(tenants, ANN)
    match end:
        case "failed":
            tenants.agent.end(RuntimeError("it broke"))
            await settle()
        case "closed":
            await tenants.ask("DELETE", anns, token=ANN)
        case "idle":
            tenants.app.registry._idle_timeout_s = 1e-9
            await tenants.app.registry.reap()
    never = f"/sessions/{uuid.uuid4()}"

    bob_sees = await told(tenants, BOB, method, anns + below)

    assert bob_sees == await told(tenants, BOB, method, never + below)
    assert bob_sees[0] == 404
    assert ("session_not_found" in bob_sees[1]) is (method != "HEAD")
    codes = {"closed": "session_closed", "idle": "session_expired"}
    if end in codes and method != "HEAD":
        assert codes[end] in (await told(tenants, ANN, method, anns + below))[1]


@pytest.mark.parametrize(("method", "below"), ON_A_SESSION)
async def test_session_is_as_it_was_when_somebody_else_has_asked_for_it(
    tenants: Server, method: str, below: str
) -> None:
    anns = await session_of(tenants, ANN)
    await settle()
    before = (await tenants.ask("GET", anns, token=ANN)).json

    await told(tenants, BOB, method, anns + below)
    await settle()

    assert (await tenants.ask("GET", anns, token=ANN)).json == before
    assert (tenants.agent.prompts, tenants.agent.calls) == ([], [])


async def test_sessions_made_without_auth_are_everybodys() -> None:
    async with serving(auth=AuthConfig(disabled=True)) as server:
        session = await session_of(server, ANN)

        assert (await server.ask("GET", session, token=BOB)).status == 200
        assert (await server.ask("GET", session, token=None)).status == 200
        assert len(await ids_of(server, BOB)) == 1


async def test_sessions_outlive_the_token_that_made_them() -> None:
    async with serving(auth=AuthConfig(token="old new")) as server:
        session = await session_of(server, "old")

        assert (await server.ask("GET", session, token="new")).status == 200
        assert len(await ids_of(server, "new")) == 1


async def test_session_of_the_embedders_own_is_nobodys() -> None:
    """It is one of the program's that the server is part of."""
    async with serving(auth=TENANTS) as server:
        session = await server.app.registry.create()

        for name in (ANN, BOB):
            assert await ids_of(server, name) == []
            call = await server.ask("GET", f"/sessions/{session.id}", token=name)
            assert call.error == (404, "session_not_found")


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("GET", "/healthz", {None: 200, ANN: 200, "admin": 200, "scraper": 200}),
        ("GET", "/openapi.json", {None: 200, ANN: 200, "admin": 200, "scraper": 200}),
        ("GET", "/metrics", {None: 401, ANN: 401, "admin": 200, "scraper": 200}),
        ("GET", "/sessions", {None: 401, ANN: 200, "admin": 401, "scraper": 401}),
        ("GET", "/none", {None: 401, ANN: 404, "admin": 401, "scraper": 401}),
        ("GET", "/admin/drain", {None: 401, ANN: 401, "admin": 405, "scraper": 401}),
    ],
)
async def test_path_is_for_those_of_its_role_with_a_verifier_too(
    tenants: Server, method: str, path: str, statuses: dict[str | None, int]
) -> None:
    for token, status in statuses.items():
        call = await tenants.ask(method, path, token=token)
        assert (token, call.status) == (token, status)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/metrics"])
async def test_verifier_is_not_asked_where_nobody_has_to_be_somebody(path: str) -> None:
    """A scrape or a health check every second is not one for the identity provider."""
    asked: list[object] = []

    async def verifier(headers: object) -> Principal | None:
        asked.append(headers)
        return None

    async with serving(auth=AuthConfig(verifier=verifier)) as server:
        await server.ask("GET", path)
        assert asked == []
        assert (await server.ask("GET", "/sessions")).status == 401
        assert len(asked) == 1


async def test_verifier_is_given_every_header_by_its_name_in_lower_case() -> None:
    asked: list[Mapping[str, str]] = []

    async def verifier(headers: Mapping[str, str]) -> Principal:
        asked.append(headers)
        return Principal(ANN)

    async with serving(auth=AuthConfig(verifier=verifier)) as server:
        call = server.call("GET", "/sessions", headers={"x-user": "café", "cookie": ""})
        call.scope["headers"] += [(b"x-twice", b"1"), (b"x-twice", b"2")]
        await call.done()

    assert asked == [
        {
            "x-user": "café",
            "cookie": "",
            "authorization": f"Bearer {TOKEN}",
            "x-twice": "1, 2",
        }
    ]


async def test_verifier_that_raises_unauthorized_is_unauthorized() -> None:
    async def verifier(headers: object) -> Principal:
        raise Unauthorized

    async with serving(auth=AuthConfig(verifier=verifier)) as server:
        call = await server.ask("GET", "/sessions")

        assert call.error == (401, "unauthorized")
        assert call.headers["www-authenticate"] == "Bearer"


async def test_bug_of_a_verifier_lets_nobody_in_and_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def verifier(headers: object) -> Principal:
        raise ZeroDivisionError(SECRET)

    async with serving(auth=AuthConfig(verifier=verifier)) as server:
        call = await server.ask("POST", "/sessions")

        assert call.error == (500, "internal_error")
        assert SECRET.encode() not in call.body
        assert server.factory.configs == []
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.getMessage() == "error in POST /sessions"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_verifier_that_does_not_answer_is_unavailable() -> None:
    """For the request that waits for it; others are not held up."""

    async def verifier(headers: Mapping[str, str]) -> Principal | None:
        if headers["authorization"] == f"Bearer {ANN}":
            return Principal(ANN)
        await asyncio.get_running_loop().create_future()
        return None

    async def main() -> None:
        async with serving(auth=AuthConfig(verifier=verifier)) as server:
            waiting = server.call("GET", "/sessions", token=BOB).start()
            waiting.patience_s = 100
            await settle()
            assert (await server.ask("GET", "/sessions", token=ANN)).status == 200

            await waiting.done()

            assert now_s() == pytest.approx(VERIFIER_TIMEOUT_S)
            assert waiting.error == (503, "auth_unavailable")
            assert int(waiting.headers["retry-after"]) > 0

    run_in_no_time(main())


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
async def test_bug_is_counted_among_what_was_refused(server: Server) -> None:
    await server.ask("GET", "/readyz")

    text = (await server.ask("GET", "/metrics")).body.decode()
    assert 'agent_webkit_refusals_total{reason="internal_error"} 1.0' in text


async def test_path_in_the_log_cannot_forge_a_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A path may have anything in it that a client encodes."""

    async def endpoint(server: object, exchange: Exchange) -> Response:
        raise ZeroDivisionError

    monkeypatch.setitem(ROUTES["/sessions/{id}"], "GET", endpoint)

    await server.ask("GET", "/sessions/a\nINFO: all is well")

    (record,) = caplog.records
    assert record.getMessage() == "error in GET /sessions/a%0AINFO%3A%20all%20is%20well"


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


SAY = b'{"type": "user_message", "content": "hello"}'


async def ready(server: Server, session: str) -> Call:
    """Return a stream that has begun."""
    return await server.call("GET", f"{session}/stream").start().heard("session_ready")


async def soon(condition: Callable[[], bool]) -> None:
    """Return when something is so that nobody is told of."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it does not come")


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


@pytest.fixture
def uvicorn() -> Iterator[Uvicorn]:
    """Stands where a server would that waits for us."""
    server = Uvicorn()
    before = {n: signal.signal(n, server.handle_exit) for n in SIGNALS}
    yield server
    for number, previous in before.items():
        signal.signal(number, previous)


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
    assert (await server.ask("GET", "/readyz")).error == (503, "draining")
    await lifespan.step("shutdown")
    assert await lifespan.over()
    assert signal.getsignal(signal.SIGTERM) is handler


async def test_signal_drains_while_the_server_serves_on(
    server: Server, uvicorn: Uvicorn
) -> None:
    async with server.app.lifespan():
        session = await server.session()
        stream = await ready(server, session)

        signal.raise_signal(signal.SIGTERM)
        await settle()

        assert (await server.ask("GET", "/readyz")).error == (503, "draining")
        assert (await server.input(session, SAY)).status == 204
        await server.agent.prompted()
        server.agent.say("as before")
        await stream.heard("result")
        assert uvicorn.flags == (False, False)
        await server.ask("DELETE", session)
        await stream.done()
        await soon(lambda: uvicorn.flags == (True, False))

    assert uvicorn.seen == []


async def test_second_signal_ends_the_streams_and_lets_the_server_go(
    server: Server, uvicorn: Uvicorn
) -> None:
    async with server.app.lifespan():
        stream = await ready(server, await server.session())

        signal.raise_signal(signal.SIGTERM)
        await settle()
        assert not stream.task.done()
        signal.raise_signal(signal.SIGINT)
        await stream.done()

        assert stream.events[-1].type == "done"
        await soon(lambda: uvicorn.flags == (True, False))
        assert server.agent.disconnected


async def test_first_signal_says_what_a_second_does(
    server: Server, uvicorn: Uvicorn, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.app.lifespan():
        await server.session()
        with caplog.at_level(logging.INFO, "webkit_asgi.application"):
            signal.raise_signal(signal.SIGINT)
            await settle()

        assert [record.getMessage() for record in caplog.records] == [
            "draining: no new sessions, 1 live; their end comes in 600 s at most",
            "a second signal ends them now",
        ]


async def test_drain_by_an_operator_does_not_end_the_server(
    server: Server, uvicorn: Uvicorn
) -> None:
    """Who asked for it ends the server when it is done, or takes it back in."""
    async with server.app.lifespan():
        await server.app.drain()
        await settle()

        assert uvicorn.flags == (False, False)


def test_server_that_waits_for_clients_after_the_end_is_asked_to_go(
    uvicorn: Uvicorn,
) -> None:
    async def main() -> None:
        async with serving() as server, server.app.lifespan():
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(LAST_WORDS_S + FORCE_EXIT_S * 0.9)
            assert uvicorn.flags == (True, False)
            await asyncio.sleep(FORCE_EXIT_S * 0.2)
            assert uvicorn.flags == (True, True)

    run_in_no_time(main())


@pytest.mark.usefixtures("uvicorn")
def test_client_that_does_not_take_its_end_does_not_keep_the_server() -> None:
    async def main() -> None:
        async with serving() as server, server.app.lifespan():
            stream = await ready(server, await server.session())
            stream.gate.clear()
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)

            await asyncio.sleep(LAST_WORDS_S * 0.9)
            assert not stream.task.done()
            await asyncio.sleep(LAST_WORDS_S * 0.2)

            await stream.done()
            assert not stream.complete

    run_in_no_time(main())


def test_client_that_does_not_take_its_end_has_its_time_when_the_server_stays() -> None:
    """Nobody waits for it."""

    async def main() -> None:
        async with serving() as server:
            stream = await ready(server, await server.session())
            stream.gate.clear()

            await server.app.stop()
            await asyncio.sleep(LAST_WORDS_S + FORCE_EXIT_S + 1)

            assert not stream.task.done()
            stream.gate.set()
            await stream.done()
            assert stream.complete

    run_in_no_time(main())


def test_server_that_went_is_not_asked_again(uvicorn: Uvicorn) -> None:
    """The process may go on, and start another one."""

    async def main() -> None:
        async with serving() as server:
            async with server.app.lifespan():
                signal.raise_signal(signal.SIGTERM)
                await asyncio.sleep(1)
            await asyncio.sleep(LAST_WORDS_S + FORCE_EXIT_S * 2)

        assert uvicorn.flags == (True, False)
        assert signal.getsignal(signal.SIGTERM) == uvicorn.handle_exit

    run_in_no_time(main())


@pytest.mark.parametrize("argument", [(), (object(),)], ids=["none", "the outer app"])
async def test_lifespan_of_a_program_around_it_starts_and_ends_it(
    server: Server, uvicorn: Uvicorn, argument: tuple[object, ...]
) -> None:
    async with server.app.lifespan(*argument):
        assert signal.getsignal(signal.SIGTERM) != uvicorn.handle_exit
        stream = await ready(server, await server.session())

    await stream.done()
    assert stream.events[-1].type == "done"
    assert server.agent.disconnected
    assert signal.getsignal(signal.SIGTERM) == uvicorn.handle_exit
    assert (await server.ask("POST", "/sessions")).error == (503, "draining")


async def test_lifespan_of_a_program_that_breaks_ends_it_too(server: Server) -> None:
    async def program() -> None:
        async with server.app.lifespan():
            await server.session()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await program()

    assert server.agent.disconnected


async def test_lifespan_that_does_not_start_is_not_entered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "claude_agent_sdk", None)
    app = Application(AuthConfig(token=TOKEN), Settings(), None, None)

    with pytest.raises(ImportError, match="claude_agent_sdk"):
        async with app.lifespan():
            pytest.fail("entered")
    await app.shutdown()


async def test_readyz_says_not_yet_while_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some servers serve before the start-up is complete."""
    app = Application(AuthConfig(token=TOKEN), Settings(), None, None)
    answers: list[tuple[int, str]] = []

    async def import_sdk() -> None:
        answers.append((await Call(app, "GET", "/readyz").done()).error)
        answers.append(((await Call(app, "GET", "/healthz").done()).status, ""))

    monkeypatch.setattr(application, "import_sdk", import_sdk)
    async with app.lifespan():
        assert answers == [(503, "starting"), (200, "")]
        assert not app.starting


def test_loop_lag_is_measured_from_start_to_end() -> None:
    async def main() -> None:
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        async with serving(meter_provider=provider) as server:
            async with server.app.lifespan():
                await asyncio.sleep(INTERVAL_S * 3.5)
            await asyncio.sleep(INTERVAL_S * 3)

        data: Any = reader.get_metrics_data()
        (count,) = [
            metric.data.data_points[0].count
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
            if metric.name == "agent_webkit.loop.lag"
        ]
        assert count == 3

    run_in_no_time(main())


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


async def test_drain_lets_the_sessions_go_on(server: Server) -> None:
    session = await server.session()
    stream = await ready(server, session)

    drained = server.app.drain()
    await settle()

    assert (await server.input(session, SAY)).status == 204
    await server.agent.prompted()
    server.agent.say("as before")
    await stream.heard("result")
    another = await ready(server, session)
    await another.heard("result")
    assert (await server.ask("GET", session)).json["state"] == "idle"
    assert not drained.done()
    for call in (stream, another):
        call.leave()
        await call.done()


async def test_drain_turns_away_what_is_new(server: Server) -> None:
    await server.session()

    server.app.drain()
    await settle()

    created = await server.ask("POST", "/sessions")
    assert created.error == (503, "draining")
    assert int(created.headers["retry-after"]) > 0
    ready = await server.ask("GET", "/readyz")
    assert ready.error == (503, "draining")
    assert int(ready.headers["retry-after"]) > 0
    health = await server.ask("GET", "/healthz")
    assert (health.status, health.json["live_sessions"]) == (200, 1)
    assert len(server.factory.configs) == 1


async def test_drain_is_done_when_the_last_session_is_gone(server: Server) -> None:
    sessions = [await server.session() for _ in range(2)]
    drained = server.app.drain()

    await server.ask("DELETE", sessions[0])
    await settle()
    assert not drained.done()
    await server.ask("DELETE", sessions[1])

    with anyio.fail_after(PATIENCE_S):
        await drained


async def test_drain_without_a_session_is_done_at_once(server: Server) -> None:
    with anyio.fail_after(PATIENCE_S):
        await server.app.drain()


async def test_drain_twice_is_one_drain(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await server.session()
    with caplog.at_level(logging.INFO, "webkit_asgi.application"):
        assert server.app.drain() is server.app.drain()

    assert [record.getMessage() for record in caplog.records] == [
        "draining: no new sessions, 1 live; their end comes in 600 s at most"
    ]


def test_drain_ends_what_is_left_after_its_time() -> None:
    async def main() -> None:
        settings = Settings(drain_timeout_s=100, idle_timeout_s=10_000)
        async with serving(settings) as server:
            stream = await ready(server, await server.session())

            await server.app.drain()

            assert now_s() == pytest.approx(100)
            await stream.done()
            assert stream.events[-1].type == "done"
            assert server.agent.disconnected

    run_in_no_time(main())


async def test_drain_does_not_wait_for_sessions_that_nobody_uses() -> None:
    async with serving(Settings(idle_timeout_s=0.01)) as server:
        await server.session()

        with anyio.fail_after(PATIENCE_S):
            await server.app.drain()

        assert server.agent.disconnected


@pytest.mark.parametrize("hurry", ["stop", "shutdown"])
def test_end_that_is_asked_for_while_it_drains_comes_at_once(hurry: str) -> None:
    async def main() -> None:
        async with serving(Settings(idle_timeout_s=10_000)) as server:
            stream = await ready(server, await server.session())
            drained = server.app.drain()
            await asyncio.sleep(10)
            assert not drained.done()

            await (server.app.stop() if hurry == "stop" else server.app.shutdown())

            assert drained.done()
            assert now_s() == pytest.approx(10)
            await stream.done()
            assert stream.events[-1].type == "done"

    run_in_no_time(main())


async def test_streams_of_a_server_that_ends_say_not_to_come_back_soon(
    server: Server,
) -> None:
    stream = await ready(server, await server.session())
    soon_ms = stream.parsed[0].retry_ms

    server.app.stop()
    await stream.done()

    late_ms = stream.parsed[0].retry_ms
    assert soon_ms is not None
    assert late_ms is not None
    assert RETRY_MS[0] <= soon_ms <= RETRY_MS[1]
    assert RETRY_AFTER_DRAIN_MS[0] <= late_ms <= RETRY_AFTER_DRAIN_MS[1]
    assert stream.bodies[-2] == sse.retry(late_ms)


async def test_stream_of_a_session_that_was_deleted_may_come_back_as_before(
    server: Server,
) -> None:
    session = await server.session()
    stream = await ready(server, session)

    await server.ask("DELETE", session)
    await stream.done()

    assert stream.body.count(b"retry: ") == 1


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
