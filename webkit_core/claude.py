"""The Claude Agent SDK: options, the default factory, the connected agent.

With :mod:`.claude_permissions` the one importer of ``claude_agent_sdk``, and only
inside functions: importing it takes most of a second, and an embedder with an agent of
its own never needs it.

Rules: what the SDK does surprisingly is put right here, so that the session sees an
agent that behaves: a message it cannot parse is a message, not the end of the stream;
a process that died or fell silent is the end of it; a start that fails says why, and
leaves nothing.

Source: claude-agent-sdk 0.2.187 with Claude Code 2.1.330, measured.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from .agent import CanUseTool, SessionConfig
from .claude_errors import failed_start, hush_sdk, why_stream_broke
from .cli_process import CliProcess
from .connecting import connect
from .environment import allowed_names, private_environment
from .errors import AgentError, AgentStartError, ConfigError
from .last_words import LastWords
from .private_dirs import StateDir
from .process import describe_exit
from .protocol import PermissionMode
from .tasks import OwnedTasks
from .verbatim import as_written

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""Longest line of the CLI's output. Past it the SDK's reader dies while the process
lives on, so it is far above what a tool result or an echoed image can be."""

TERMINATE_AFTER_S: Final = 1.0
"""An idle CLI ends 0.04 s after its input (measured)."""

GRACE_S: Final = 1.0
"""How long the SDK may take to notice the end of a process with all its output."""

MAX_UNPARSED: Final = 100
"""Messages in a row the SDK may fail to parse before the agent counts as broken."""

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

    def __init__(self, client: ClaudeSDKClient, process: CliProcess) -> None:
        self._client = client
        self._process = process
        self._pid = process.pid
        self._mute = False
        self._leaving = False

    @property
    def pid(self) -> int | None:
        """The process id of the CLI, as it was after the start."""
        return self._pid

    async def query(self, prompt: AsyncIterable[dict[str, Any]]) -> None:
        """Hand user messages over; text that would be a command stays text."""
        await self._client.query(as_written(prompt))

    async def receive_messages(self) -> AsyncIterator[Any]:
        """Yield messages until the process is gone, or has ended its output.

        Raises:
            AgentError: it ended with an error; the text says how.
        """
        watch = asyncio.ensure_future(self._watch())
        try:
            async for message in self._parsed():
                yield message
        except AgentError:
            if not self._mute:
                raise
        finally:
            watch.cancel()
        if self._mute:
            raise AgentError("the agent closed its output and lived on")
        if self._process.exit_code:
            raise AgentError(describe_exit(self._process.exit_code))
        if self._process.runs and not self._leaving:
            raise AgentError("the SDK stopped reading the agent's output")

    async def _parsed(self) -> AsyncIterator[Any]:
        """Yield messages, the unreadable ones as such, until the SDK reads no more."""
        from claude_agent_sdk._errors import MessageParseError

        unparsed = 0
        while True:
            try:
                async for message in self._client.receive_messages():
                    unparsed = 0
                    yield message
                return
            except (MessageParseError, TypeError, AttributeError, KeyError) as error:
                # The generator ended, the stream beneath it goes on.
                unparsed += 1
                if unparsed > MAX_UNPARSED:
                    raise AgentError(
                        f"more than {MAX_UNPARSED} unreadable messages in a row"
                    ) from error
                data = getattr(error, "data", None)
                kind = data.get("type") if isinstance(data, dict) else None
                yield UnparsedMessage(str(error), str(kind or ""))
            except Exception as error:
                if (why := why_stream_broke(error)) is None:
                    raise
                raise AgentError(why) from None

    async def _watch(self) -> None:
        """End the stream when the process has ended it, and the SDK does not notice."""
        await self._process.mute()
        if self._process.runs:
            self._mute = True
            self._process.kill()
        await self._process.kill_left()  # whoever holds its output open
        query: Any = getattr(self._client, "_query", None)
        while True:
            await asyncio.sleep(GRACE_S)
            # What the SDK itself ends it with; there is no room while it is read.
            with suppress(Exception):
                query._message_send.send_nowait({"type": "end"})

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
        after 5 s. What is left after its end is killed, and its files are removed.
        """
        self._leaving = True
        leaving = asyncio.ensure_future(self._client.disconnect())
        gone = asyncio.ensure_future(self._process.gone())
        try:
            done, _ = await asyncio.wait(
                {leaving, gone},
                timeout=TERMINATE_AFTER_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                self._process.terminate()
                # Without an end of its own; whoever waits for us kills it in time.
                await asyncio.wait({leaving, gone}, return_when=asyncio.FIRST_COMPLETED)
            await self._process.clean_up()
            await asyncio.shield(leaving)
        finally:
            gone.cancel()

    def kill(self) -> None:
        """Kill the CLI, by the pid remembered at its start, and what it started."""
        self._process.kill()

    def last_words(self) -> str:
        """Return the last lines of the CLI's standard error."""
        return str(self._process.words)


class ClaudeFactory:
    """The default ``sdk_factory``: starts a Claude Code CLI per session.

    Args:
        env: variables set for the CLI, whatever they are in the server's environment.
        state_dir: where each session gets a directory of its own, for as long as it
            lives; by default in the directory for temporary files. Programs in it must
            be allowed to run, and nobody else may write to it.
        pass_env: variables of the server's environment that agents get besides those
            of :data:`.environment.ALLOWED`; a trailing ``*`` makes a prefix.
        options: fields of ``ClaudeAgentOptions`` to set otherwise than we do, such as
            ``system_prompt``, ``mcp_servers``, ``allowed_tools`` or ``session_store``;
            what a session asks for (model, permission mode, cwd) comes before them.

    Raises:
        ConfigError: an option is one that the factory sets by itself, or a name in
            ``env`` or ``pass_env`` is none.
        AgentStartError: (when called) the CLI did not start; the text says why.
    """

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        *,
        state_dir: str | Path | None = None,
        pass_env: Iterable[str] = (),
        **options: Any,
    ) -> None:
        ours = sorted(_RESERVED_OPTIONS & options.keys())
        if ours:
            raise ConfigError(f"ClaudeFactory sets {', '.join(ours)} by itself")
        self._env = dict(env or {})
        self._passed = frozenset(pass_env)
        self._names = allowed_names(self._env, sorted(self._passed))
        self._state = StateDir(state_dir)
        self._options = options
        self._swept = False
        self._tasks = OwnedTasks("a start")

    async def __call__(
        self, config: SessionConfig, can_use_tool: CanUseTool
    ) -> ClaudeAgent:
        """Start a CLI and return it connected.

        Cancelling ends what has been started; the ``CancelledError`` has the CLI's
        last words in its notes.
        """
        from claude_agent_sdk import ClaudeSDKClient

        hush_sdk()
        if not self._swept:
            await self.sweep()
        cli = await asyncio.to_thread(self._find_cli)
        directory = await self._state.make()
        words = LastWords(directory.stderr)
        process = CliProcess(None, directory, words)
        try:
            program = directory.write_program(self._names, cli)
            options = self.options(config, can_use_tool, directory.path)
            client = ClaudeSDKClient(replace(options, cli_path=str(program)))
            process = CliProcess(client, directory, words)
            await connect(client, process, self._tasks)
        except BaseException as error:
            said = str(words)
            # In a task of its own: whoever cancels a start may do so twice.
            await asyncio.shield(self._tasks.spawn(process.clean_up()))
            if isinstance(error, asyncio.CancelledError) and said:
                error.add_note(said)
            if isinstance(error, Exception):
                raise failed_start(error, said) from None
            raise
        return ClaudeAgent(client, process)

    async def sweep(self) -> None:
        """Kill and remove what servers that are gone have left.

        Raises:
            AgentStartError: the state directory cannot be used; the text says why.
        """
        self._swept = True
        await asyncio.to_thread(self._state.sweep)

    async def check(self) -> None:
        """Check that there is a CLI to start.

        Raises:
            AgentStartError: there is none; the text says how to install it.
        """
        await asyncio.to_thread(self._find_cli)

    def _find_cli(self) -> str:
        from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKError
        from claude_agent_sdk._internal.transport.subprocess_cli import (
            SubprocessCLITransport,
        )

        given = self._options.get("cli_path")
        try:
            path = given or SubprocessCLITransport("", ClaudeAgentOptions())._find_cli()
        except ClaudeSDKError as error:
            raise AgentStartError(str(error)) from error
        if not os.path.isfile(path):
            raise AgentStartError(f"Claude Code not found at {path}")
        if not os.access(path, os.X_OK):
            raise AgentStartError(f"the Claude Code CLI {path} cannot be executed")
        return os.path.abspath(path)

    def options(
        self, config: SessionConfig, can_use_tool: CanUseTool, directory: Path
    ) -> ClaudeAgentOptions:
        """Return the options a session's CLI is started with, but for ``cli_path``.

        Args:
            config: what the session asks for.
            can_use_tool: the session's permission callback.
            directory: the session's own.
        """
        from claude_agent_sdk import ClaudeAgentOptions

        inherited = {n: v for n, v in os.environ.items() if n in self._passed}
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
            "env": private_environment(directory, self._env, inherited),
        }
        for name in ("model", "permission_mode", "cwd"):
            if (wanted := getattr(config, name)) is not None:
                fields[name] = wanted
        return ClaudeAgentOptions(**fields)


async def import_sdk() -> None:
    """Import the SDK in a thread, so that the first session does not stop the loop."""
    await asyncio.to_thread(__import__, "claude_agent_sdk")
