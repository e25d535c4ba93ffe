"""A peer that vanishes without a word: no end of its connection ever arrives.

What is sent to it, a keepalive now and then, fits the kernel's buffers, so that nothing
ever blocks: only the kernel can know.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.client import WAIT_S, SessionClient, new_http, new_session
from tests.integration.server import TOKEN, ServerProcess, server_env

from .namespace import Wire, laid_wire
from .serving import peers, port_of, serving_at, until_subscribers

LISTEN = Path(__file__).parent / "listen.py"
SEND_TIMEOUT_S = 3
NOTICED_S = 3 * SEND_TIMEOUT_S


@pytest.fixture
def wire() -> Iterator[Wire]:
    with laid_wire() as laid:
        yield laid


@asynccontextmanager
async def listener(
    wire: Wire, server: ServerProcess, session: SessionClient
) -> AsyncIterator[Process]:
    """Listen to the session from the other end of the wire."""
    where = (wire.address, str(port_of(server.url)), f"{session.path}/stream", TOKEN)
    inside = ("ip", "netns", "exec", wire.namespace)
    process = await asyncio.create_subprocess_exec(
        *inside, sys.executable, str(LISTEN), *where, stdout=PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def until_quiet(process: Process) -> None:
    """Wait until the listener has heard all there is, and then a keepalive."""
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        await process.stdout.readuntil(b"session_ready")
        await process.stdout.readuntil(b": keepalive\n\n")


async def test_peer_that_vanishes_is_noticed_although_nothing_ever_blocks(
    model_env: dict[str, str], tmp_path: Path, wire: Wire
) -> None:
    def serving(send_timeout_s: float) -> ServerProcess:
        env = server_env(
            model_env,
            AGENT_WEBKIT_KEEPALIVE_S="1",
            AGENT_WEBKIT_SEND_TIMEOUT_S=str(send_timeout_s),
        )
        return servers.enter_context(serving_at(wire.address, 0, env, tmp_path))

    with ExitStack() as servers:
        watchful, patient = await asyncio.gather(
            asyncio.to_thread(serving, SEND_TIMEOUT_S), asyncio.to_thread(serving, 3600)
        )
        async with new_http(watchful.url) as http_1, new_http(patient.url) as http_2:
            watched, counter = await asyncio.gather(
                new_session(http_1), new_session(http_2)
            )
            async with (
                listener(wire, watchful, watched) as lost,
                listener(wire, patient, counter) as kept,
            ):
                await asyncio.gather(until_quiet(lost), until_quiet(kept))
                wire.cut()
                cut_at = time.monotonic()
                async with asyncio.timeout(WAIT_S):
                    await until_subscribers(watched, 0)
                noticed_s = time.monotonic() - cut_at
                connected = peers(watchful)
                still = (await counter.info())["subscribers"]
                untold = [lost.returncode, kept.returncode]

    assert 1 < noticed_s < NOTICED_S
    assert len(connected) == 1  # ours, that asks: the other socket is gone
    assert still == 1  # the counter-proof: no end has arrived there, either
    assert untold == [None, None]
    assert "WARNING" not in watchful.output  # no send was given up
