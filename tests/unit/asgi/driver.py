"""Speak ASGI to an application by hand: one request, message by message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio

from tests.sse_parser import ParsedEvent, SseParser
from webkit_asgi import Application, AuthConfig, Settings
from webkit_asgi.types import Message, Receive, Scope, Send
from webkit_core.testing import ScriptedAgent, ScriptedFactory

TOKEN = "a-token"
PATIENCE_S = 5.0
"""How long anything may take before a test counts as hung; far more than it needs."""

Content = bytes | Iterable[bytes]
"""A request's body: whole, or in parts."""

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Call:
    """One request: what is received is given by the test, what is sent is kept.

    Attributes:
        scope: the ASGI scope; a test may change it before it starts.
        sent: every message of the application so far.
        gate: ``send`` waits for it: closed, the client takes nothing.
        patience_s: how long :meth:`done` and :meth:`until` wait.
    """

    def __init__(
        self,
        app: AsgiApp,
        method: str = "GET",
        path: str = "/",
        content: Content = b"",
        *,
        token: str | None = TOKEN,
        query: bytes = b"",
        root_path: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "path": root_path + path,
            "root_path": root_path,
            "query_string": query,
            "headers": [
                (name.encode(), value.encode("latin-1"))
                for name, value in (headers or {}).items()
            ],
        }
        if token is not None:
            self.scope["headers"].append((b"authorization", f"Bearer {token}".encode()))
        self.sent: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.patience_s = PATIENCE_S
        self._app = app
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        chunks = [content] if isinstance(content, bytes) else list(content)
        for index, chunk in enumerate(chunks, start=1):
            self.feed(chunk, more=index < len(chunks))

    # --- what the client does

    def feed(self, chunk: bytes, *, more: bool = True) -> None:
        """Let a piece of the body arrive."""
        message = {"type": "http.request", "body": chunk, "more_body": more}
        self._inbox.put_nowait(message)

    def leave(self) -> None:
        """Let the client go away: whatever waits to be sent is dropped."""
        self._inbox.put_nowait({"type": "http.disconnect"})
        self.gate.set()

    def start(self) -> Self:
        """Start the application on this request."""
        work = self._app(self.scope, self._receive, self._send)
        self._task = asyncio.ensure_future(self._run(work))
        return self

    @property
    def task(self) -> asyncio.Task[None]:
        assert self._task is not None, "not started"
        return self._task

    async def done(self) -> Self:
        """Return when the application has returned; raise what it raised."""
        if self._task is None:
            self.start()
        with anyio.fail_after(self.patience_s):
            await asyncio.wait({self.task})
        self.task.result()
        return self

    async def until(self, condition: Callable[[], object]) -> Self:
        """Return when ``condition`` holds; it is looked at after every message."""
        with anyio.fail_after(self.patience_s):
            while not condition():
                assert not self.task.done(), f"it ended with {self.sent[-1:]}"
                self._news.clear()
                await self._news.wait()
        return self

    async def heard(self, event: str) -> Self:
        """Return when an event of that name has been sent."""
        return await self.until(lambda: event in [e.type for e in self.events])

    # --- what the client sees

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        pairs = self.sent[0]["headers"]
        found = {key.decode(): value.decode("latin-1") for key, value in pairs}
        assert len(found) == len(pairs), "a header is sent twice"
        return found

    @property
    def bodies(self) -> list[bytes]:
        return [bytes(message["body"]) for message in self.sent[1:]]

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of an error, which says in words what is wrong."""
        assert self.headers["content-type"] == "application/json"
        assert self.json["detail"]
        return self.status, self.json["code"]

    @property
    def detail(self) -> str:
        return str(self.json["detail"])

    @property
    def parsed(self) -> tuple[SseParser, list[ParsedEvent]]:
        parser = SseParser()
        return parser, parser.feed(self.body)

    @property
    def events(self) -> list[ParsedEvent]:
        return self.parsed[1]

    @property
    def ids(self) -> list[int]:
        return [int(event.last_event_id) for event in self.events]

    @property
    def complete(self) -> bool:
        """Whether the answer was ended as ASGI wants it."""
        ends = [not message.get("more_body", False) for message in self.sent[1:]]
        return bool(ends) and ends[-1] and not any(ends[:-1])

    # --- ASGI

    async def _run(self, work: Awaitable[None]) -> None:
        try:
            await work
        finally:
            self._news.set()

    async def _receive(self) -> Message:
        return await self._inbox.get()

    async def _send(self, message: Message) -> None:
        self.check(message)
        await self.gate.wait()
        self.sent.append(message)
        self._news.set()

    def check(self, message: Message) -> None:
        """Check what any server expects of the order of messages."""
        kinds = [sent["type"] for sent in self.sent]
        if message["type"] == "http.response.start":
            assert kinds == []
        else:
            assert message["type"] == "http.response.body"
            assert kinds[:1] == ["http.response.start"]
            assert not self.complete, "sent after the end"


class Server:
    """An application with scripted agents, and short ways to ask it something.

    Args:
        settings: the application's.
        auth: the application's; by default, :data:`TOKEN` is what clients send.
        rest: more arguments of the application.
    """

    def __init__(
        self, settings: Settings, auth: AuthConfig | None = None, **rest: Any
    ) -> None:
        self.factory = ScriptedFactory()
        auth = auth or AuthConfig(token=TOKEN)
        self.app = Application(auth, settings, self.factory, None, **rest)

    def call(self, method: str, path: str, content: Content = b"", **rest: Any) -> Call:
        return Call(self.app, method, path, content, **rest)

    async def ask(
        self, method: str, path: str, content: Content = b"", **rest: Any
    ) -> Call:
        """Return the finished request."""
        return await self.call(method, path, content, **rest).done()

    async def session(self, content: bytes = b"") -> str:
        """Create a session and return its path."""
        created = await self.ask("POST", "/sessions", content)
        assert created.status == 200
        return created.headers["location"]

    async def input(self, session: str, content: bytes, **rest: Any) -> Call:
        return await self.ask("POST", f"{session}/input", content, **rest)

    @property
    def agent(self) -> ScriptedAgent:
        """The newest session's agent."""
        return self.factory.agents[-1]


@asynccontextmanager
async def serving(
    settings: Settings | None = None, auth: AuthConfig | None = None, **rest: Any
) -> AsyncIterator[Server]:
    """Serve; on the way out, end every session and check that no task is left."""
    before = running()
    server = Server(settings or Settings(), auth, **rest)
    try:
        yield server
    finally:
        for agent in server.factory.agents:
            agent.end()  # closing in mid-turn would wait for the turn's end
        with anyio.fail_after(PATIENCE_S):
            for session in server.app.registry:
                await session.wait_ended()
            await server.app.shutdown()
    assert await no_more_tasks_than(before)


Tasks = set[asyncio.Task[Any]]


def running() -> Tasks:
    """Return the tasks of the loop, without those of anyio's test runner."""
    return {
        task
        for task in asyncio.all_tasks()
        if not getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")
    }


async def no_more_tasks_than(before: Tasks) -> bool:
    """Whether every task that was started since has come to its end."""
    for _ in range(10):
        if running() <= before:
            return True
        await asyncio.sleep(0)
    return False
