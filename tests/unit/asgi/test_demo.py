from __future__ import annotations

import re
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from webkit_asgi.demo import Demo, _url_from
from webkit_core import AgentStartError, SessionConfig


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Demo]:
    """A demo whose directories are below ``tmp_path``."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["uvicorn", "webkit_asgi:app", "--port", "8123"])
    demo = Demo("the-token")
    yield demo
    demo.stop()


async def never(tool_name: str, tool_input: dict[str, Any], context: Any) -> Any:
    raise AssertionError(tool_name)


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ("", "http://127.0.0.1:8000"),
        ("--port 9000", "http://127.0.0.1:9000"),
        ("--port=9000", "http://127.0.0.1:9000"),
        ("--host 10.0.0.1", "http://10.0.0.1:8000"),
        ("--host=example.org --port=1 --workers 2", "http://example.org:1"),
        ("--host 0.0.0.0 --port 80", "http://127.0.0.1:80"),
        ("--reload --port 9000 --factory", "http://127.0.0.1:9000"),
        ("--port", "http://127.0.0.1:8000"),
        ("--header x=y --port 1", "http://127.0.0.1:1"),
        ("--port 1 --port 2", "http://127.0.0.1:2"),
        ("--host ::1", "http://[::1]:8000"),
        ("--host ::", "http://[::1]:8000"),
    ],
)
def test_url_is_what_the_command_line_says(arguments: str, url: str) -> None:
    argv = ["uvicorn", "webkit_asgi:app", *arguments.split()]

    assert _url_from(argv) == url


@pytest.mark.parametrize("argv", [[], ["app.py"], ["-c"]])
def test_url_of_an_unknown_server_is_the_usual_one(argv: list[str]) -> None:
    assert _url_from(argv) == "http://127.0.0.1:8000"


def test_start_prints_a_tour_that_can_be_pasted(
    demo: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.start()

    greeting = capsys.readouterr().out
    assert "URL=http://127.0.0.1:8123" in greeting
    assert "AUTH='Authorization: Bearer the-token'" in greeting
    assert '-d \'{"type": "user_message", "content": "' in greeting
    assert "{{" not in greeting


def test_start_twice_is_one_start(
    demo: Demo, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    demo.start()
    demo.start()

    assert capsys.readouterr().out.count("webkit demo:") == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_stop_removes_what_the_agents_left(demo: Demo, tmp_path: Path) -> None:
    demo.start()
    (home,) = tmp_path.iterdir()
    (home / "workspace" / "left.txt").write_text("by an agent")

    demo.stop()

    assert list(tmp_path.iterdir()) == []
    demo.stop()


def test_demo_that_was_stopped_can_start_again(
    demo: Demo, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for _ in range(2):
        demo.start()
        assert len(list(tmp_path.iterdir())) == 1
        demo.stop()

    assert capsys.readouterr().out.count("webkit demo:") == 2


async def test_session_without_a_lifespan_starts_the_demo(
    demo: Demo, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The directory is none, so that no CLI has to be started to see it."""
    nowhere = SessionConfig(cwd=str(tmp_path / "none"), session_id=str(uuid.uuid4()))

    for _ in range(2):
        with pytest.raises(AgentStartError, match="none"):
            await demo(nowhere, never)

    assert capsys.readouterr().out.count("webkit demo:") == 1


def test_agents_are_pointed_at_a_model_on_loopback(demo: Demo, tmp_path: Path) -> None:
    demo.start()
    factory = demo._factory
    assert factory is not None
    options = factory.options(SessionConfig(), never, tmp_path)

    assert options.env["ANTHROPIC_API_KEY"] == "scripted"
    base_url = options.env["ANTHROPIC_BASE_URL"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", base_url)
    assert httpx.head(base_url).status_code == 200
    assert Path(options.env["HOME"]).parent == tmp_path
    assert Path(str(options.cwd)).parent == Path(options.env["HOME"])
    assert Path(str(options.cwd)).is_dir()
    demo.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.head(base_url)
