"""What a session needs of an agent, and what it tells the one who makes it.

The shape is the async surface of ``claude_agent_sdk.ClaudeSDKClient``: anything that
has it will do, a connected SDK client, the wrapper in :mod:`webkit_core.claude`, or a
double from :mod:`webkit_core.testing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct, to_builtins

from .protocol import DEFAULT_DELTAS, DeltaKind, PermissionMode, UserMessage


class SessionConfig(Struct, frozen=True, kw_only=True):
    """What a session is created with.

    Attributes:
        model: the model's name; None is the agent's default.
        permission_mode: None is the agent's default.
        cwd: the directory the agent works in; None is the server's.
        deltas: which deltas the stream carries.
        session_id: a UUID; the registry chooses one. The agent is started with it, so
            that wire, transcript and logs name a session alike.
        owner: whose session it is; empty is nobody's in particular. Nobody else finds
            it by :meth:`SessionRegistry.get` when that is told who asks.
    """

    model: str | None = None
    permission_mode: PermissionMode | None = None
    cwd: str | None = None
    deltas: frozenset[DeltaKind] = DEFAULT_DELTAS
    session_id: str = ""
    owner: str = ""


class Agent(Protocol):
    """A connected agent. Every method may be called while messages are received."""

    async def query(self, prompt: AsyncIterable[dict[str, Any]]) -> None:
        """Hand user messages over; returns when they are written."""

    def receive_messages(self) -> AsyncIterator[Any]:
        """Yield the agent's messages until it is gone; raises when it broke."""

    async def interrupt(self) -> None:
        """Ask the running turn to stop; returns when the request is acknowledged."""

    async def set_permission_mode(self, mode: PermissionMode) -> None:
        """Change the permission mode."""

    async def set_model(self, model: str | None) -> None:
        """Change the model."""

    async def stop_task(self, task_id: str) -> None:
        """Stop a background task."""

    async def disconnect(self) -> None:
        """End the agent. May take long; must not be cancelled."""


@runtime_checkable
class Killable(Protocol):
    """What an agent with a process of its own can offer on top."""

    def kill(self) -> None:
        """End the process at once. Idempotent, never waits, never raises."""

    def last_words(self) -> str:
        """Return the end of what the process wrote to its standard error."""


CanUseTool = Callable[[str, dict[str, Any], Any], Awaitable[Any]]
"""The SDK's permission callback: ``(tool_name, input, context) -> result``."""

SdkFactory = Callable[[SessionConfig, CanUseTool], Awaitable[Agent]]
"""Makes the connected agent of a session."""


async def prompt_of(
    message: UserMessage, prompt_uuid: str
) -> AsyncIterator[dict[str, Any]]:
    """Yield one user message as the CLI reads it.

    The uuid comes back with the result of the turn that took the message up.
    """
    yield {
        "type": "user",
        "uuid": prompt_uuid,
        "message": {"role": "user", "content": to_builtins(message.content)},
        "parent_tool_use_id": None,
    }
