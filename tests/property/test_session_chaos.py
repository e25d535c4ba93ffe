"""Whatever an agent and its clients do, in any order: what the wire promises holds.

The loop runs on virtual time: when every task waits, the clock jumps to the next
timer. So the real deadlines are under test, an example takes milliseconds and is the
same each time, and a task that waits for ever is an error at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import selectors
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterator
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given, settings, strategies as st

from tests.sse_parser import SseParser
from webkit_core import (
    AgentError,
    BackpressureError,
    CanUseTool,
    ConflictError,
    Deadlines,
    EvictedError,
    Inbound,
    Interrupt,
    InvalidInput,
    Limits,
    PermissionResponse,
    QuestionResponse,
    Session,
    SessionConfig,
    SessionNotFound,
    SetModel,
    SetPermissionMode,
    State,
    StopTask,
    UserMessage,
)
from webkit_core.testing import (
    AssistantMessage,
    ResultMessage,
    ScriptedAgent,
    SystemMessage,
    TextBlock,
    ToolPermissionContext,
    ToolUseBlock,
    streamed_text,
)

EXPECTED: Final = (
    AgentError,
    BackpressureError,
    ConflictError,
    InvalidInput,
    SessionNotFound,
)
"""What a client may be told; anything else is a mistake of ours."""

TURN_ENDING: Final = frozenset(
    {
        "agent_exited",
        "agent_timeout",
        "agent_unreachable",
        "interrupt_failed",
        "interrupt_ignored",
        "turn_aborted",
    }
)
CALLS: Final = (
    "query",
    "interrupt",
    "set_model",
    "set_permission_mode",
    "stop_task",
    "disconnect",
)
QUESTIONS: Final = [{"question": "Which?", "header": "", "options": []}]
WAITS_S: Final = (0.1, 1.0, 6.0, 40.0)


class Stuck(AssertionError):
    """Every task waits, and no timer runs."""


class _NoWaiting(selectors.DefaultSelector):  # type: ignore[misc, valid-type, unused-ignore]
    """Never waits for anything; counts how long it should have."""

    waited_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck("every task waits and no timer runs")
            self.waited_s += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop on which waiting takes no time."""

    def __init__(self) -> None:
        self._no_waiting = _NoWaiting()
        super().__init__(self._no_waiting)

    def time(self) -> float:
        return self._no_waiting.waited_s


async def turns(count: int) -> None:
    """Let everybody else go on for so many steps of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


class Agent(ScriptedAgent):
    """Behaves like a CLI: one result per prompt; gone when it is killed."""

    def __init__(self, can_use_tool: CanUseTool) -> None:
        super().__init__(can_use_tool)
        self.can_use_tool = can_use_tool
        self.unanswered: list[str] = []
        self.most_unanswered = 0
        self.gone = asyncio.Event()

    async def asks(self, name: str, given: dict[str, Any], id_: str) -> Any:
        return await self.can_use_tool(name, given, ToolPermissionContext(id_))

    async def query(self, prompt: AsyncIterable[dict[str, Any]]) -> None:
        await super().query(prompt)
        self.unanswered.append(self.prompts[-1]["uuid"])
        self.most_unanswered = max(self.most_unanswered, len(self.unanswered))

    async def disconnect(self) -> None:
        self.calls.append(("disconnect", None))
        if "disconnect" in self.hangs:
            await self.gone.wait()
        self.disconnected = True
        self.end()
        if "disconnect" in self.refuses:
            raise RuntimeError("disconnect is refused")

    def kill(self) -> None:
        super().kill()
        self.gone.set()


class Client:
    """Reads a stream, loses it, resumes behind the last id it has seen."""

    def __init__(self, session: Session, first: int) -> None:
        self.log = session.log
        self.first = first
        self.seen: list[tuple[int, str, Any]] = []
        self.evicted = False
        self.connect()

    @property
    def last_id(self) -> int:
        return self.seen[-1][0] if self.seen else self.first

    def connect(self) -> None:
        self.cursor = self.last_id
        self.parser = SseParser(last_event_id=str(self.last_id))

    def read(self, share: float = 1.0) -> None:
        """Take what is there; with a share below 1, the connection breaks within."""
        if self.evicted:
            return
        try:
            data, self.cursor = self.log.read(self.cursor)
        except EvictedError:
            self.evicted = True
            return
        for event in self.parser.feed(bytes(data[: int(len(data) * share)])):
            id_ = int(event.last_event_id)
            self.seen.append((id_, event.type, json.loads(event.data)))
        if share < 1.0:
            self.connect()

    def of(self, name: str) -> list[tuple[int, Any]]:
        return [(id_, data) for id_, each, data in self.seen if each == name]


class Chaos:
    """One session, its agent and its clients, and everything they can do."""

    def __init__(self, buffer_events: int, greeting: bool) -> None:
        self.session = Session(
            SessionConfig(session_id="s-1"),
            self.make_agent,
            limits=Limits(buffer_events=buffer_events, queued_messages=3),
            deadlines=DEADLINES,
        )
        self.greeting = greeting
        self.clients: list[Client] = []
        self.requests: list[asyncio.Task[Any]] = []
        self.asks: list[asyncio.Task[Any]] = []
        self.silent: set[str] = set()
        self.made = 0
        self.results = 0
        self.own_turns = 0
        self.odd = 0

    async def make_agent(self, _config: SessionConfig, ask: CanUseTool) -> Agent:
        self.agent = Agent(ask)
        return self.agent

    # --- the agent

    def speaks(self, number: int) -> None:
        self.made += 1
        self.agent.push(*streamed_text(f"msg_{self.made}", "Hel", "lo")[: number + 2])

    def answers(self, number: int) -> None:
        """Finish the turn of our prompt; not every CLI says whose it was."""
        if self.agent.unanswered:
            uuids = [self.agent.unanswered.pop(0)]
            self.results += 1
            self.agent.push(
                ResultMessage(
                    origin=({"kind": "human"}, None)[number % 2],
                    user_message_uuids=(uuids, None)[number // 2 % 2],
                )
            )

    def wakes(self, _number: int) -> None:
        """Begin a turn that nobody asked for."""
        self.own_turns += 1
        self.agent.push(SystemMessage("init"))

    def dozes_off(self, number: int) -> None:
        if self.own_turns:
            self.own_turns -= 1
            self.results += 1
            self.agent.push(
                ResultMessage(
                    origin={"kind": "task-notification"},
                    user_message_uuids=([], None)[number % 2],
                )
            )

    def asks_for(self, number: int) -> None:
        """A permission or a question; its tool use before it, after it, or never."""
        self.made += 1
        id_ = f"toolu_{self.made}"
        name = ("Bash", "AskUserQuestion")[number % 2]
        given = {"questions": QUESTIONS} if number % 2 else {"command": "ls"}
        announced = AssistantMessage([ToolUseBlock(id_, name, given)], f"of_{id_}")
        order = number // 2 % 4
        if order == 0:
            self.agent.push(announced)
        self.asks.append(asyncio.ensure_future(self.agent.asks(name, given, id_)))
        if order in (1, 2):
            self.agent.push(announced)
        elif order == 3:
            self.silent.add(id_)

    def takes_back(self, number: int) -> None:
        if self.asks:
            self.asks[number % len(self.asks)].cancel()

    def dies(self, number: int) -> None:
        self.agent.end((None, RuntimeError("boom"), AgentError("gone"))[number % 3])

    def stalls(self, number: int) -> None:
        self.agent.hangs.add(CALLS[number % len(CALLS)])

    def refuses(self, number: int) -> None:
        self.agent.refuses.add(CALLS[number % len(CALLS)])

    def babbles(self, _number: int) -> None:
        self.odd += 1
        self.agent.push(AssistantMessage(None, "msg_odd"))  # type: ignore[arg-type]

    # --- its clients

    def submits(self, message: Inbound) -> None:
        self.requests.append(asyncio.ensure_future(self.request(message)))

    async def request(self, message: Inbound) -> None:
        try:
            await self.session.submit(message, "tab-1")
        except EXPECTED:
            pass

    def says(self, number: int) -> None:
        self.submits(UserMessage(f"prompt {number}"))

    def interrupts(self, _number: int) -> None:
        self.submits(Interrupt())

    def configures(self, number: int) -> None:
        self.submits(
            (SetModel("m"), SetPermissionMode("plan"), StopTask("t-1"))[number % 3]
        )

    def replies(self, number: int) -> None:
        """To the newest request, an older one, or one that never was; right or not."""
        id_ = f"toolu_{self.made - number // 4 % 4}"
        self.submits(
            (
                PermissionResponse(id_, "allow"),
                PermissionResponse(id_, "deny", message="no"),
                QuestionResponse(id_, {"Which?": "this"}),
                QuestionResponse(id_, {"Whose?": "mine"}),
            )[number % 4]
        )

    def attaches(self, number: int) -> None:
        first = max(self.session.log.oldest_seq - 1, 0)
        self.clients.append(
            Client(self.session, min(first + number, self.session.log.last_seq))
        )

    def reads(self, number: int) -> None:
        if self.clients:
            self.clients[number % len(self.clients)].read()

    def loses_its_connection(self, number: int) -> None:
        if self.clients:
            self.clients[number % len(self.clients)].read(number / 16)

    def closes(self, _number: int) -> None:
        self.requests.append(asyncio.ensure_future(self.session.close()))

    # --- the course of it

    async def run(self, steps: list[Step]) -> None:
        await self.session.start()
        self.clients.append(Client(self.session, 0))
        if self.greeting:
            self.says(0)
            await turns(8)
        for step, number, pause in steps:
            if step is time_passes:
                await asyncio.sleep(WAITS_S[number % len(WAITS_S)])
            else:
                step(self, number)
            await turns(pause)
            self.clients[0].read()
        await self.end()

    async def end(self) -> None:
        """Close, and see that everything comes to its end in bounded time."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await self.session.close()
        assert loop.time() - began_s <= CLOSING_S
        await turns(8)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(task.done() for task in (*self.asks, *self.requests))
        for task in (*self.asks, *self.requests):
            if not task.cancelled():
                task.result()
        assert self.session.ended
        assert self.session.pending == []
        assert self.agent.disconnected or self.agent.killed
        before = self.session.log.last_seq
        self.agent.push(AssistantMessage([TextBlock("too late")], "msg_late"))
        await turns(4)
        assert self.session.log.last_seq == before
        for client in self.clients:
            client.read()
            check_stream(client)
            if client.first == 0 and not client.evicted:
                self.check_promises(client)

    # --- what the wire promises to whoever saw everything

    def check_promises(self, client: Client) -> None:
        names = Counter(name for _, name, _ in client.seen)
        assert client.seen[0][1] == "session_ready"
        assert (names["session_ready"], names["done"]) == (1, 1)
        self.check_requests(client)
        self.check_turns(client)
        codes = Counter(data["code"] for _, data in client.of("error"))
        assert codes["internal_error"] == 0
        assert codes["untranslatable_message"] <= self.odd
        states = [data["state"] for _, data in client.of("session_state")]
        assert all(a != b for a, b in pairwise(states))
        assert states[-1] == self.session.state

    def check_requests(self, client: Client) -> None:
        used = {data["tool_use_id"]: id_ for id_, data in client.of("tool_use")}
        asked = {
            data["correlation_id"]: id_
            for name in ("permission_request", "ask_user_question")
            for id_, data in client.of(name)
        }
        resolved = client.of("permission_resolved")
        assert sorted(data["correlation_id"] for _, data in resolved) == sorted(asked)
        for id_, data in resolved:
            assert id_ > asked[data["correlation_id"]]
        for tool_use_id, id_ in asked.items():
            announced = used.get(tool_use_id)
            assert tool_use_id in self.silent or (announced and announced < id_)

    def check_turns(self, client: Client) -> None:
        results = len(client.of("result"))
        fatal = [
            data["code"]
            for _, data in client.of("error")
            if data["code"] in TURN_ENDING
        ]
        handed_over = [name for name, _ in self.agent.calls].count("query")
        assert len(fatal) <= 1
        assert handed_over - len(fatal) <= results <= self.results
        assert self.agent.most_unanswered <= 1
        if not fatal:
            assert self.session.state is State.CLOSED
            assert handed_over == len(self.agent.prompts)
            assert self.agent.unanswered == []


def check_stream(client: Client) -> None:
    """Contiguous ids to the one ``done``, or as far as an explicit eviction."""
    ids = [id_ for id_, _, _ in client.seen]
    assert ids == list(range(client.first + 1, client.first + 1 + len(ids)))
    if not client.evicted:
        assert client.last_id == client.log.last_seq
        assert [name for _, name, _ in client.seen][-1:] == ["done"] or not ids


def time_passes(_chaos: Chaos, _number: int) -> None:
    """A step that :meth:`Chaos.run` takes."""


Step = tuple[Callable[[Chaos, int], None], int, int]

DEADLINES: Final = Deadlines()
CLOSING_S: Final = DEADLINES.close_turn_s + 3 * DEADLINES.disconnect_s + 0.01

COMMON: Final = (
    Chaos.speaks,
    Chaos.answers,
    Chaos.answers,
    Chaos.asks_for,
    Chaos.asks_for,
    Chaos.says,
    Chaos.says,
    Chaos.replies,
    Chaos.replies,
    Chaos.interrupts,
    Chaos.reads,
    time_passes,
)
RARE: Final = (
    Chaos.wakes,
    Chaos.dozes_off,
    Chaos.takes_back,
    Chaos.stalls,
    Chaos.refuses,
    Chaos.babbles,
    Chaos.configures,
    Chaos.attaches,
    Chaos.loses_its_connection,
)
FINAL: Final = (Chaos.dies, Chaos.closes)

steps: Final = st.tuples(
    st.sampled_from(COMMON * 2 + RARE * 2 + FINAL),
    st.integers(0, 15),
    st.integers(0, 5),
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Operators would hear of all this; here it is only long."""
    logging.getLogger("webkit_core").setLevel(logging.CRITICAL + 1)
    yield
    logging.getLogger("webkit_core").setLevel(logging.NOTSET)


@given(
    course=st.lists(steps, max_size=40),
    buffer_events=st.sampled_from([8, 1000]),
    greeting=st.booleans(),
)
@settings(max_examples=150)
def test_session_under_chaos_keeps_the_promises_of_the_wire(
    course: list[Step], buffer_events: int, greeting: bool
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(Chaos(buffer_events, greeting).run(course))
