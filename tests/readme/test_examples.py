"""The README's programs and its tour, run as they are written."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client import SessionClient, new_http, new_session
from tests.integration.server import (
    REPOSITORY,
    ServerProcess,
    running_server,
    server_env,
)
from webkit_asgi.scripted_model import (
    ScriptedModel,
    cli_env,
    script,
    serve_in_thread,
)

from .blocks import BLOCKS, README, python_block

PROGRAM_S = 60
TOUR = [block for block in BLOCKS if block.mark.startswith("tour")]


def test_core_example_prints_a_whole_turn(tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(python_block("core"))
    with serve_in_thread(ScriptedModel()) as base_url:
        env = server_env(cli_env(base_url, tmp_path))
        done = subprocess.run(
            [sys.executable, str(program)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PROGRAM_S,
            check=True,
        )

    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("1 session_ready")
    assert any(line.split()[1] == "result" for line in lines)
    assert lines[-1].split()[1] == "done"


async def test_app_example_serves_with_its_token(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(python_block("app"))
    env = server_env({}, AGENT_WEBKIT_AUTH_TOKEN="")
    env["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(tmp_path)))
    with running_server(env, tmp_path, app="example:app") as server:
        async with new_http(server.url, token="choose-a-secret") as http:
            allowed = await http.get("/sessions")
        async with new_http(server.url) as http:
            refused = await http.get("/sessions")

    assert (allowed.status_code, refused.status_code) == (200, 401)


async def test_checks_example_makes_the_server_say_what_it_checks(
    tmp_path: Path,
) -> None:
    (tmp_path / "example.py").write_text(python_block("checks"))
    env = server_env({})
    env["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(tmp_path)))
    with running_server(env, tmp_path, app="example:app") as server:
        async with new_http(server.url, token=None) as http:
            answer = await http.get("/readyz")

    assert answer.json() == {"ready": True, "checks": ["agent", "database"]}


async def test_verifier_example_keeps_its_users_apart(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "example.py").write_text(python_block("verifier"))
    env = server_env(model_env)
    env["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(tmp_path)))
    with running_server(env, tmp_path, app="example:app") as server:
        async with (
            new_http(server.url, token="of-ann") as ann,
            new_http(server.url, token="of-bob") as bob,
            new_http(server.url, token="of-eve") as eve,
        ):
            session = await new_session(ann)
            seen = [
                (await http.get(session.path)).status_code for http in (ann, bob, eve)
            ]

    assert seen == [200, 404, 401]


async def test_policy_example_allows_denies_and_asks(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "example.py").write_text(python_block("policy"))
    env = server_env(model_env)
    env["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(tmp_path)))
    denied = {"tool": "Bash", "input": {"command": "curl http://127.0.0.1:1"}}
    asked = {"tool": "Bash", "input": {"command": "echo hi > hi"}}
    with running_server(env, tmp_path, app="example:app") as server:
        async with new_http(server.url) as http:
            session = await new_session(http, cwd=str(tmp_path))
            async with session.stream() as stream:
                await session.turn(stream, script([denied], [{"say": "well"}]))
                shown = len(stream.named("permission_request"))
                await session.say(script([asked], [{"say": "done"}]))
                await stream.until("permission_request")

    assert shown == 0
    assert stream.named("notice")[0].data["kind"] == "refused"
    assert stream.named("tool_result")[0].data["is_error"]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[ServerProcess]:
    env = server_env({}, AGENT_WEBKIT_DEMO="1")
    del env["AGENT_WEBKIT_AUTH_TOKEN"]
    with running_server(env, tmp_path) as server:
        yield server


async def bash(code: str, env: dict[str, str]) -> str:
    """Run a piece of the tour as a person would paste it."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", code, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PROGRAM_S):
        output, _ = await process.communicate()
    return output.decode()


async def test_tour_works_as_written(demo: ServerProcess) -> None:
    """Paste what the demo prints, then every block of the tour, in order."""
    greeting = re.findall(r"^  (export .*)$", demo.output, re.MULTILINE)
    # Port 0 was asked for, so the greeting cannot know the port.
    port = demo.url.rsplit(":", 1)[1]
    pasted = "\n".join(greeting).replace("127.0.0.1:0", f"127.0.0.1:{port}")
    set_up = await bash(f"{pasted}\necho $ID; echo $AUTH", {})
    session_id, authorization = set_up.splitlines()
    env = {"URL": demo.url, "AUTH": authorization, "ID": session_id}
    functions = TOUR[0].code.splitlines()[0]

    async with new_http(demo.url, token=authorization.split()[-1]) as http:
        session = SessionClient(http, session_id)
        async with session.stream() as stream:
            for block in TOUR:
                _, _, awaited = block.mark.partition(": ")
                before = stream.last_id
                output = await bash(f"{functions}\n{block.code}", env)
                if awaited == "stream":
                    assert "\n\nid: 6\nevent: message_delta\ndata: {" in output
                elif awaited == "done":
                    await stream.until_end()
                else:
                    assert output == ""
                    await stream.until(awaited or "result", after=before)
                    if awaited == "tool_result":
                        await stream.until("result", after=before)

    assert stream.events[-1].event == "done"
    assert stream.named("tool_result")[0].data["output"] == "hello from the agent"


def test_tour_has_all_its_blocks() -> None:
    assert [block.mark.partition(": ")[2] for block in TOUR] == [
        "",
        "permission_request",
        "tool_result",
        "message_delta",
        "result",
        "stream",
        "done",
    ]


def test_every_way_to_serve_is_run_by_the_tests_of_servers() -> None:
    """Those tests take their commands and programs from here."""
    _, _, section = README.partition("## Other servers and frameworks\n")
    marks = re.findall(r"^<!-- (.*) -->$", section.partition("\n## ")[0], re.MULTILINE)

    assert len(marks) == section.partition("\n## ")[0].count("```") // 2
    assert marks == [
        "serve: granian",
        "python: hypercorn",
        "serve: hypercorn",
        "python: starlette",
        "python: fastapi",
        "serve: mounted",
        "drain",
        "otlp",
    ]
