from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from webkit_asgi import Settings
from webkit_asgi.cors import CORS_VARIABLE, Cors
from webkit_core import ConfigError

from .driver import Call, Server, serving

APP = "https://app.example"
OTHER = "https://evil.example"

ASKS = {"origin": APP, "access-control-request-method": "POST"}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(
        Settings(cors_origins=f"{APP}, http://localhost:3000")
    ) as server:
        yield server


@pytest.fixture
async def open_server() -> AsyncIterator[Server]:
    async with serving(Settings(cors_origins="*")) as server:
        yield server


def of_cors(call: Call) -> dict[str, str]:
    """What of the answer's headers is for browsers."""
    return {
        name: value
        for name, value in call.headers.items()
        if name.startswith("access-control-") or name == "vary"
    }


def named(call: Call, header: str) -> set[str]:
    """The names that a header lists."""
    return set(call.headers[header].split(", "))


# --- off


@pytest.mark.parametrize("origins", ["", " ", ",", " , "])
async def test_without_origins_no_page_may_read_anything(origins: str) -> None:
    async with serving(Settings(cors_origins=origins)) as server:
        for token in ("a-token", None):
            call = await server.ask(
                "GET", "/sessions", token=token, headers={"origin": APP}
            )
            assert of_cors(call) == {}
        preflight = await server.ask("OPTIONS", "/sessions", token=None, headers=ASKS)

        assert preflight.error == (401, "unauthorized")
        assert of_cors(preflight) == {}


def test_cors_is_off_by_default() -> None:
    assert Settings().cors_origins == ""


# --- preflight


@pytest.mark.parametrize(
    "path", ["/sessions", "/sessions/x/stream", "/sessions/x/input", "/healthz"]
)
async def test_preflight_needs_no_token_and_says_what_a_page_may_do(
    server: Server, path: str
) -> None:
    """A browser sends none with it."""
    call = await server.ask("OPTIONS", path, token=None, headers=ASKS)

    assert (call.status, call.body) == (204, b"")
    assert call.complete
    assert call.headers["access-control-allow-origin"] == APP
    assert named(call, "access-control-allow-methods") == {"GET", "POST", "DELETE"}
    assert named(call, "access-control-allow-headers") == {
        "authorization",
        "cache-control",
        "content-type",
        "last-event-id",
        "x-subscriber-id",
    }
    assert int(call.headers["access-control-max-age"]) > 0
    assert call.headers["vary"] == "Origin"


async def test_preflight_of_every_origin_that_is_named_is_answered(
    server: Server,
) -> None:
    headers = {**ASKS, "origin": "http://localhost:3000"}

    call = await server.ask("OPTIONS", "/sessions", token=None, headers=headers)

    assert call.status == 204
    assert call.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.parametrize(
    "origin",
    [
        OTHER,
        "null",
        "",
        "*",
        "https://app.example.evil.example",
        "https://app.example:444",
        "http://app.example",
        "https://APP.example",
    ],
)
async def test_preflight_of_another_origin_is_a_request_without_a_token(
    server: Server, origin: str
) -> None:
    """And no shared cache takes its answer for that of a page that may."""
    headers = {**ASKS, "origin": origin}

    call = await server.ask("OPTIONS", "/sessions", token=None, headers=headers)

    assert call.error == (401, "unauthorized")
    assert of_cors(call) == {"vary": "Origin"}


async def test_options_that_is_no_preflight_is_a_request_like_any_other(
    server: Server,
) -> None:
    headers = {"origin": APP}

    assert (
        await server.ask("OPTIONS", "/sessions", token=None, headers=headers)
    ).error == (401, "unauthorized")
    assert (await server.ask("OPTIONS", "/sessions", headers=headers)).error == (
        405,
        "method_not_allowed",
    )


async def test_other_method_with_a_preflights_header_is_no_preflight(
    server: Server,
) -> None:
    call = await server.ask("GET", "/sessions", token=None, headers=ASKS)

    assert call.error == (401, "unauthorized")


async def test_preflight_without_an_origin_is_none(server: Server) -> None:
    headers = {"access-control-request-method": "POST"}

    call = await server.ask("OPTIONS", "/sessions", token=None, headers=headers)

    assert call.error == (401, "unauthorized")


async def test_preflight_counts_as_no_refusal(server: Server) -> None:
    await server.ask("OPTIONS", "/sessions", token=None, headers=ASKS)

    assert b'reason="unauthorized"' not in (await server.ask("GET", "/metrics")).body


# --- answers


async def test_answer_to_a_page_that_may_says_so(server: Server) -> None:
    """And names the headers that a client of streams needs."""
    call = await server.ask("POST", "/sessions", headers={"origin": APP})

    assert call.status == 200
    assert of_cors(call) == {
        "access-control-allow-origin": APP,
        "access-control-expose-headers": "location, retry-after, x-subscriber-id",
        "vary": "Origin",
    }
    assert "location" in call.headers


@pytest.mark.parametrize("headers", [{}, {"origin": OTHER}, {"origin": "null"}])
async def test_answer_to_any_other_page_says_nothing_but_varies(
    server: Server, headers: dict[str, str]
) -> None:
    call = await server.ask("GET", "/sessions", headers=headers)

    assert call.status == 200
    assert of_cors(call) == {"vary": "Origin"}


@pytest.mark.parametrize("origins", [APP, "*"])
async def test_no_answer_lets_a_page_use_credentials_of_the_browser(
    origins: str,
) -> None:
    async with serving(Settings(cors_origins=origins)) as server:
        for method in ("GET", "OPTIONS"):
            call = await server.ask(method, "/sessions", headers=ASKS)
            assert "access-control-allow-origin" in call.headers
            assert "access-control-allow-credentials" not in call.headers


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/sessions", None, 401),
        ("GET", "/none", "a-token", 404),
        ("GET", "/sessions/none/stream", "a-token", 404),
        ("PATCH", "/sessions", "a-token", 405),
        ("HEAD", "/sessions/none", "a-token", 404),
    ],
)
async def test_error_can_be_read_by_a_page_that_may(
    server: Server, method: str, path: str, token: str | None, status: int
) -> None:
    """Else its script is told of a network that is broken."""
    call = await server.ask(method, path, token=token, headers={"origin": APP})

    assert call.status == status
    assert call.headers["access-control-allow-origin"] == APP


async def test_stream_can_be_read_by_a_page_that_may(server: Server) -> None:
    session = await server.session()
    call = server.call("GET", f"{session}/stream", headers={"origin": APP}).start()
    await call.heard("session_ready")

    assert call.headers["access-control-allow-origin"] == APP
    assert "x-subscriber-id" in named(call, "access-control-expose-headers")
    assert call.headers["vary"] == "Origin"
    assert call.headers["content-type"].startswith("text/event-stream")
    call.leave()
    await call.done()


# --- every page


async def test_star_is_every_page_and_none_in_particular(open_server: Server) -> None:
    for headers in ({}, {"origin": OTHER}, {"origin": "null"}):
        call = await open_server.ask("GET", "/sessions", headers=headers)
        assert call.headers["access-control-allow-origin"] == "*"
        assert "x-subscriber-id" in named(call, "access-control-expose-headers")
        assert "vary" not in call.headers


async def test_star_answers_the_preflight_of_every_page(open_server: Server) -> None:
    headers = {**ASKS, "origin": OTHER}

    call = await open_server.ask("OPTIONS", "/sessions", token=None, headers=headers)

    assert call.status == 204
    assert call.headers["access-control-allow-origin"] == "*"


async def test_star_among_origins_is_every_page() -> None:
    async with serving(Settings(cors_origins=f"{APP},*")) as server:
        call = await server.ask("GET", "/sessions", headers={"origin": OTHER})

        assert call.headers["access-control-allow-origin"] == "*"


# --- what an origin is


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example",
        "http://localhost:3000",
        "http://127.0.0.1:8080",
        "http://[::1]:3000",
        "chrome-extension://abcdefghijklmnop",
        "https://xn--nxasmq6b.example",
    ],
)
async def test_origin_as_browsers_send_them_is_one(origin: str) -> None:
    async with serving(Settings(cors_origins=f" {origin} ,")) as server:
        call = await server.ask("GET", "/sessions", headers={"origin": origin})

        assert call.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    "origin",
    [
        "app.example",
        "https://app.example/",
        "https://app.example/path",
        "https://*.app.example",
        "https://App.example",
        "HTTPS://app.example",
        "https://",
        "https://user@app.example",
        "https://ünïcode.example",
        "https://app.example https://other.example",
        "https://app.example\r\nx-evil: 1",
        "https://app.example\udcff",
        "null",
    ],
)
def test_origin_that_no_browser_sends_is_refused_and_named(origin: str) -> None:
    """It would never match, and its operator would look for the reason elsewhere."""
    with pytest.raises(ConfigError) as caught:
        Cors(f"https://fine.example,{origin}")

    assert str(caught.value).startswith(f"{CORS_VARIABLE}: {origin!r}")
    assert "https://app.example" in str(caught.value)
    assert "fine" not in str(caught.value)


def test_variable_is_that_of_the_setting() -> None:
    found = Settings.from_env({CORS_VARIABLE: APP})

    assert found == Settings(cors_origins=APP)
