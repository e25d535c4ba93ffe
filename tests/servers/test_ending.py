"""Where servers differ in how they end, and what operators do about it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.client import Stream, never_reading, new_http, new_session
from tests.integration.server import server_env
from webkit_asgi.scripted_model import script

from .examples import GRANIAN, HYPERCORN_WORKER, Example, marked, name_of
from .running import Serving, assert_gone, serving, until_ended, until_unready

ADMIN_TOKEN = "a-token-for-operators"
ENDLESS = script([{"say": "word " * 900, "delay_s": 0.05}])
LATER = 5
"""Events that show that the turn goes on: a quarter of a second of them."""


@contextmanager
def started(
    example: Example, model_env: dict[str, str], cwd: Path, **settings: str
) -> Iterator[Serving]:
    env = server_env(model_env, AGENT_WEBKIT_ADMIN_TOKEN=ADMIN_TOKEN, **settings)
    with serving(example, env, cwd) as server:
        yield server


@asynccontextmanager
async def in_mid_turn(http: httpx.AsyncClient) -> AsyncIterator[Stream]:
    """A stream of a new session whose turn runs."""
    session = await new_session(http)
    async with session.stream() as stream:
        await session.say(ENDLESS)
        await stream.until("message_delta")
        yield stream


async def test_hypercorn_tells_its_worker_process_nothing_of_sigterm(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    """The turn streams on as if nothing were, until Hypercorn cuts the connection.

    Its worker polls an event of the parent's and sets no signal handlers
    (``hypercorn.asyncio.run.worker_serve`` with a ``shutdown_trigger``), and the
    lifespan ends after the connections do: that is when our sessions hear of it.
    """
    with started(HYPERCORN_WORKER, model_env, tmp_path) as server:
        async with new_http(server.url) as http, in_mid_turn(http) as stream:
            below = server.process.descendants()
            os.kill(server.process.pid, signal.SIGTERM)
            await stream.until("message_delta", after=stream.last_id + LATER)
        # From Python 3.12 on it would wait for the stream as long as it is open.
        await until_ended(server)

    assert stream.named("done") == []
    assert_gone(below)


@pytest.mark.parametrize("example", [HYPERCORN_WORKER, GRANIAN], ids=name_of)
async def test_admin_drain_ends_every_stream_with_done_before_sigterm(
    example: Example, model_env: dict[str, str], tmp_path: Path
) -> None:
    window = {"AGENT_WEBKIT_DRAIN_TIMEOUT_S": "0.5"}
    with started(example, model_env, tmp_path, **window) as server:
        async with new_http(server.url) as http, in_mid_turn(http) as stream:
            drain = await asyncio.create_subprocess_exec(
                *("bash", "-c", marked("drain")),
                env={
                    **os.environ,
                    "URL": server.url,
                    "AGENT_WEBKIT_ADMIN_TOKEN": ADMIN_TOKEN,
                },
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await until_unready(http)
            await stream.until_end()
            answer, _ = await drain.communicate()
            assert (await http.get("/healthz")).json()["live_sessions"] == 0
            os.kill(server.process.pid, signal.SIGTERM)
            await until_ended(server)

    assert answer == b'{"draining":true,"live_sessions":0}'
    assert len(stream.named("result")) == 1
    assert stream.events[-1].event == "done"


async def test_granian_ends_by_its_kill_timeout_when_a_client_never_reads(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    """It waits for connections, and an application cannot close one there."""
    example = GRANIAN.with_options("granian", "--workers-kill-timeout", "1")
    buffer = {"AGENT_WEBKIT_BUFFER_BYTES": str(1 << 26)}
    with started(example, model_env, tmp_path, **buffer) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            with never_reading(server.url, session):
                async with session.stream() as stream:
                    # More than the sockets' buffers take.
                    text = "x" * 10_000 + " "
                    await session.turn(stream, script([{"say": text, "repeat": 150}]))
                below = server.process.descendants()
                os.kill(server.process.pid, signal.SIGTERM)
                await until_ended(server)

    assert "Killing worker-1" in server.process.output
    assert_gone(below)
