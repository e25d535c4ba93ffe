"""The server as a process: start, misconfiguration, signals, dead agents."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from webkit_asgi.scripted_model import script

from .client import never_reading, new_http, new_session
from .server import TOKEN, ServerProcess, running_server, server_env, start_server

NO_CHILD_S = 10.0


def cli_of(server: ServerProcess) -> psutil.Process:
    (cli,) = server.named("claude")
    return cli


async def test_sigterm_ends_open_streams_within_ten_seconds_and_leaves_no_cli(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    with running_server(server_env(model_env), tmp_path) as server:
        async with new_http(server.url) as http:
            idle, running, waiting = [await new_session(http) for _ in range(3)]
            async with (
                idle.stream() as s1,
                running.stream() as s2,
                waiting.stream() as s3,
            ):
                await s1.until("session_ready")
                await running.say(script([{"say": "word " * 900, "delay_s": 0.05}]))
                await s2.until("message_delta")
                await waiting.say(
                    script([{"tool": "Bash", "input": {"command": "touch made"}}])
                )
                await s3.until("permission_request")
                below = server.descendants()
                assert len(below) >= 3

                began = time.monotonic()
                os.kill(server.pid, signal.SIGTERM)
                for stream in (s1, s2, s3):
                    await stream.until_end()
                await asyncio.to_thread(server.wait_ended, NO_CHILD_S)
                assert time.monotonic() - began < 10

    for stream in (s1, s2, s3):
        assert stream.events[-1].event == "done"
    assert len(s2.named("result")) == 1
    assert s3.named("permission_resolved")[0].data["outcome"] == "cancelled"
    _, alive = psutil.wait_procs(below, timeout=5)
    assert not alive


async def test_cli_killed_in_mid_turn_gives_one_error_and_one_done(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    with running_server(server_env(model_env), tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            async with session.stream() as stream:
                await session.say(script([{"say": "word " * 900, "delay_s": 0.05}]))
                await stream.until("message_delta")
                cli_of(server).kill()
                await stream.until_end()
            info = await session.info()
            late = await session.post({"type": "user_message", "content": "there?"})
            async with session.stream(last_event_id=stream.last_id - 2) as again:
                await again.until_end()

    (error,) = stream.named("error")
    assert error.data["code"] == "agent_exited"
    assert "SIGKILL" in error.data["message"]
    assert stream.events[-1].event == "done"
    assert info["state"] == "failed"
    assert info["error"]["code"] == "agent_exited"
    assert late.status_code == 404
    assert late.json()["code"] == "session_failed"
    assert [seen.event for seen in again.events][-1] == "done"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"AGENT_WEBKIT_AUTH_TOKEN": ""}, "AGENT_WEBKIT_AUTH_TOKEN"),
        ({"AGENT_WEBKIT_KEEPALIVE_S": "soon"}, "AGENT_WEBKIT_KEEPALIVE_S='soon'"),
        ({"AGENT_WEBKIT_MAX_SESSIONS": "0"}, "AGENT_WEBKIT_MAX_SESSIONS='0'"),
        ({"AGENT_WEBKIT_NO_AUTH": "1"}, "AGENT_WEBKIT_NO_AUTH"),
    ],
    ids=["no auth", "no number", "out of range", "contradiction"],
)
def test_bad_configuration_stops_the_start_with_a_line_that_names_it(
    tmp_path: Path, settings: dict[str, str], named: str
) -> None:
    server = start_server(server_env({}, **settings), tmp_path)

    assert server.wait_ended(60) == 3
    assert named in server.output
    assert "Traceback" not in server.output
    assert TOKEN not in server.output


async def test_secrets_reach_the_cli_as_they_should_and_no_log(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    with running_server(server_env(model_env), tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            environ = cli_of(server).environ()
            async with session.stream() as stream:
                await session.turn(stream, "hello")
        output = server.output

    assert environ["ANTHROPIC_API_KEY"] == model_env["ANTHROPIC_API_KEY"]
    assert not [name for name in environ if name.startswith("AGENT_WEBKIT_")]
    assert TOKEN not in output
    assert model_env["ANTHROPIC_API_KEY"] not in output


async def test_idle_session_is_evicted_and_a_stream_keeps_one_warm(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(model_env, AGENT_WEBKIT_IDLE_TIMEOUT_S="1")
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            cold, warm = await new_session(http), await new_session(http)
            async with warm.stream() as stream:
                await stream.until("session_ready")
                async with asyncio.timeout(30):
                    while (await http.get(cold.path)).status_code == 200:
                        pass
                assert (await warm.info())["state"] == "idle"
                live = (await http.get("/healthz")).json()["live_sessions"]

    assert live == 1


async def test_sigterm_does_not_wait_for_a_client_that_never_reads(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(model_env, AGENT_WEBKIT_BUFFER_BYTES=str(1 << 26))
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            with never_reading(server.url, session):
                async with session.stream() as stream:
                    # More than the sockets' buffers take.
                    text = "x" * 10_000 + " "
                    await session.turn(stream, script([{"say": text, "repeat": 500}]))
                os.kill(server.pid, signal.SIGTERM)
                await asyncio.to_thread(server.wait_ended, NO_CHILD_S)


@pytest.mark.parametrize("background", [True, False], ids=["background", "running"])
async def test_delete_ends_what_the_agent_has_started(
    model_env: dict[str, str], tmp_path: Path, background: bool
) -> None:
    """The end of its input alone would leave a command in the background behind."""
    tool = {
        "tool": "Bash",
        "input": {"command": "touch up; sleep 601", "run_in_background": background},
    }
    with running_server(server_env(model_env), tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            async with session.stream() as stream:
                await session.say(script([tool], [{"say": "it runs"}]))
                request = await stream.until("permission_request")
                await session.answer(request.data["correlation_id"], "allow")
                async with asyncio.timeout(30):
                    while not (sleeping := server.named("sleep")):
                        await session.info()
            await http.delete(session.path)

    _, alive = psutil.wait_procs(sleeping, timeout=5)
    assert not alive
