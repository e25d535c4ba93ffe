"""Doubles for programs that embed this package: an agent, its factory, a clock.

A :class:`ScriptedAgent` has the async surface of the SDK's client and does what the
test says, message by message; no process, no model, no waiting. The message classes
are named and shaped like the SDK's, which is what the translation goes by.

    factory = ScriptedFactory()
    session = await SessionRegistry(factory).create()
    agent = factory.agents[0]
    await session.submit(UserMessage("hello"))
    await agent.prompted()
    agent.say("hi there")

Rules: an agent only ever does what it was told; what it is asked is recorded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from .agent import CanUseTool, SessionConfig
from .protocol import PermissionMode


@dataclass
class TextBlock:
    """A finished text block."""

    text: str


@dataclass
class ToolUseBlock:
    """A finished tool call."""

    id: str
    name: str
    input: dict[str, Any]


@dataclass
class ToolResultBlock:
    """What a tool gave back."""

    tool_use_id: str
    content: Any = None
    is_error: bool | None = None


@dataclass
class StreamEvent:
    """A streaming event of the Messages API."""

    event: dict[str, Any]
    parent_tool_use_id: str | None = None


@dataclass
class AssistantMessage:
    """One or more finished blocks of an assistant message."""

    content: list[Any]
    message_id: str
    model: str = "scripted"
    parent_tool_use_id: str | None = None
    error: str | None = None
    stop_reason: str | None = None
    uuid: str | None = None


@dataclass
class UserMessage:
    """Tool results."""

    content: Any
    parent_tool_use_id: str | None = None


@dataclass
class SystemMessage:
    """What the CLI tells about itself."""

    subtype: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class ResultMessage:
    """The end of a turn; the cost is a running total, as the CLI's."""

    subtype: str = "success"
    is_error: bool = False
    total_cost_usd: float | None = 0.0
    duration_ms: int = 1
    duration_api_ms: int = 1
    num_turns: int = 1
    stop_reason: str | None = "end_turn"
    terminal_reason: str | None = "completed"
    result: str | None = None
    structured_output: Any = None
    usage: dict[str, Any] | None = None
    model_usage: dict[str, Any] | None = None
    permission_denials: list[Any] | None = None
    errors: list[str] | None = None
    api_error_status: int | None = None
    origin: dict[str, Any] | None = None
    user_message_uuids: list[str] | None = None


@dataclass
class ToolPermissionContext:
    """What the SDK tells ``can_use_tool`` about a call."""

    tool_use_id: str
    suggestions: list[Any] = field(default_factory=list)


def message_start(message_id: str, model: str = "scripted") -> StreamEvent:
    """Return the event that begins a streamed message."""
    message = {"id": message_id, "model": model, "role": "assistant", "content": []}
    return StreamEvent({"type": "message_start", "message": message})


def text_delta(text: str) -> StreamEvent:
    """Return a piece of the text of the message that is being streamed."""
    delta = {"type": "text_delta", "text": text}
    return StreamEvent({"type": "content_block_delta", "index": 0, "delta": delta})


def streamed_text(message_id: str, *pieces: str) -> list[Any]:
    """Return the messages of one streamed text message, as the CLI sends them."""
    block = {"type": "text", "text": ""}
    return [
        message_start(message_id),
        StreamEvent(
            {"type": "content_block_start", "index": 0, "content_block": block}
        ),
        *(text_delta(piece) for piece in pieces),
        AssistantMessage([TextBlock("".join(pieces))], message_id),
        StreamEvent({"type": "content_block_stop", "index": 0}),
        StreamEvent({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        StreamEvent({"type": "message_stop"}),
    ]


class ScriptedAgent:
    """An agent that does what it is told; see the module. Belongs to one event loop.

    Attributes:
        prompts: the user messages it was handed, as the SDK writes them.
        calls: every control call, as ``(name, argument)``.
        refuses: names of calls that raise.
        hangs: names of calls that never return.
        disconnected: whether ``disconnect`` was called.
        killed: whether ``kill`` was called.
    """

    def __init__(self, can_use_tool: CanUseTool | None = None) -> None:
        self.prompts: list[dict[str, Any]] = []
        self.calls: list[tuple[str, Any]] = []
        self.refuses: set[str] = set()
        self.hangs: set[str] = set()
        self.disconnected = False
        self.killed = False
        self.stderr = ""
        self._can_use_tool = can_use_tool
        self._said: deque[Any] = deque()
        self._over = False
        self._error: Exception | None = None
        self._heard = asyncio.Event()
        self._news = asyncio.Event()
        self._messages_made = 0

    # --- what the test says

    def push(self, *messages: Any) -> None:
        """Let these messages arrive, in order."""
        self._said.extend(messages)
        self._news.set()

    def say(self, text: str, *, cost_usd: float | None = 0.0) -> None:
        """Let a whole turn arrive: ``text``, streamed word by word, and its result."""
        self._messages_made += 1
        words = text.split(" ")
        pieces = [word + " " for word in words[:-1]] + words[-1:]
        self.push(*streamed_text(f"msg_{self._messages_made}", *pieces))
        self.push(ResultMessage(result=text, total_cost_usd=cost_usd))

    def end(self, error: Exception | None = None) -> None:
        """Let the stream of messages end, or break with ``error``."""
        self._over, self._error = True, error
        self._news.set()

    async def ask(
        self, tool_use_id: str, tool_name: str = "Bash", **tool_input: Any
    ) -> Any:
        """Announce a tool use, ask whether it may run, return the SDK's answer."""
        block = ToolUseBlock(tool_use_id, tool_name, tool_input)
        self.push(AssistantMessage([block], f"msg_of_{tool_use_id}"))
        assert self._can_use_tool is not None
        context = ToolPermissionContext(tool_use_id)
        return await self._can_use_tool(tool_name, tool_input, context)

    async def prompted(self, count: int = 1) -> dict[str, Any]:
        """Return the ``count``-th prompt when it has been handed over."""
        while len(self.prompts) < count:
            self._heard.clear()
            await self._heard.wait()
        return self.prompts[count - 1]

    async def called(self, name: str) -> Any:
        """Return the argument of the first control call of that name, when made."""
        while True:
            for called, argument in self.calls:
                if called == name:
                    return argument
            self._heard.clear()
            await self._heard.wait()

    # --- what the session sees

    async def query(self, prompt: AsyncIterable[dict[str, Any]]) -> None:
        """Take prompts."""
        await self._call("query", None)
        async for message in prompt:
            self.prompts.append(message)
        self._heard.set()

    async def receive_messages(self) -> AsyncIterator[Any]:
        """Yield what was pushed until the end."""
        while True:
            while self._said:
                yield self._said.popleft()
            if self._over:
                if self._error is not None:
                    raise self._error
                return
            self._news.clear()
            await self._news.wait()

    async def interrupt(self) -> None:
        """Acknowledge an interrupt; the test pushes what follows."""
        await self._call("interrupt", None)

    async def set_permission_mode(self, mode: PermissionMode) -> None:
        """Record the mode."""
        await self._call("set_permission_mode", mode)

    async def set_model(self, model: str | None) -> None:
        """Record the model."""
        await self._call("set_model", model)

    async def stop_task(self, task_id: str) -> None:
        """Record the task."""
        await self._call("stop_task", task_id)

    async def disconnect(self) -> None:
        """End; the stream of messages ends with it."""
        await self._call("disconnect", None)
        self.disconnected = True
        self.end()

    def kill(self) -> None:
        """End at once."""
        self.killed = True
        self.end()

    def last_words(self) -> str:
        """Return what the test put into ``stderr``."""
        return self.stderr

    async def _call(self, name: str, argument: Any) -> None:
        self.calls.append((name, argument))
        self._heard.set()
        if name in self.hangs:
            await asyncio.get_running_loop().create_future()
        if name in self.refuses:
            raise RuntimeError(f"{name} is refused")


class ScriptedFactory:
    """An ``sdk_factory`` of scripted agents.

    Attributes:
        agents: the agents made so far.
        configs: what each was made with.
        error: raised instead of making the next agent.
        gate: when set to an event, making an agent waits for it.
    """

    def __init__(self) -> None:
        self.agents: list[ScriptedAgent] = []
        self.configs: list[SessionConfig] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(
        self, config: SessionConfig, can_use_tool: CanUseTool
    ) -> ScriptedAgent:
        """Make an agent."""
        self.configs.append(config)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        agent = ScriptedAgent(can_use_tool)
        self.agents.append(agent)
        return agent


class FakeClock:
    """A clock that moves when told to; in seconds."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
