from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
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
    claude,
)
from webkit_core.claude import (
    MAX_LINE_BYTES,
    MAX_UNPARSED,
    ClaudeAgent,
    UnparsedMessage,
)
from webkit_core.cli_process import CliProcess
from webkit_core.environment import MARK
from webkit_core.errors import ConfigError
from webkit_core.private_dirs import StateDir


async def no_tool(_name: str, _input: dict[str, Any], _context: Any) -> Any:
    raise AssertionError


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
    process = CliProcess(client)
    process.words.feed("\n".join(stderr).encode())
    return ClaudeAgent(cast("ClaudeSDKClient", client), process)


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


@pytest.mark.parametrize("odd", [TypeError("odd"), AttributeError("odd")])
async def test_message_the_sdk_stumbles_over_is_a_message_and_not_the_end(
    odd: Exception,
) -> None:
    client = Client(["one", odd], ["two"])

    assert await received(agent_of(client)) == ["one", UnparsedMessage("odd"), "two"]


async def test_unparsed_message_tells_its_type() -> None:
    """An unreadable result ends its turn."""
    error = MessageParseError("Missing field", {"type": "result"})

    assert await received(agent_of(Client([error], []))) == [
        UnparsedMessage("Missing field", "result")
    ]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ProcessError("failed", exit_code=-9), "killed (SIGKILL"),
        (ClaudeSDKError("odd end"), "odd end"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), "no UTF-8"),
    ],
)
async def test_stream_that_breaks_says_how_in_words(
    error: Exception, text: str
) -> None:
    with pytest.raises(AgentError, match=re.escape(text)) as caught:
        await received(agent_of(Client(["one", error])))

    assert caught.value.__cause__ is None


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


async def test_prompt_reaches_the_client_as_written() -> None:
    client = Client()
    prompt = {"type": "user", "message": {"role": "user", "content": "/clear"}}

    async def prompts() -> AsyncIterator[dict[str, Any]]:
        yield prompt

    await agent_of(client).query(prompts())

    assert client.prompts == [prompt | {"client_composed": True}]


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


async def test_agent_that_does_not_end_with_its_input_is_asked_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claude, "TERMINATE_AFTER_S", 0.0)
    client = WithProcess()
    process = await client.start()

    async def disconnect() -> None:
        await process.wait()

    cast("Any", client).disconnect = disconnect

    async with asyncio.timeout(5):
        await agent_of(client).disconnect()

    assert process.returncode == -signal.SIGTERM


async def test_sdk_that_never_lets_go_does_not_keep_the_agents_files(
    tmp_path: Path,
) -> None:
    """A store of the embedder's that hangs, say. The process is gone all the same."""
    client = WithProcess()
    process = await client.start()
    directory = await StateDir(tmp_path / "state").make()
    never: asyncio.Future[None] = asyncio.Future()
    cast("Any", client).disconnect = lambda: never
    agent = ClaudeAgent(cast("ClaudeSDKClient", client), CliProcess(client, directory))
    process.kill()

    leaving = asyncio.ensure_future(agent.disconnect())

    async with asyncio.timeout(5):
        while directory.path.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not leaving.done()
    never.set_result(None)
    await leaving
    await process.wait()


async def test_stream_that_ends_while_the_process_lives_is_no_good_end() -> None:
    """What the SDK's reader does when it stumbles over something."""
    client = WithProcess(["one", KeyError("filePath")], [])
    process = await client.start()
    agent = agent_of(client)
    got: list[Any] = []

    with pytest.raises(AgentError, match="stopped reading"):
        await receive(agent, got)

    assert got[0] == "one"
    process.kill()
    await process.wait()


async def test_stream_that_ends_because_it_is_to_end_is_a_good_end() -> None:
    client = WithProcess(["one"])
    process = await client.start()
    agent = agent_of(client)
    leaving = asyncio.ensure_future(agent.disconnect())
    await asyncio.sleep(0)

    assert await received(agent) == ["one"]

    process.kill()
    await leaving
    await process.wait()


async def test_stream_of_a_dead_process_that_the_sdk_still_reads_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its output is held open by something that cannot be killed."""
    monkeypatch.setattr(claude, "GRACE_S", 0.01)
    client = WithProcess()
    process = await client.start()
    ended = asyncio.Event()

    class Stream:
        """Has no room at first."""

        full = True

        def send_nowait(self, message: dict[str, Any]) -> None:
            if self.full:
                self.full = False
                raise RuntimeError
            assert message == {"type": "end"}
            ended.set()

    async def messages() -> AsyncIterator[Any]:
        yield "one"
        await ended.wait()

    cast("Any", client)._query = SimpleNamespace(_message_send=Stream())
    cast("Any", client).receive_messages = messages
    got: list[Any] = []
    process.kill()

    async with asyncio.timeout(5):
        with pytest.raises(AgentError, match="SIGKILL"):
            await receive(agent_of(client), got)

    assert got == ["one"]
    await process.wait()


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


HERE = Path("/state/one")


def options(config: SessionConfig, factory: ClaudeFactory) -> ClaudeAgentOptions:
    return factory.options(config, no_tool, HERE)


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
    assert made.env["CLAUDE_CONFIG_DIR"] == str(HERE / "config")
    assert made.user is None
    assert made.stderr is None


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


@pytest.mark.parametrize(
    ("passed", "private"),
    [((), True), (["CLAUDE_CONFIG_DIR"], False), (["CLAUDE_*"], True)],
)
def test_options_take_a_directory_of_the_servers_that_is_passed_by_its_name(
    monkeypatch: pytest.MonkeyPatch, passed: list[str], private: bool
) -> None:
    """It would be in the way of each session's own if it just happened to be set."""
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "/operators")

    made = options(SessionConfig(), ClaudeFactory(pass_env=passed))

    assert ("CLAUDE_CONFIG_DIR" in made.env) == private


def test_factory_refuses_what_is_no_name_of_a_variable() -> None:
    with pytest.raises(ConfigError, match="'A,B' is no name"):
        ClaudeFactory(pass_env=["A,B"])
    with pytest.raises(ConfigError, match="'A=B' is no name"):
        ClaudeFactory(env={"A=B": "x"})


class Connecting(Client):
    """A client that only keeps its options; ``error`` is how it fails."""

    made: ClassVar[list[ClaudeAgentOptions]]
    error: ClassVar[Exception | None]

    def __init__(self, given: ClaudeAgentOptions) -> None:
        super().__init__()
        self.made.append(given)

    async def connect(self) -> None:
        assert self.made[-1].cli_path is not None
        stderr = Path(self.made[-1].cli_path).with_name("stderr")
        await asyncio.to_thread(stderr.write_text, "Not logged in")
        if self.error is not None:
            raise self.error


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> type[Connecting]:
    Connecting.made, Connecting.error = [], None
    monkeypatch.setattr("claude_agent_sdk.ClaudeSDKClient", Connecting)
    return Connecting


def factory_in(tmp_path: Path) -> ClaudeFactory:
    return ClaudeFactory(state_dir=tmp_path / "state", cli_path="/bin/true")


async def test_factory_gives_each_agent_a_program_in_a_directory_of_its_own(
    connecting: type[Connecting], tmp_path: Path
) -> None:
    factory = factory_in(tmp_path)
    agents = [await factory(SessionConfig(), no_tool) for _ in range(2)]

    one, two = (Path(str(made.cli_path)) for made in connecting.made)
    assert one.parent != two.parent
    assert one.parent.parent == two.parent.parent == tmp_path / "state"
    assert connecting.made[0].env[MARK] == str(one.parent)
    assert agents[0].last_words() == "Not logged in"

    for agent in agents:
        await agent.disconnect()
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ProcessError("failed", exit_code=1), "exited with code 1; it said: Not logg"),
        (CLINotFoundError("Claude Code not found"), "Claude Code not found"),
        (Exception("Control request timeout: initialize"), "timeout: initialize"),
        (PermissionError("not executable"), "not executable"),
    ],
)
async def test_factory_that_cannot_connect_says_why_and_leaves_nothing(
    connecting: type[Connecting], tmp_path: Path, error: Exception, text: str
) -> None:
    connecting.error = error

    with pytest.raises(AgentStartError, match=re.escape(text)) as caught:
        await factory_in(tmp_path)(SessionConfig(), no_tool)

    assert str(caught.value).endswith("it said: Not logged in")
    assert not list((tmp_path / "state").iterdir())


async def test_factory_that_is_cancelled_notes_what_the_cli_said_and_leaves_nothing(
    connecting: type[Connecting], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = asyncio.Event()
    connect = connecting.connect

    async def hang(self: Connecting) -> None:
        await connect(self)
        said.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(connecting, "connect", hang)
    making = asyncio.ensure_future(factory_in(tmp_path)(SessionConfig(), no_tool))
    await said.wait()

    making.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await making

    assert caught.value.__notes__ == ["Not logged in"]
    assert not list((tmp_path / "state").iterdir())


async def test_factory_sweeps_before_its_first_agent(
    connecting: type[Connecting], tmp_path: Path
) -> None:
    """An embedder's server may have no start of ours."""
    left = tmp_path / "state" / f"{2**22 + 1}-1-abcdefgh"
    left.mkdir(parents=True)
    left.parent.chmod(0o700)
    factory = factory_in(tmp_path)

    first = await factory(SessionConfig(), no_tool)
    assert not left.exists()
    left.mkdir()
    second = await factory(SessionConfig(), no_tool)
    assert left.exists()

    await factory.sweep()
    assert not left.exists()
    await first.disconnect()
    await second.disconnect()


@pytest.mark.parametrize(
    ("mode", "why"), [(None, "not found"), (0o644, "cannot be executed")]
)
async def test_check_names_a_cli_that_cannot_be_started(
    tmp_path: Path, mode: int | None, why: str
) -> None:
    path = tmp_path / "no-cli"
    if mode is not None:
        path.touch(mode)

    with pytest.raises(AgentStartError, match=f"no-cli.*{why}|{why}.*no-cli"):
        await ClaudeFactory(cli_path=str(path)).check()
