"""No process outlives its server, whatever ends that, nor has anything of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.sessions import install_cli
from webkit_asgi.scripted_model import script
from webkit_core.environment import MARK

from .client import new_http, new_session
from .server import TOKEN, ServerProcess, running_server, server_env, start_server

linux_only = pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc")
pytestmark = linux_only

STUBBORN = """
from webkit_asgi import AuthConfig, Settings, create_app
from webkit_core import ClaudeFactory

app = create_app(
    auth=AuthConfig(token={token!r}),
    settings=Settings(drain_timeout_s=0),
    sdk_factory=ClaudeFactory(cli_path={cli!r}, state_dir={state!r}),
)
"""

IGNORES = '{"ready": [["ignore", "EOF"], ["ignore", "SIGTERM"], ["spawn_detached"]]}'

LISTENER = """
import socket

from webkit_asgi import app

listener = socket.create_server(("127.0.0.1", 0))
listener.set_inheritable(True)
print("listening on", listener.getsockname()[1], flush=True)
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory; what still lives of it in the end is killed."""
    path = tmp_path / "state"
    yield path
    for process in marked(path):
        process.kill()


def marked(state: Path) -> list[psutil.Process]:
    """Return what agents of servers with that state directory are, and have started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(f"{state}/"):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            pass
    return found


async def until_marked(state: Path, count: int) -> list[psutil.Process]:
    """Wait for that many; what they are told to do takes them a moment."""
    async with asyncio.timeout(30):
        while len(found := marked(state)) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


def inside(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended; process 1 may take its time to collect them."""
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def kill(server: ServerProcess) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.wait_ended(10)


def stubborn_server(tmp_path: Path, state: Path) -> ServerProcess:
    """Start a server whose agents end neither with their input nor on SIGTERM."""
    text = STUBBORN.format(
        token=TOKEN, cli=str(install_cli(tmp_path)), state=str(state)
    )
    (tmp_path / "stubborn.py").write_text(text)
    (tmp_path / "FAKE_CLI").write_text(IGNORES)
    env = server_env({})
    env["PYTHONPATH"] += os.pathsep + str(tmp_path)
    return start_server(env, tmp_path, "stubborn:app")


async def test_sigkill_of_the_server_ends_every_agent_within_five_seconds(
    model_env: dict[str, str], tmp_path: Path, state: Path
) -> None:
    """One idle, one in the middle of a sentence, one with a command that runs."""
    env = server_env(model_env, AGENT_WEBKIT_STATE_DIR=str(state))
    tool = {"tool": "Bash", "input": {"command": "touch up; sleep 600"}}
    server = start_server(env, tmp_path)
    try:
        server.wait_up()
        async with new_http(server.url) as http:
            idle, busy, running = [await new_session(http) for _ in range(3)]
            async with busy.stream() as s1, running.stream() as s2:
                await busy.say(script([{"say": "word " * 900, "delay_s": 0.05}]))
                await s1.until("message_delta")
                await running.say(script([tool]))
                request = await s2.until("permission_request")
                await running.answer(request.data["correlation_id"], "allow")
                async with asyncio.timeout(30):
                    while not server.named("sleep"):
                        await idle.info()
                left = marked(state)
                assert {"claude", "sleep"} <= {process.name() for process in left}
                kill(server)

        _, alive = await asyncio.to_thread(psutil.wait_procs, left, 5)
        assert not living(alive)
        assert not marked(state)
    finally:
        server.stop()


async def test_what_outlives_a_killed_server_is_killed_when_the_next_one_starts(
    tmp_path: Path, state: Path
) -> None:
    """A server that lives keeps its own, also when it has the same directory."""
    other, dead, third = (stubborn_server(tmp_path, state) for _ in range(3))
    try:
        for server in (other, dead):
            server.wait_up()
        async with new_http(other.url) as http:
            kept = await new_session(http)
            mine = {process.pid for process in await until_marked(state, 2)}
            async with new_http(dead.url) as doomed:
                await new_session(doomed)
            both = await until_marked(state, 4)
            left = [process for process in both if process.pid not in mine]
            kill(dead)
            third.stop()
            assert all(process.is_running() for process in left)
            assert len(inside(state)) == 2

            next_one = stubborn_server(tmp_path, state)
            try:
                next_one.wait_up()
                _, alive = await asyncio.to_thread(psutil.wait_procs, left, 5)
            finally:
                next_one.stop()

            assert not living(alive)
            assert len(inside(state)) == 1
            assert {process.pid for process in marked(state)} == mine
            assert (await kept.info())["state"] == "idle"
            await http.delete(kept.path)
        assert not marked(state)
        assert not inside(state)
    finally:
        for server in (other, dead, third):
            server.stop()


def sockets_of(pid: int) -> set[str]:
    """Return the sockets that a process has open."""
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(path.readlink()))
        except FileNotFoundError:  # closed in the meantime
            pass
    return {link for link in links if link.startswith("socket:")}


async def test_agent_inherits_no_socket_of_the_server(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    """Else the port stays taken for as long as the agent lives."""
    (tmp_path / "listening.py").write_text(LISTENER)
    env = server_env(model_env)
    env["PYTHONPATH"] += os.pathsep + str(tmp_path)
    with running_server(env, tmp_path, "listening:app") as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            (cli,) = server.named("claude")

            assert sockets_of(server.pid)
            assert not sockets_of(server.pid) & sockets_of(cli.pid)
            assert cli.pid == os.getpgid(cli.pid) == os.getsid(cli.pid)
            await http.delete(session.path)


async def test_agent_sees_what_it_needs_and_what_it_is_given_by_name(
    model_env: dict[str, str], tmp_path: Path, state: Path
) -> None:
    env = server_env(
        model_env,
        AGENT_WEBKIT_STATE_DIR=str(state),
        AGENT_WEBKIT_AGENT_ENV="AWS_*, PLAIN",
        AWS_REGION="here",
        PLAIN="also",
        PLAINER="not this",
        DATABASE_URL="secret",
    )
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            (cli,) = server.named("claude")
            seen = cli.environ()
            await http.delete(session.path)

    assert seen["ANTHROPIC_API_KEY"] == model_env["ANTHROPIC_API_KEY"]
    assert (seen["AWS_REGION"], seen["PLAIN"]) == ("here", "also")
    assert not {"PLAINER", "DATABASE_URL"} & seen.keys()
    assert not [name for name in seen if name.startswith("AGENT_WEBKIT_")]


async def test_files_of_an_agent_are_in_its_own_directory_and_go_with_it(
    model_env: dict[str, str], tmp_path: Path, state: Path
) -> None:
    """Two sessions; nothing in the home directory or the shared temporary one."""
    home = tmp_path / "home"
    home.mkdir()
    env = server_env(
        {**model_env, "HOME": str(home)}, AGENT_WEBKIT_STATE_DIR=str(state)
    )
    tool = {"tool": "Bash", "input": {"command": "touch made"}}
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            one, two = [await new_session(http) for _ in range(2)]
            shared = files_of_agents()
            async with one.stream() as stream:
                await one.say(script([tool], [{"say": "done"}]))
                request = await stream.until("permission_request")
                await one.answer(request.data["correlation_id"], "allow")
                await stream.until("result")
                (mine,) = [
                    path
                    for path in inside(state)
                    if list((path / "config").rglob(f"{one.id}.jsonl"))
                ]
                assert inside(mine / "tmp")
                assert not [f for f in files_of_agents() - shared if one.id in f]
            await http.delete(one.path)
            assert not mine.exists()
            assert len(inside(state)) == 1
            await http.delete(two.path)

    assert not inside(state)
    assert not inside(home)


def files_of_agents() -> set[str]:
    """Return what is in the directories that agents share unless told otherwise."""
    shared = Path(f"/tmp/claude-{os.getuid()}")
    return {str(path) for path in shared.rglob("*")}


def test_state_directory_that_others_may_write_to_stops_the_start(
    model_env: dict[str, str], tmp_path: Path, state: Path
) -> None:
    state.mkdir(mode=0o700)
    state.chmod(0o777)
    server = start_server(
        server_env(model_env, AGENT_WEBKIT_STATE_DIR=str(state)), tmp_path
    )

    assert server.wait_ended(60) == 3
    assert "others may write to it" in server.output
    assert "AGENT_WEBKIT_STATE_DIR" in server.output
