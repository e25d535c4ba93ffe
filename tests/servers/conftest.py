"""One process per server and framework, and one session on each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import httpx
import pytest

from tests.integration.client import WAIT_S, SessionClient, new_http
from tests.integration.conftest import anyio_backend, model_env
from tests.integration.server import TOKEN, server_env

from .examples import EXAMPLES, Example, name_of
from .running import Serving, serving

__all__ = ("anyio_backend", "created", "http", "model_env", "served", "session")

BUFFER_EVENTS = 10_000
"""More than all tests of a server write into their one session."""


@pytest.fixture(scope="session", params=EXAMPLES, ids=name_of)
def served(
    request: pytest.FixtureRequest,
    model_env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Serving]:
    """The server that most tests share."""
    example: Example = request.param
    env = server_env(
        model_env,
        AGENT_WEBKIT_BUFFER_EVENTS=str(BUFFER_EVENTS),
        AGENT_WEBKIT_DRAIN_TIMEOUT_S="600",
    )
    with serving(example, env, tmp_path_factory.mktemp(example.name)) as server:
        yield server


@pytest.fixture(scope="session")
def created(served: Serving) -> Iterator[httpx.Response]:
    """The answer to the creation of the session that most tests share."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=WAIT_S) as http:
        response = http.post("/sessions", json={})
        yield response
        # The server would wait for it, unless a test has ended both.
        with suppress(httpx.TransportError):
            http.delete(f"/sessions/{response.json()['session_id']}")


@pytest.fixture
async def http(served: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with new_http(served.url) as client:
        yield client


@pytest.fixture
def session(http: httpx.AsyncClient, created: httpx.Response) -> SessionClient:
    assert created.status_code == 200, created.text
    return SessionClient(http, created.json()["session_id"])
