"""The published JavaScript client, unchanged, on Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.readme.blocks import BLOCKS
from webkit_asgi.scripted_model import script

from .server import TOKEN, ServerProcess

PACKAGE = "@agent-webkit/core@0.2"
DRIVER = Path(__file__).parent / "npm" / "drive.mjs"
NODE_S = 120


@pytest.fixture(scope="session")
def package_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the client installed and the driver beside it."""
    if shutil.which("npm") is None:
        message = "Node and npm are needed to test with the published client"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    directory = tmp_path_factory.mktemp("npm")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", PACKAGE],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=NODE_S,
    )
    shutil.copy(DRIVER, directory)
    return directory


@pytest.fixture(scope="module")
def seen(package_dir: Path, server: ServerProcess) -> dict[str, Any]:
    """What the client saw of one session in which everything happens."""
    work = package_dir / "work"
    work.mkdir()
    question = {
        "question": "Red or blue?",
        "header": "Colour",
        "multiSelect": False,
        "options": [
            {"label": "Red", "description": "warm"},
            {"label": "Blue", "description": "cold"},
        ],
    }
    prompts = {
        "plain": script([{"say": "a plain answer"}]),
        "permission": script(
            [{"tool": "Bash", "input": {"command": "touch made"}}],
            [{"say": "made it"}],
        ),
        "question": script(
            [{"tool": "AskUserQuestion", "input": {"questions": [question]}}],
            [{"say": "heard: {tool_results}"}],
        ),
        "long": script([{"say": "word " * 900, "delay_s": 0.05}]),
        "model": script([{"say": "I am {model}"}]),
    }
    done = subprocess.run(
        ["node", DRIVER.name, server.url, TOKEN, str(work), json.dumps(prompts)],
        cwd=package_dir,
        capture_output=True,
        text=True,
        timeout=NODE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (work / "made").exists()
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def named(seen: dict[str, Any], event: str) -> list[dict[str, Any]]:
    return [each["data"] for each in seen["events"] if each["event"] == event]


def test_create_answers_with_the_session_and_the_protocol(seen: dict[str, Any]) -> None:
    assert seen["protocolVersion"] == "1.0"
    assert seen["ready"]["id"] == 1
    assert seen["ready"]["data"]["session_id"] == seen["sessionId"]


def test_stream_has_every_event_once_in_order(seen: dict[str, Any]) -> None:
    ids = [each["id"] for each in seen["events"]]
    assert ids == list(range(1, len(ids) + 1))


def test_deltas_join_to_the_complete_text(seen: dict[str, Any]) -> None:
    first = named(seen, "message_complete")[0]
    text = "".join(
        data["delta"]["text"]
        for data in named(seen, "message_delta")
        if data["message_id"] == first["message_id"]
    )
    assert text == first["message"]["content"][0]["text"] == "a plain answer"


def test_permission_is_approved_once(seen: dict[str, Any]) -> None:
    assert seen["conflict"] == 409
    assert named(seen, "tool_result")[0]["is_error"] is False


def test_question_is_answered(seen: dict[str, Any]) -> None:
    texts = [
        block["text"]
        for data in named(seen, "message_complete")
        for block in data["message"]["content"]
        if block["type"] == "text"
    ]
    assert any("heard:" in text and "Red" in text for text in texts)


def test_interrupt_ends_the_turn(seen: dict[str, Any]) -> None:
    assert seen["interrupted"]["data"]["subtype"] == "error_during_execution"


def test_model_and_mode_are_set(seen: dict[str, Any]) -> None:
    assert named(seen, "result")[-1]["result"] == "I am claude-sonnet-5"


def test_resume_repeats_exactly_what_came_after(seen: dict[str, Any]) -> None:
    start, end = seen["from"], seen["interrupted"]["id"]
    assert seen["resumed"] == seen["events"][start:end]


def test_cursor_from_the_future_is_412(seen: dict[str, Any]) -> None:
    assert seen["tooNew"] == 412


def test_close_ends_other_streams_with_done(seen: dict[str, Any]) -> None:
    assert seen["last"] == "done"


def test_readme_example_prints_the_answer(
    package_dir: Path, server: ServerProcess
) -> None:
    (example,) = (block.code for block in BLOCKS if block.language == "js")
    program = example.replace("http://127.0.0.1:8000", server.url)
    (package_dir / "example.mjs").write_text(f"const token = '{TOKEN}';\n{program}")

    done = subprocess.run(
        ["node", "example.mjs"],
        cwd=package_dir,
        capture_output=True,
        text=True,
        timeout=NODE_S,
        check=True,
    )

    assert done.stdout == "You said: hello"
