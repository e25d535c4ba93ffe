from __future__ import annotations

from typing import Any

import pytest

from webkit_asgi.misconfigured import Misconfigured
from webkit_asgi.types import Message
from webkit_core import ConfigError

from .driver import Call

REASON = "set AGENT_WEBKIT_AUTH_TOKEN"


@pytest.fixture
def app() -> Misconfigured:
    return Misconfigured(ConfigError(REASON))


async def test_misconfigured_refuses_to_start_and_says_why(app: Misconfigured) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)

    assert sent == [{"type": "lifespan.startup.failed", "message": REASON}]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/healthz"), ("POST", "/sessions"), ("PUT", "/")]
)
async def test_misconfigured_is_unavailable_to_everybody(
    app: Misconfigured, method: str, path: str
) -> None:
    """As its docstring has it: 503."""
    call = await Call(app, method, path).done()

    assert call.error == (503, "misconfigured")
    assert call.detail == REASON
    assert call.complete


async def test_misconfigured_answers_head_without_a_body(app: Misconfigured) -> None:
    call = await Call(app, "HEAD", "/healthz").done()

    assert call.body == b""
    assert call.complete


async def test_misconfigured_closes_a_websocket(app: Misconfigured) -> None:
    """A scope that is left without an answer is an error in the server's log."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "websocket", "path": "/", "headers": []}
    await app(scope, receive, send)

    assert [message["type"] for message in sent] == ["websocket.close"]
