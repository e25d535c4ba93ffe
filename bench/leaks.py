"""The application that :mod:`bench.bench_leaks` opens and closes things on.

Agents answer by themselves and are kept by nobody; ``GET /tasks`` tells how many tasks
the event loop has.

    python -m uvicorn bench.leaks:app --port 0
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterable
from typing import Any

from webkit_asgi import AuthConfig, Settings, create_app
from webkit_asgi.types import Receive, Scope, Send
from webkit_core import CanUseTool, SessionConfig
from webkit_core.testing import ScriptedAgent


class Answering(ScriptedAgent):
    """Answers every prompt."""

    async def query(self, prompt: AsyncIterable[dict[str, Any]]) -> None:
        await super().query(prompt)
        self.say("a few words as an answer to whatever it was")


async def factory(_: SessionConfig, can_use_tool: CanUseTool) -> Answering:
    return Answering(can_use_tool)


application = create_app(
    auth=AuthConfig(disabled=True),
    sdk_factory=factory,
    settings=Settings(
        inputs_per_s=0, max_sessions=1000, concurrent_starts=100, drain_timeout_s=0
    ),
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the application, and the number of tasks."""
    if scope["type"] == "http" and scope["path"] == "/tasks":
        gc.collect()
        body = b"%d" % len(asyncio.all_tasks())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
    else:
        await application(scope, receive, send)
