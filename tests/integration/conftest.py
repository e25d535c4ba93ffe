"""Real servers with real CLIs over the scripted model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from webkit_asgi.scripted_model import ScriptedModel, cli_env, serve_in_thread

from .client import SessionClient, new_http, new_session
from .server import ServerProcess, running_server, server_env


@pytest.fixture
def anyio_backend() -> str:
    """The client's loop; the server has uvloop in its own process."""
    return "asyncio"


@pytest.fixture(scope="session")
def model_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that points a CLI at a scripted model."""
    home = tmp_path_factory.mktemp("home")
    with serve_in_thread(ScriptedModel()) as base_url:
        yield cli_env(base_url, home)


@pytest.fixture(scope="session")
def server(
    model_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The server that most tests share."""
    env = server_env(model_env)
    with running_server(env, tmp_path_factory.mktemp("work")) as process:
        yield process


@pytest.fixture
async def http(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with new_http(server.url) as client:
        yield client


@pytest.fixture
async def session(
    http: httpx.AsyncClient, tmp_path: Path
) -> AsyncIterator[SessionClient]:
    """A session that works in ``tmp_path``."""
    client = await new_session(http, cwd=str(tmp_path))
    yield client
    await http.delete(client.path)
