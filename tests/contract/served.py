"""The application that is asked everything: a scripted model, and streams that end.

The model answers every prompt. In every other turn it also asks for a permission and
puts questions, by the ids that the document's examples have, so that a request made
from the document is one that somebody waits for.

A stream goes on until its session ends, and who asks for everything would wait for it;
in ``app``, its client leaves after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Coroutine
from typing import Any, Final

from tests.integration.server import TOKEN
from webkit_asgi import AuthConfig, Settings, create_app
from webkit_asgi.types import Message, Receive, Scope, Send
from webkit_core import CanUseTool, SessionConfig
from webkit_core.testing import ResultMessage, ScriptedAgent

STREAM_S: Final = 0.2
PATIENCE_S: Final = 2.0
"""How long the model waits for an answer; a session that waits never idles out."""

QUESTIONS: Final = [{"question": "Which one?"}, {"question": "And which of those?"}]


class BusyAgent(ScriptedAgent):
    """An agent that answers every prompt, and asks twice in every other turn."""

    def __init__(self, can_use_tool: CanUseTool) -> None:
        super().__init__(can_use_tool)
        self._asking: set[asyncio.Task[Any]] = set()

    async def query(self, prompt: AsyncIterable[dict[str, Any]]) -> None:
        await super().query(prompt)
        if len(self.prompts) % 2:
            self._ask(self.ask("toolu_1", command="ls"))
            self._ask(self.ask("toolu_2", "AskUserQuestion", questions=QUESTIONS))
        self.say("as you wish")

    async def interrupt(self) -> None:
        await super().interrupt()
        self.push(ResultMessage("error_during_execution", True))

    async def disconnect(self) -> None:
        for task in self._asking:
            task.cancel()
        await super().disconnect()

    def _ask(self, asking: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(self._wait(asking))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _wait(self, asking: Coroutine[Any, Any, Any]) -> None:
        try:
            await asyncio.wait_for(asking, PATIENCE_S)
        except TimeoutError:
            pass


async def make_agent(config: SessionConfig, can_use_tool: CanUseTool) -> BusyAgent:
    return BusyAgent(can_use_tool)


class ImpatientClients:
    """Has the clients of streams leave after :data:`STREAM_S`, with a clean end."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get("path", "").endswith("/stream") or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        ended = False

        async def leave() -> Message:
            await asyncio.sleep(STREAM_S)
            return {"type": "http.disconnect"}

        async def watched(message: Message) -> None:
            nonlocal ended
            is_body = message["type"] == "http.response.body"
            ended = is_body and not message.get("more_body", False)
            await send(message)

        await self._app(scope, leave, watched)
        if not ended:
            await send({"type": "http.response.body", "body": b""})


app = ImpatientClients(
    create_app(
        auth=AuthConfig(token=TOKEN),
        settings=Settings(
            idle_timeout_s=3.0, max_sessions=50, queued_messages=4, drain_timeout_s=0
        ),
        sdk_factory=make_agent,
    )
)
