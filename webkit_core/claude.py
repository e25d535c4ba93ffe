"""The Claude Agent SDK: options, the default factory, the connected agent.

With :mod:`.claude_permissions` the one importer of ``claude_agent_sdk``, and only
inside functions: importing it takes most of a second, and an embedder with an agent of
its own never needs it.

Rules: what the SDK does surprisingly is put right here, so that the session sees an
agent that behaves: a message it cannot parse is a message, not the end of the stream;
the process has a pid that can be killed when a graceful end does not come; its
standard error is kept, bounded.

Source: claude-agent-sdk 0.2.187 with Claude Code 2.1.330, measured.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from .agent import CanUseTool, SessionConfig
from .errors import AgentError, AgentStartError, ConfigError
from .process import describe_exit, kill_tree, terminate
from .protocol import PermissionMode

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""Longest line of the CLI's output. Past it the SDK's reader dies while the process
lives on, so it is far above what a tool result or an echoed image can be."""

TERMINATE_AFTER_S: Final = 1.0
"""An idle CLI ends 0.04 s after its input (measured)."""

MAX_STDERR_LINES: Final = 40
MAX_STDERR_LINE_CHARS: Final = 500

MAX_UNPARSED: Final = 100
"""Messages in a row the SDK may fail to parse before the agent counts as broken."""
_OWN_PREFIX: Final = "AGENT_WEBKIT_"

_RESERVED_OPTIONS: Final = frozenset(
    {
        "can_use_tool",
        "include_partial_messages",
        "max_buffer_size",
        "session_id",
        "stderr",
    }
)
"""Options that sessions depend on; ``env`` is an argument of its own."""


class UnparsedMessage(Struct, frozen=True):
    """Stands for a message of the CLI that the SDK could not parse."""

    reason: str
    kind: str = ""
    """The message's ``type``: ``result``, say."""


class ClaudeAgent:
    """A connected ``ClaudeSDKClient`` and its Claude Code process."""

    def __init__(self, client: ClaudeSDKClient, stderr: deque[str]) -> None:
        self._client = client
        self._stderr = stderr
        self._pid = _pid_of(client)

    @property
    def pid(self) -> int | None:
        """The process id of the CLI, as it was after the start."""
        return self._pid

    async def query(self, prompt: AsyncIterable[dict[str, Any]]) -> None:
        """Hand user messages over; text that would be a command stays text."""
        await self._client.query(_as_written(prompt))

    async def receive_messages(self) -> AsyncIterator[Any]:
        """Yield messages until the process is gone.

        Raises:
            AgentError: it ended with an error; the text says how.
        """
        from claude_agent_sdk import ClaudeSDKError, ProcessError
        from claude_agent_sdk._errors import MessageParseError

        unparsed = 0
        while True:
            try:
                async for message in self._client.receive_messages():
                    unparsed = 0
                    yield message
                return
            except MessageParseError as error:
                # The generator ended, the stream beneath it goes on.
                unparsed += 1
                if unparsed > MAX_UNPARSED:
                    raise AgentError(
                        f"more than {MAX_UNPARSED} unreadable messages in a row"
                    ) from error
                kind = error.data.get("type") if isinstance(error.data, dict) else None
                yield UnparsedMessage(str(error), str(kind or ""))
            except ProcessError as error:
                raise AgentError(describe_exit(error.exit_code)) from error
            except ClaudeSDKError as error:
                raise AgentError(str(error)) from error

    async def interrupt(self) -> None:
        """Ask the running turn to stop."""
        await self._client.interrupt()

    async def set_permission_mode(self, mode: PermissionMode) -> None:
        """Change the permission mode."""
        await self._client.set_permission_mode(mode)

    async def set_model(self, model: str | None) -> None:
        """Change the model; takes effect with the next call of the model."""
        await self._client.set_model(model)

    async def stop_task(self, task_id: str) -> None:
        """Stop a background task."""
        await self._client.stop_task(task_id)

    async def disconnect(self) -> None:
        """End the CLI: end its input, and ask it to end when that does not do.

        It ends what it has started only when it is asked to: commands in the
        background outlive the end of its input, and then so does it. The SDK asks
        after 5 s.
        """
        leaving = asyncio.ensure_future(self._client.disconnect())
        await asyncio.wait({leaving}, timeout=TERMINATE_AFTER_S)
        if not leaving.done() and self._pid is not None:
            terminate(self._pid)
        await asyncio.shield(leaving)

    def kill(self) -> None:
        """Kill the CLI, by the pid remembered at its start, and what it started."""
        if self._pid is not None and _pid_of(self._client) == self._pid:
            # The SDK drops its process when it has reaped it: then the pid may
            # already be somebody else's.
            kill_tree(self._pid)

    def last_words(self) -> str:
        """Return the last lines of the CLI's standard error."""
        return "\n".join(self._stderr)


def _pid_of(client: ClaudeSDKClient) -> int | None:
    """Return the pid of the running CLI; the SDK has no public way to ask."""
    process: Any = getattr(getattr(client, "_transport", None), "_process", None)
    if process is None or process.returncode is not None:
        return None
    return int(process.pid)


async def _as_written(
    prompt: AsyncIterable[dict[str, Any]],
) -> AsyncIterator[dict[str, Any]]:
    """Mark prompts that the CLI would act upon: they were composed by a program.

    A leading slash runs a command, ``@path`` reads that file without asking.
    """
    async for message in prompt:
        content = message["message"]["content"]
        texts = (
            (content,)
            if isinstance(content, str)
            else tuple(block.get("text", "") for block in content)
        )
        if any("@" in text or text.lstrip().startswith("/") for text in texts):
            yield {**message, "client_composed": True}
        else:
            yield message


class ClaudeFactory:
    """The default ``sdk_factory``: starts a Claude Code CLI per session.

    Args:
        env: variables set for the CLI on top of the server's own.
        options: fields of ``ClaudeAgentOptions`` to set otherwise than we do, such as
            ``system_prompt``, ``mcp_servers``, ``allowed_tools`` or ``session_store``;
            what a session asks for (model, permission mode, cwd) comes before them.

    Raises:
        ConfigError: an option is one that the factory sets by itself.
        AgentStartError: (when called) the CLI did not start; the text says why.
    """

    def __init__(self, env: Mapping[str, str] | None = None, **options: Any) -> None:
        ours = sorted(_RESERVED_OPTIONS & options.keys())
        if ours:
            raise ConfigError(f"ClaudeFactory sets {', '.join(ours)} by itself")
        self._env = dict(env or {})
        self._options = options

    async def __call__(
        self, config: SessionConfig, can_use_tool: CanUseTool
    ) -> ClaudeAgent:
        """Start a CLI and return it connected. Cancel at most once."""
        from claude_agent_sdk import ClaudeSDKClient

        stderr: deque[str] = deque(maxlen=MAX_STDERR_LINES)
        client = ClaudeSDKClient(self.options(config, can_use_tool, stderr))
        try:
            await client.connect()
        except Exception as error:
            # Among others a bare Exception, when a control request times out.
            raise AgentStartError(_why(error, stderr)) from error
        return ClaudeAgent(client, stderr)

    async def check(self) -> None:
        """Check that there is a CLI to start.

        Raises:
            AgentStartError: there is none; the text says how to install it.
        """
        await asyncio.to_thread(self._find_cli)

    def _find_cli(self) -> None:
        from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKError
        from claude_agent_sdk._internal.transport.subprocess_cli import (
            SubprocessCLITransport,
        )

        given = self._options.get("cli_path")
        try:
            path = given or SubprocessCLITransport("", ClaudeAgentOptions())._find_cli()
        except ClaudeSDKError as error:
            raise AgentStartError(str(error)) from error
        if not os.access(path, os.X_OK):
            raise AgentStartError(f"the Claude Code CLI {path} cannot be executed")

    def options(
        self, config: SessionConfig, can_use_tool: CanUseTool, stderr: deque[str]
    ) -> ClaudeAgentOptions:
        """Return the options a session's CLI is started with."""
        from claude_agent_sdk import ClaudeAgentOptions

        # The CLI inherits the server's environment; at least our own token stays out.
        own = {name: "" for name in os.environ if name.startswith(_OWN_PREFIX)}
        fields: dict[str, Any] = {
            "system_prompt": {"type": "preset", "preset": "claude_code"},
            "cwd": os.getcwd(),
            "setting_sources": [],
            "strict_mcp_config": True,
            **self._options,
            "session_id": config.session_id or None,
            "can_use_tool": can_use_tool,
            "include_partial_messages": True,
            "max_buffer_size": MAX_LINE_BYTES,
            "stderr": lambda line: stderr.append(line[:MAX_STDERR_LINE_CHARS]),
            "env": {**own, "DISABLE_AUTOUPDATER": "1", **self._env},
        }
        for name in ("model", "permission_mode", "cwd"):
            if (wanted := getattr(config, name)) is not None:
                fields[name] = wanted
        return ClaudeAgentOptions(**fields)


def _why(error: Exception, stderr: deque[str]) -> str:
    exit_code = getattr(error, "exit_code", None)
    reason = str(error) if exit_code is None else describe_exit(exit_code)
    said = "\n".join(stderr)
    return f"{reason}; it said: {said}" if said else reason


async def import_sdk() -> None:
    """Import the SDK in a thread, so that the first session does not stop the loop."""
    await asyncio.to_thread(__import__, "claude_agent_sdk")
