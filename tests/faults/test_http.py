"""The same faults as HTTP clients see them, with the server in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.client import (
    SessionClient,
    Stream,
    never_reading,
    new_http,
    new_session,
)
from tests.integration.server import TOKEN, ServerProcess, running_server, server_env

from .sessions import WAIT_S, Steps, install_cli

APP = """
from webkit_asgi import AuthConfig, Settings, create_app
from webkit_core import ClaudeFactory, Deadlines

app = create_app(
    auth=AuthConfig(token={token!r}),
    settings=Settings(max_sessions=20, drain_timeout_s=0, cwd_root="/"),
    sdk_factory=ClaudeFactory(cli_path={cli!r}),
    deadlines=Deadlines(control_s=1.0, interrupt_s=1.0, disconnect_s=1.5),
)
"""


@pytest.fixture
def anyio_backend() -> str:
    """The client's loop; the server has uvloop in its own process."""
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with fake_server(tmp_path_factory.mktemp("server")) as process:
        yield process


@contextmanager
def fake_server(directory: Path) -> Iterator[ServerProcess]:
    cli = str(install_cli(directory))
    (directory / "faulty.py").write_text(APP.format(token=TOKEN, cli=cli))
    env = server_env({})
    env["PYTHONPATH"] += os.pathsep + str(directory)
    with running_server(env, directory, app="faulty:app") as server:
        yield server


@pytest.fixture
async def http(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with new_http(server.url) as client:
        yield client


async def say(session: SessionClient, *steps: Sequence[object]) -> None:
    await session.say(json.dumps(steps))


async def assert_answers(session: SessionClient, stream: Stream) -> None:
    result = await session.turn(stream, "the next one")
    assert result.data["subtype"] == "success"


async def assert_ended(
    http: httpx.AsyncClient, session: SessionClient, stream: Stream, code: str
) -> None:
    """The stream ends in one error of that code and one done; then all is 404."""
    await stream.until_end()
    (error,) = stream.named("error")
    assert error.data["code"] == code
    assert len(stream.named("done")) == 1
    assert stream.events[-1].event == "done"
    assert [seen.id for seen in stream.events] == list(range(1, stream.last_id + 1))
    refused = await session.post({"type": "interrupt"})
    assert refused.status_code == 404
    assert refused.json()["code"] == "session_failed"
    assert (await http.delete(session.path)).status_code == 204
    assert (await http.get(session.path)).status_code == 404


async def test_cli_that_dies_during_init_is_503_with_the_reason_and_retry_after(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    steps: Steps = [["stderr", "bad key\n"], ["exit", 3]]
    (tmp_path / "FAKE_CLI").write_text(json.dumps({"init": steps}))

    response = await http.post("/sessions", json={"cwd": str(tmp_path)})

    assert response.status_code == 503
    assert response.json()["code"] == "agent_start_failed"
    assert "bad key" in response.json()["detail"]
    assert int(response.headers["retry-after"]) > 0


async def test_sigkill_in_mid_turn_ends_the_stream_and_the_session_is_404(
    http: httpx.AsyncClient,
) -> None:
    session = await new_session(http)
    async with session.stream() as stream:
        await say(session, ["say", "so far"], ["kill"])

        await assert_ended(http, session, stream, "agent_exited")


async def test_client_that_was_away_reads_the_end_of_a_failed_session(
    http: httpx.AsyncClient,
) -> None:
    """What is lost: nothing; the log of a failed session stays for a while."""
    session = await new_session(http)
    async with session.stream() as stream:
        await say(session, ["say", "so far"], ["exit", 1])
        await stream.until_end()

    async with session.stream(last_event_id=1) as late:
        await late.until_end()

    assert late.events == stream.events[1:]
    await http.delete(session.path)


async def test_late_answer_to_a_request_taken_back_is_409(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    session = await new_session(http)
    async with session.stream() as stream:
        shown = ["tool", "t1"], ["ask", "t1"], ["wait_file", str(go)]
        await say(session, *shown, ["take_back", 1], ["result"])
        await stream.until("permission_request")
        go.touch()
        await stream.until("permission_resolved", outcome="cancelled")

        late = await session.post(
            {
                "type": "permission_response",
                "correlation_id": "t1",
                "behavior": "allow",
            }
        )

        assert late.status_code == 409
        assert late.json()["code"] == "already_resolved"
        await assert_answers(session, stream)
    await http.delete(session.path)


@pytest.mark.parametrize(
    ("reaction", "status", "code"),
    [("not that one", 400, "agent_refused"), ("ignore", 503, "agent_timeout")],
)
async def test_permission_mode_refused_is_400_and_not_answered_is_503(
    http: httpx.AsyncClient, reaction: str, status: int, code: str
) -> None:
    session = await new_session(http)
    async with session.stream() as stream:
        await say(session, ["control", "set_permission_mode", reaction], ["result"])
        await stream.until("result")

        answer = await session.post({"type": "set_permission_mode", "mode": "plan"})

        assert answer.status_code == status
        assert answer.json()["code"] == code
        await assert_answers(session, stream)
    await http.delete(session.path)


async def test_flood_of_deltas_is_whole_for_who_reads_while_another_does_not(
    server: ServerProcess, http: httpx.AsyncClient
) -> None:
    session = await new_session(http)
    with never_reading(server.url, session):
        async with session.stream() as stream:
            await say(session, ["flood", 10_000, "x" * 100], ["result"])
            await stream.until("result")

            assert len(stream.named("message_delta")) == 10_000
            await assert_answers(session, stream)
    await http.delete(session.path)


async def test_sigterm_ends_a_server_whose_clis_do_not_want_to_end(
    tmp_path: Path,
) -> None:
    """One idle, one in a turn, one that waits for a permission; all ignore SIGTERM."""
    stubborn = [["ignore", "EOF"], ["ignore", "SIGTERM"], ["spawn"]]
    with fake_server(tmp_path) as server:
        async with new_http(server.url) as http:
            idle, running, waiting = [await new_session(http) for _ in range(3)]
            async with (
                idle.stream() as s1,
                running.stream() as s2,
                waiting.stream() as s3,
            ):
                await say(idle, *stubborn, ["result"])
                await s1.until("result")
                await say(running, *stubborn, ["say", "up"], ["wait"])
                await s2.until("message_complete")
                await say(waiting, *stubborn, ["tool", "t"], ["ask", "t"], ["wait"])
                await s3.until("permission_request")
                below = server.descendants()
                assert len(below) == 6

                os.kill(server.pid, signal.SIGTERM)

                for stream in (s1, s2, s3):
                    await stream.until_end()
                    assert len(stream.named("done")) == 1
        await asyncio.to_thread(server.wait_ended, WAIT_S)

    _, alive = psutil.wait_procs(below, timeout=5)
    assert not alive
