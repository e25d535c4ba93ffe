"""The scripted model: what it serves."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from webkit_asgi.scripted_model import (
    FLUSH_BYTES,
    Action,
    Request,
    ScriptedModel,
    cli_env,
    script,
    serve_in_thread,
)
from webkit_asgi.types import Message

from .model_calls import ERROR, body, text, user


class Client:
    """Speaks ASGI to an app: one request, then silence until it hangs up."""

    def __init__(self, method: str, path: str, content: bytes = b"") -> None:
        self.scope = {"type": "http", "method": method, "path": path, "headers": []}
        self.sent: list[Message] = []
        self.answered = asyncio.Event()
        self.gone = asyncio.Event()
        half = len(content) // 2
        self._parts = [
            {"type": "http.request", "body": content[:half], "more_body": True},
            {"type": "http.request", "body": content[half:], "more_body": False},
        ]

    async def receive(self) -> Message:
        if self._parts:
            return self._parts.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.answered.set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def events(self) -> list[dict[str, Any]]:
        frames = self.body.decode().split("\n\n")[:-1]
        parsed = [frame.split("\n") for frame in frames]
        found = [json.loads(data.removeprefix("data: ")) for _, data in parsed]
        assert [event["type"] for event in found] == [
            name.removeprefix("event: ") for name, _ in parsed
        ]
        return found


async def ask(app: ScriptedModel, *actions: Action, streaming: bool = True) -> Client:
    content = body(user(text(script(actions))), streaming=streaming)
    client = Client("POST", "/v1/messages", content)
    await app(client.scope, client.receive, client.send)
    return client


class TestApp:
    async def test_a_streamed_call_is_answered_by_events(self) -> None:
        app = ScriptedModel()
        client = await ask(app, Action(say="hello there"))
        assert client.status == 200
        assert client.events[0]["type"] == "message_start"
        assert client.events[-1]["type"] == "message_stop"
        assert client.sent[-1]["more_body"] is False
        assert (app.requests_seen, app.open_streams) == (1, 0)

    async def test_the_official_shape_of_a_client_works(self) -> None:
        transport = httpx.ASGITransport(app=ScriptedModel())  # type: ignore[arg-type]  # scope is a plain dict here
        async with httpx.AsyncClient(transport=transport, base_url="http://m") as http:
            answer = await http.post(
                "/v1/messages?beta=true", content=body(user(text("Hi")), streaming=None)
            )
        assert answer.json()["content"] == [text("You said: Hi")]
        assert answer.json()["stop_reason"] == "end_turn"

    async def test_pauses_flush_what_was_said_and_are_slept(self) -> None:
        slept: list[float] = []
        seen_then: list[int] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            seen_then.append(len(client.body))

        app = ScriptedModel(sleep=sleep)
        content = body(user(text(script([Action(say="a b", delay_s=0.25)]))))
        client = Client("POST", "/v1/messages", content)
        await app(client.scope, client.receive, client.send)
        assert slept == [0.25, 0.25]
        assert 0 < seen_then[0] < seen_then[1] < len(client.body)

    async def test_a_long_answer_without_pauses_leaves_in_few_writes(self) -> None:
        client = await ask(ScriptedModel(), Action(say="word ", repeat=2000))
        writes = [len(message["body"]) for message in client.sent[1:]]
        assert 2 < len(writes) < 20
        assert max(writes) < FLUSH_BYTES + 1000

    async def test_a_failure_is_the_answer_whatever_else_the_step_holds(self) -> None:
        failure = Action(fail=529, type="overloaded_error", message="busy")
        client = await ask(ScriptedModel(), Action(say="never"), failure)
        assert client.status == 529
        assert json.loads(client.body) == ERROR

    async def test_unstreamed_a_failure_in_mid_stream_is_a_status(self) -> None:
        """The CLI asks again without streaming when a stream breaks before its text."""
        failure = Action(fail_mid_stream="overloaded_error", message="busy")
        client = await ask(ScriptedModel(), failure, streaming=False)
        assert client.status == 500
        assert json.loads(client.body) == ERROR

    @pytest.mark.parametrize(
        "content", [b"{", body(user(text("script:[[")))], ids=["request", "script"]
    )
    async def test_what_cannot_be_read_is_refused(self, content: bytes) -> None:
        client = Client("POST", "/v1/messages", content)
        await ScriptedModel()(client.scope, client.receive, client.send)
        assert client.status == 400
        assert json.loads(client.body)["error"]["type"] == "invalid_request_error"

    @pytest.mark.parametrize(
        ("method", "path", "status", "key"),
        [
            ("GET", "/", 200, "status"),
            ("HEAD", "/", 200, "status"),
            ("POST", "/v1/messages/count_tokens", 200, "input_tokens"),
            ("GET", "/v1/messages", 404, "error"),
            ("POST", "/v1/complete", 404, "error"),
        ],
    )
    async def test_other_requests(
        self, method: str, path: str, status: int, key: str
    ) -> None:
        app = ScriptedModel()
        client = Client(method, path, b"{}")
        await app(client.scope, client.receive, client.send)
        assert client.status == status
        assert key in json.loads(client.body)
        assert app.requests_seen == 0

    async def test_who_hangs_up_ends_the_stream_at_once(self) -> None:
        app = ScriptedModel()
        content = body(user(text(script([Action(say="a b", delay_s=3600)]))))
        client = Client("POST", "/v1/messages", content)
        with anyio.fail_after(5):
            serving = asyncio.ensure_future(
                app(client.scope, client.receive, client.send)
            )
            await client.answered.wait()
            assert app.open_streams == 1
            client.gone.set()
            await serving
        assert app.open_streams == 0
        assert client.sent[-1].get("more_body") is not False

    async def test_the_fallbacks_own_mistake_is_not_hidden(self) -> None:
        def broken(_: Request) -> list[list[Action]]:
            raise RuntimeError("a bug")

        client = Client("POST", "/v1/messages", body(user(text("hi"))))
        with pytest.raises(RuntimeError, match="a bug"):
            await ScriptedModel(broken)(client.scope, client.receive, client.send)

    async def test_the_lifespan_is_acknowledged(self) -> None:
        sent: list[Message] = []

        async def receive() -> Message:
            return {}

        async def send(message: Message) -> None:
            sent.append(message)

        await ScriptedModel()({"type": "lifespan"}, receive, send)
        assert [message["type"] for message in sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]


class TestServing:
    def test_a_thread_serves_and_stops_though_a_stream_is_open(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And it tells the process's own logs nothing."""
        caplog.set_level(logging.INFO)
        content = body(user(text(script([Action(say="a b", delay_s=3600)]))))
        app = ScriptedModel()
        with ExitStack() as outlives_the_server, serve_in_thread(app) as url:
            client = outlives_the_server.enter_context(httpx.Client(base_url=url))
            assert client.head("/").status_code == 200
            answer = outlives_the_server.enter_context(
                client.stream("POST", "/v1/messages", content=content)
            )
            chunks = answer.iter_raw()  # kept: its end would be the connection's
            assert next(chunks).startswith(b"event: message_start")
            assert app.open_streams == 1
        assert app.open_streams == 0
        assert [r for r in caplog.records if r.name.startswith("uvicorn")] == []

    def test_as_a_process_it_says_its_url_first(self) -> None:
        command = [sys.executable, "-m", "webkit_asgi.scripted_model", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                url = process.stdout.readline().strip()
                assert httpx.get(url).status_code == 200
            finally:
                process.terminate()

    def test_the_clis_environment_leaves_no_other_way_to_a_model(
        self, tmp_path: Path
    ) -> None:
        env = cli_env("http://127.0.0.1:1", tmp_path)
        assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"
        assert env["HOME"] == str(tmp_path)
        assert env["CLAUDE_CONFIG_DIR"].startswith(str(tmp_path))
        assert env["CLAUDE_CODE_OAUTH_TOKEN"] == ""
