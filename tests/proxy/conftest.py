"""Two real servers, and the real nginx in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.client import SessionClient, new_session
from tests.integration.conftest import anyio_backend, model_env
from tests.integration.server import ServerProcess, running_server, server_env

from .nginx import Nginx, running_nginx

__all__ = ("anyio_backend", "model_env")

KEEPALIVE_S = 0.2
ADMIN_TOKEN = "an-admin-token-for-tests"


@pytest.fixture(scope="session")
def host_a(
    model_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server whose keepalives are many, and whose patience is short."""
    env = server_env(
        model_env,
        AGENT_WEBKIT_KEEPALIVE_S=str(KEEPALIVE_S),
        AGENT_WEBKIT_SEND_TIMEOUT_S="0.5",
        AGENT_WEBKIT_BUFFER_BYTES=str(1 << 26),
        AGENT_WEBKIT_ADMIN_TOKEN=ADMIN_TOKEN,
    )
    with running_server(env, tmp_path_factory.mktemp("a")) as server:
        yield server


@pytest.fixture(scope="session")
def host_b(
    model_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server without keepalives, as far as a test is concerned."""
    env = server_env(model_env, AGENT_WEBKIT_KEEPALIVE_S="3600")
    with running_server(env, tmp_path_factory.mktemp("b")) as server:
        yield server


@pytest.fixture(scope="session")
def nginx(
    host_a: ServerProcess,
    host_b: ServerProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Nginx]:
    """The README's block, its time-outs as they stand."""
    directory = tmp_path_factory.mktemp("nginx")
    with running_nginx(directory, host_a.url, host_b.url) as process:
        yield process


@pytest.fixture
async def session(nginx: Nginx, tmp_path: Path) -> AsyncIterator[SessionClient]:
    """A session on host a, driven through nginx."""
    async with nginx.http() as http:
        client = await new_session(http, cwd=str(tmp_path))
        yield client
        await http.delete(client.path)
