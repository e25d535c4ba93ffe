from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
    CLIJSONDecodeError,
    CLINotFoundError,
    ProcessError,
)
from claude_agent_sdk._errors import MessageParseError

from webkit_core import (
    AgentError,
    AgentStartError,
    ClaudeFactory,
    Killable,
    SessionConfig,
)
from webkit_core.claude import (
    MAX_LINE_BYTES,
    MAX_STDERR_LINE_CHARS,
    MAX_STDERR_LINES,
    MAX_UNPARSED,
    ClaudeAgent,
    UnparsedMessage,
)
from webkit_core.errors import ConfigError
from webkit_core.process import describe_exit


async def no_tool(_name: str, _input: dict[str, Any], _context: Any) -> Any:
    raise AssertionError


# --- how a process ended


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [
        (None, "the agent's process ended"),
        (0, "the agent's process exited with code 0"),
        (1, "the agent's process exited with code 1"),
        (130, "the agent's process exited with code 130"),
        (-9, "killed (SIGKILL"),
        (137, "killed (SIGKILL"),
        (-15, "killed (SIGTERM"),
        (143, "killed (SIGTERM"),
        (-11, "killed (SIGSEGV"),
    ],
)
def test_exit_is_described_in_words(exit_code: int | None, text: str) -> None:
    assert text in describe_exit(exit_code)


def test_exit_by_a_signal_without_a_name_is_described() -> None:
    """Real-time signals have numbers only."""
    assert "35" in describe_exit(-(signal.SIGRTMIN + 1))


# --- a connected agent


class Client:
    """Has the part of ``ClaudeSDKClient`` that the agent uses.

    Args:
        streams: what each ``receive_messages()`` yields, in turn; an exception in it
            is raised and ends that one.
    """

    def __init__(self, *streams: list[Any]) -> None:
        self.streams = list(streams)
        self.calls: list[tuple[Any, ...]] = []
        self.prompts: list[dict[str, Any]] = []

    async def receive_messages(self) -> AsyncIterator[Any]:
        for message in self.streams.pop(0):
            if isinstance(message, Exception):
                raise message
            yield message

    async def query(self, prompt: AsyncIterator[dict[str, Any]]) -> None:
        self.prompts.extend([message async for message in prompt])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        async def call(*args: Any) -> None:
            self.calls.append((name, *args))

        return call


def agent_of(client: Client, *stderr: str) -> ClaudeAgent:
    return ClaudeAgent(cast("ClaudeSDKClient", client), deque(stderr))


async def receive(agent: ClaudeAgent, into: list[Any]) -> None:
    """Keeps what came also when the stream breaks."""
    async for message in agent.receive_messages():
        into.append(message)  # noqa: PERF401


async def received(agent: ClaudeAgent) -> list[Any]:
    return [message async for message in agent.receive_messages()]


async def test_messages_are_passed_on_until_the_stream_ends() -> None:
    assert await received(agent_of(Client(["one", "two"]))) == ["one", "two"]


async def test_message_the_sdk_cannot_parse_is_a_message_and_not_the_end() -> None:
    client = Client(
        ["one", MessageParseError("Missing signature")],
        [MessageParseError("again")],
        ["two"],
    )

    assert await received(agent_of(client)) == [
        "one",
        UnparsedMessage("Missing signature"),
        UnparsedMessage("again"),
        "two",
    ]


async def test_too_many_messages_that_cannot_be_parsed_end_the_agent() -> None:
    """Else a stream that only raises would be read for ever."""
    odd = [[MessageParseError("odd")] for _ in range(MAX_UNPARSED + 2)]
    got: list[Any] = []

    with pytest.raises(AgentError, match=f"{MAX_UNPARSED} unreadable") as caught:
        await receive(agent_of(Client(*odd)), got)

    assert got == [UnparsedMessage("odd")] * MAX_UNPARSED
    assert isinstance(caught.value.__cause__, MessageParseError)


async def test_long_life_with_an_odd_message_now_and_then_is_no_broken_agent() -> None:
    """It is the rate that says that the stream is broken, not the sum."""
    count = MAX_UNPARSED + 1
    streams: list[list[Any]] = [
        ["fine"] * 10 + [MessageParseError("odd")] for _ in range(count)
    ]

    got = await received(agent_of(Client(*streams, ["the end"])))

    assert len(got) == 11 * count + 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ProcessError("failed", exit_code=-9), "killed (SIGKILL"),
        (ProcessError("failed", exit_code=1), "exited with code 1"),
        (ClaudeSDKError("odd end"), "odd end"),
        (CLIJSONDecodeError("{", ValueError("cut")), "Failed to decode JSON"),
    ],
)
async def test_stream_that_breaks_says_how_in_words(
    error: Exception, text: str
) -> None:
    agent = agent_of(Client(["one", error]))

    with pytest.raises(AgentError) as caught:
        await received(agent)

    assert text in str(caught.value)
    assert caught.value.__cause__ is error


async def test_stream_that_breaks_otherwise_raises_what_it_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await received(agent_of(Client([ZeroDivisionError()])))


async def test_control_calls_reach_the_client_as_they_are() -> None:
    client = Client()
    agent = agent_of(client)

    await agent.interrupt()
    await agent.set_permission_mode("plan")
    await agent.set_model(None)
    await agent.stop_task("t-1")
    await agent.disconnect()

    assert client.calls == [
        ("interrupt",),
        ("set_permission_mode", "plan"),
        ("set_model", None),
        ("stop_task", "t-1"),
        ("disconnect",),
    ]


def prompt(content: Any) -> dict[str, Any]:
    return {"type": "user", "message": {"role": "user", "content": content}}


PICTURE = {"type": "image", "source": {"type": "base64", "data": "@/etc/passwd"}}


@pytest.mark.parametrize(
    ("content", "marked"),
    [
        ("hello", False),
        ("1/2 or and/or", False),
        ("/clear", True),
        ("  \n/compact now", True),
        ("read @/etc/passwd", True),
        ("mail me@example.org", True),
        ([{"type": "text", "text": "hello"}], False),
        ([{"type": "text", "text": "/clear"}], True),
        ([{"type": "text", "text": "hello"}, {"type": "text", "text": "/clear"}], True),
        ([PICTURE], False),
        ([PICTURE, {"type": "text", "text": "@x"}], True),
    ],
)
async def test_prompt_is_marked_only_when_the_cli_would_act_upon_its_text(
    content: Any, marked: bool
) -> None:
    client = Client()

    async def prompts() -> AsyncIterator[dict[str, Any]]:
        yield prompt(content)

    await agent_of(client).query(prompts())

    (written,) = client.prompts
    assert written == prompt(content) | ({"client_composed": True} if marked else {})


# --- its process


class WithProcess(Client):
    """A client whose CLI is a process that does nothing."""

    _transport: Any

    async def start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec("sleep", "60")
        self._transport = SimpleNamespace(_process=process)
        return process


async def test_kill_ends_the_process_at_once() -> None:
    client = WithProcess()
    process = await client.start()
    agent = agent_of(client)
    assert agent.pid == process.pid

    agent.kill()

    async with asyncio.timeout(5):
        assert await process.wait() == -signal.SIGKILL
    agent.kill()


async def test_kill_spares_whoever_has_the_pid_after_the_cli(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, _signal: killed.append(pid))
    client = Client()
    cast("Any", client)._transport = transport = SimpleNamespace(
        _process=SimpleNamespace(pid=4242, returncode=None)
    )
    agent = agent_of(client)
    agent.kill()
    assert killed == [4242]

    transport._process.returncode = 0
    agent.kill()
    transport._process = SimpleNamespace(pid=4243, returncode=None)
    agent.kill()
    transport._process = None
    agent.kill()
    cast("Any", client)._transport = None
    agent.kill()

    assert killed == [4242]


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_kill_of_a_process_that_is_gone_is_quiet(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    asked: list[int] = []

    def refuse(pid: int, _signal: int) -> None:
        asked.append(pid)
        raise error

    monkeypatch.setattr("os.kill", refuse)
    client = Client()
    process = SimpleNamespace(pid=4242, returncode=None)
    cast("Any", client)._transport = SimpleNamespace(_process=process)

    agent_of(client).kill()

    assert asked == [4242]


def test_agent_of_a_client_without_a_process_has_no_pid_and_nothing_to_kill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("os.kill")
    agent = agent_of(Client(), "one", "two")

    agent.kill()

    assert agent.pid is None
    assert isinstance(agent, Killable)
    assert agent.last_words() == "one\ntwo"


# --- the factory


def options(config: SessionConfig, factory: ClaudeFactory) -> ClaudeAgentOptions:
    return factory.options(config, no_tool, deque())


def test_options_by_default_are_those_of_a_server() -> None:
    made = options(SessionConfig(session_id="s-1"), ClaudeFactory())

    assert made.session_id == "s-1"
    assert made.can_use_tool is no_tool
    assert made.include_partial_messages
    assert made.max_buffer_size == MAX_LINE_BYTES
    assert made.setting_sources == []
    assert made.strict_mcp_config
    assert (made.model, made.permission_mode) == (None, None)
    assert made.env["DISABLE_AUTOUPDATER"] == "1"
    assert made.user is None


def test_options_without_a_session_id_leave_it_to_the_cli() -> None:
    assert options(SessionConfig(), ClaudeFactory()).session_id is None


def test_options_take_what_the_embedder_sets() -> None:
    factory = ClaudeFactory(
        env={"ANTHROPIC_BASE_URL": "http://127.0.0.1:1", "DISABLE_AUTOUPDATER": "0"},
        system_prompt="be brief",
        allowed_tools=["Read"],
        model="theirs",
        cwd="/srv",
    )

    made = options(SessionConfig(session_id="s-1"), factory)

    assert (made.system_prompt, made.allowed_tools) == ("be brief", ["Read"])
    assert (made.model, str(made.cwd)) == ("theirs", "/srv")
    assert made.env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"
    assert made.env["DISABLE_AUTOUPDATER"] == "0"


def test_options_let_the_session_win_over_the_embedder() -> None:
    factory = ClaudeFactory(model="theirs", permission_mode="plan", cwd="/srv")
    config = SessionConfig(model="mine", permission_mode="acceptEdits", cwd="/tmp")

    made = options(config, factory)

    assert (made.model, made.permission_mode, str(made.cwd)) == (
        "mine",
        "acceptEdits",
        "/tmp",
    )


def test_options_keep_what_the_session_stands_on() -> None:
    """A session without its own callback or id would not work at all."""
    with pytest.raises(ConfigError, match="can_use_tool, session_id"):
        ClaudeFactory(session_id="theirs", can_use_tool=None, model="fine")

    made = options(SessionConfig(session_id="s-1"), ClaudeFactory())

    assert made.session_id == "s-1"
    assert made.can_use_tool is no_tool
    assert made.include_partial_messages


def test_options_blank_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_WEBKIT_TOKEN", "secret")
    monkeypatch.setenv("UNRELATED", "kept")

    made = options(SessionConfig(), ClaudeFactory())

    assert made.env["AGENT_WEBKIT_TOKEN"] == ""
    assert "UNRELATED" not in made.env


def test_options_keep_the_end_of_standard_error_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[ClaudeAgentOptions] = []
    words = stderr_of(monkeypatch, made, None)

    assert made[0].stderr is not None
    for number in range(MAX_STDERR_LINES + 5):
        made[0].stderr(f"{number} " + "x" * 10_000)

    lines = words().splitlines()
    assert len(lines) == MAX_STDERR_LINES
    assert [lines[0][:2], lines[-1][:3]] == ["5 ", f"{MAX_STDERR_LINES + 4} "]
    assert {len(line) for line in lines} == {MAX_STDERR_LINE_CHARS}


def stderr_of(
    monkeypatch: pytest.MonkeyPatch,
    made: list[ClaudeAgentOptions],
    error: Exception | None,
) -> Any:
    """Start an agent of a client that only keeps its options; return its last words."""

    class Connecting(Client):
        def __init__(self, given: ClaudeAgentOptions) -> None:
            super().__init__()
            made.append(given)

        async def connect(self) -> None:
            assert made[-1].stderr is not None
            if error is not None:
                made[-1].stderr("Not logged in")
                raise error

    monkeypatch.setattr("claude_agent_sdk.ClaudeSDKClient", Connecting)
    agent = asyncio.run(ClaudeFactory()(SessionConfig(session_id="s-1"), no_tool))
    return agent.last_words


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ProcessError("failed", exit_code=1), "exited with code 1; it said: Not logg"),
        (CLINotFoundError("Claude Code not found"), "Claude Code not found"),
        (Exception("Control request timeout: initialize"), "timeout: initialize"),
        (PermissionError("not executable"), "not executable"),
    ],
)
def test_factory_that_cannot_connect_says_why_and_quotes_the_cli(
    monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    with pytest.raises(AgentStartError) as caught:
        stderr_of(monkeypatch, [], error)

    assert text in str(caught.value)
    assert "Not logged in" in str(caught.value)
    assert caught.value.__cause__ is error
