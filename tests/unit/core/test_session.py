from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from claude_agent_sdk import PermissionResultAllow, PermissionResultDeny

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.stepping import settle
from tests.unit.core.test_conversation import names, of, started as task_started
from webkit_core import (
    AgentRefused,
    AgentStartError,
    BackpressureError,
    CanUseTool,
    ConflictError,
    Deadlines,
    Inbound,
    Interrupt,
    InvalidInput,
    Limits,
    PermissionResponse,
    QuestionResponse,
    Session,
    SessionClosed,
    SessionConfig,
    SessionFailed,
    SetModel,
    SetPermissionMode,
    State,
    StopTask,
    Traffic,
    Unavailable,
    UserMessage,
    telemetry_for,
)
from webkit_core.protocol import ImageContent, ImageSource, TextContent
from webkit_core.testing import (
    AssistantMessage,
    FakeClock,
    ResultMessage,
    ScriptedAgent,
    ScriptedFactory,
    ToolPermissionContext,
    ToolUseBlock,
)

QUESTIONS = [{"question": "Which colour?", "header": "Colour", "options": []}]


async def soon(work: Awaitable[Any]) -> Any:
    """What ``work`` gives, unless it takes for ever."""
    async with asyncio.timeout(5):
        return await work


class Live:
    """A session of a scripted agent on a clock that stands still."""

    def __init__(self, **limits: int) -> None:
        self.clock = FakeClock()
        self.factory = ScriptedFactory()
        self.session = Session(
            SessionConfig(session_id="s-1"),
            self.factory,
            limits=Limits(**limits),
            # Nobody is there who would end a turn that a test leaves running.
            deadlines=Deadlines(close_turn_s=0.01),
            clock=self.clock,
        )

    @property
    def agent(self) -> ScriptedAgent:
        return self.factory.agents[0]

    def state(self) -> State:
        """Asked anew each time: it changes behind the type checker's back."""
        return self.session.state

    async def start(self) -> Live:
        await soon(self.session.start())
        return self

    async def in_turn(self, text: str = "hello") -> Live:
        await self.session.submit(UserMessage(text))
        await soon(self.agent.prompted())
        await settle()
        return self

    async def asked(
        self, tool_use_id: str, tool_name: str = "Bash", **tool_input: Any
    ) -> asyncio.Task[Any]:
        """A request that clients can see."""
        asking = self.agent.ask(tool_use_id, tool_name, **tool_input)
        task = asyncio.ensure_future(soon(asking))
        await settle()
        assert tool_use_id in [each.correlation_id for each in self.session.pending]
        return task

    async def shown(self, name: str, count: int = 1) -> None:
        """Until that many events of that name are in the log."""
        async with asyncio.timeout(5):
            while names(self.session.log).count(name) < count:
                await self.session.log.wait()

    async def answered(self, count: int = 1) -> None:
        """Let the agent answer, until that many results are in the log."""
        self.agent.say("yes")
        await self.shown("result", count)
        await settle()

    async def close(self) -> None:
        await soon(self.session.close())


def allow(correlation_id: str, **fields: Any) -> PermissionResponse:
    return PermissionResponse(correlation_id, "allow", **fields)


def deny(correlation_id: str, **fields: Any) -> PermissionResponse:
    return PermissionResponse(correlation_id, "deny", **fields)


# --- what it is


async def test_session_starts_idle_and_knows_itself() -> None:
    live = await Live().start()
    session = live.session

    assert (session.id, session.config.session_id) == ("s-1", "s-1")
    assert (session.state, session.ended, session.failure) == (State.IDLE, False, None)
    assert (session.subscribers, session.queued, session.pending) == (0, 0, [])
    assert session.cost_usd == 0
    assert live.factory.configs == [session.config]
    await live.close()


async def test_session_counts_what_its_turns_cost() -> None:
    live = await Live().start()
    await live.in_turn()

    live.agent.say("yes", cost_usd=0.25)
    await live.shown("result")

    assert live.session.cost_usd == 0.25
    await live.close()


async def test_session_that_did_not_start_says_why_and_is_over() -> None:
    live = Live()
    live.factory.error = OSError("no such CLI")

    with pytest.raises(AgentStartError, match="no such CLI"):
        await live.start()

    await soon(live.session.wait_ended())
    assert live.session.ended
    assert live.session.failure is not None
    with pytest.raises(SessionFailed, match="no such CLI"):
        await live.session.submit(UserMessage("hello"))


async def test_session_closed_while_it_starts_ends_the_start() -> None:
    live = Live()
    live.factory.gate = asyncio.Event()
    starting = asyncio.ensure_future(live.start())
    await settle()
    assert live.factory.configs, "the factory is at work"

    await live.close()

    with pytest.raises(AgentStartError):
        await starting
    assert live.session.ended
    assert live.factory.agents == []


# --- a whole conversation


async def test_each_turn_ends_in_one_result_and_the_session_in_one_done() -> None:
    live = await Live().start()
    for number in range(1, 4):
        await live.session.submit(UserMessage(f"question {number}"))
        await soon(live.agent.prompted(number))
        await live.answered(number)
    await live.close()

    shown = names(live.session.log)
    assert shown[0] == "session_ready"
    assert shown.count("result") == 3
    assert shown.count("error") == 0
    assert (shown.count("done"), shown[-1]) == (1, "done")


async def test_queued_messages_are_counted_until_they_are_handed_over() -> None:
    live = await Live().start()
    await live.in_turn()
    await live.session.submit(UserMessage("second"))
    await live.session.submit(SetModel("other"))
    assert live.session.queued == 2

    await live.answered()
    assert live.session.queued == 1
    await live.answered(2)

    assert live.session.queued == 0
    await live.close()


async def test_queue_at_its_limit_refuses_and_takes_more_later() -> None:
    live = await Live(queued_messages=2).start()
    await live.in_turn()
    await live.session.submit(UserMessage("second"))
    await live.session.submit(SetModel("other"))

    for message in (UserMessage("third"), SetModel(None)):
        with pytest.raises(BackpressureError) as caught:
            await live.session.submit(message)
        assert caught.value.limit == 2
    assert live.session.queued == 2

    await live.answered()
    await live.session.submit(UserMessage("third"))
    await live.answered(2)
    await live.answered(3)
    contents = [prompt["message"]["content"] for prompt in live.agent.prompts]
    assert contents == ["hello", "second", "third"]
    await live.close()


def with_image(chars: int) -> UserMessage:
    data = "aGkh" * (chars // 4)
    return UserMessage([ImageContent(ImageSource("base64", "image/png", data))])


@pytest.mark.parametrize(
    "message",
    [UserMessage("x" * 40), with_image(40), UserMessage([TextContent("x" * 40)])],
    ids=["text", "image", "block"],
)
async def test_queue_holds_so_many_characters_and_takes_more_later(
    message: UserMessage,
) -> None:
    live = await Live(queued_chars=100).start()
    await live.in_turn()
    for _ in range(2):
        await live.session.submit(message)
    assert live.session.queued == 2

    with pytest.raises(BackpressureError, match="100 characters") as caught:
        await live.session.submit(message)
    assert (caught.value.limit, caught.value.what) == (100, "characters")
    assert live.session.queued == 2

    await live.answered()
    await live.session.submit(message)
    assert live.session.queued == 2
    await live.close()


async def test_queue_may_be_full_to_the_last_character() -> None:
    live = await Live(queued_chars=100).start()
    await live.in_turn()
    await live.session.submit(UserMessage("x" * 60))

    await live.session.submit(with_image(40))

    with pytest.raises(BackpressureError):
        await live.session.submit(UserMessage("x"))
    await live.close()


async def test_message_longer_than_the_queue_fits_when_it_is_the_first() -> None:
    """Else it never could be said."""
    live = await Live(queued_chars=100).start()
    await live.in_turn()

    await live.session.submit(UserMessage("x" * 1000))

    with pytest.raises(BackpressureError, match="characters"):
        await live.session.submit(UserMessage("x"))
    await live.answered()
    await live.answered(2)
    assert len(live.agent.prompts) == 2
    await live.close()


async def test_message_longer_than_the_queue_fits_behind_a_model() -> None:
    live = await Live(queued_chars=100).start()
    await live.in_turn()
    await live.session.submit(SetModel("m"))

    await live.session.submit(UserMessage("x" * 1000))

    assert live.session.queued == 2
    await live.close()


async def test_queue_full_of_characters_takes_a_model() -> None:
    live = await Live(queued_chars=100).start()
    await live.in_turn()
    await live.session.submit(UserMessage("x" * 100))

    await live.session.submit(SetModel("m"))

    assert live.session.queued == 2
    await live.close()


async def test_full_queue_lets_everything_else_through() -> None:
    live = await Live(queued_messages=1).start()
    await live.in_turn()
    await live.session.submit(UserMessage("second"))
    task = await live.asked("toolu_1")

    await live.session.submit(allow("toolu_1"))
    await live.session.submit(SetPermissionMode("plan"))
    await live.session.submit(StopTask("t-1"))
    await live.session.submit(Interrupt())
    await soon(live.agent.called("interrupt"))

    assert isinstance(await task, PermissionResultAllow)
    assert ("set_permission_mode", "plan") in live.agent.calls
    assert ("stop_task", "t-1") in live.agent.calls
    live.agent.push(ResultMessage())
    await soon(live.agent.prompted(2))
    await live.answered(2)
    await live.close()


async def test_control_request_refused_is_told_to_whoever_made_it() -> None:
    live = await Live().start()
    live.agent.refuses = {"set_permission_mode", "stop_task"}

    for message in (SetPermissionMode("plan"), StopTask("t-1")):
        with pytest.raises(AgentRefused, match="is refused"):
            await live.session.submit(message)

    assert names(live.session.log) == ["session_ready"]
    assert live.state() is State.IDLE
    await live.close()


async def test_interrupt_when_idle_does_nothing() -> None:
    live = await Live().start()

    await live.session.submit(Interrupt())
    await settle()

    assert live.agent.calls == []
    assert names(live.session.log) == ["session_ready"]
    await live.close()


ANYTHING: list[Inbound] = [
    UserMessage("hello"),
    Interrupt(),
    allow("toolu_1"),
    QuestionResponse("toolu_1", {"?": "x"}),
    SetPermissionMode("plan"),
    SetModel(None),
    StopTask("t-1"),
]


@pytest.mark.parametrize("message", ANYTHING, ids=lambda given: type(given).__name__)
async def test_input_to_a_closed_session_is_refused(message: Inbound) -> None:
    live = await Live().start()
    await live.close()
    calls = list(live.agent.calls)

    with pytest.raises(SessionClosed):
        await live.session.submit(message)

    assert live.agent.calls == calls
    assert live.session.queued == 0


@pytest.mark.parametrize("message", ANYTHING, ids=lambda given: type(given).__name__)
async def test_input_to_a_failed_session_is_refused_and_told_why(
    message: Inbound,
) -> None:
    live = await Live().start()
    live.agent.stderr = "out of memory"
    live.agent.end()
    await soon(live.session.wait_ended())

    with pytest.raises(SessionFailed, match="out of memory") as caught:
        await live.session.submit(message)

    assert caught.value.session_id == "s-1"
    assert live.session.queued == 0


async def test_input_while_the_session_closes_is_refused() -> None:
    live = await Live().start()
    await live.in_turn()
    closing = asyncio.ensure_future(live.session.close())
    await settle()
    assert not live.session.ended

    with pytest.raises(SessionClosed):
        await live.session.submit(UserMessage("too late"))

    live.agent.push(ResultMessage())
    await soon(closing)


async def test_input_before_the_start_is_refused() -> None:
    with pytest.raises(Unavailable, match="still starting"):
        await Live().session.submit(UserMessage("too early"))


# --- permissions and questions


async def test_permission_allowed_lets_the_tool_run() -> None:
    live = await Live().start()
    await live.in_turn()
    task = await live.asked("toolu_1", command="ls")
    assert live.state() is State.WAITING
    assert [request.input for request in live.session.pending] == [{"command": "ls"}]

    await live.session.submit(
        allow("toolu_1", updated_input={"command": "pwd"}), "tab-1"
    )

    assert await task == PermissionResultAllow(updated_input={"command": "pwd"})
    assert of(live.session.log, "permission_resolved") == [
        {"correlation_id": "toolu_1", "outcome": "allow", "subscriber_id": "tab-1"}
    ]
    assert live.state() is State.RUNNING
    assert live.session.pending == []
    await live.answered()
    await live.close()


async def test_permission_denied_stops_the_tool_and_says_why() -> None:
    live = await Live().start()
    await live.in_turn()
    task = await live.asked("toolu_1")

    await live.session.submit(deny("toolu_1", message="not there", interrupt=True))

    assert await task == PermissionResultDeny(message="not there", interrupt=True)
    await live.answered()
    await live.close()


async def test_question_answered_goes_back_with_its_questions() -> None:
    live = await Live().start()
    await live.in_turn()
    task = await live.asked("toolu_1", "AskUserQuestion", questions=QUESTIONS)
    assert of(live.session.log, "ask_user_question") == [
        {"correlation_id": "toolu_1", "questions": {"questions": QUESTIONS}}
    ]

    await live.session.submit(QuestionResponse("toolu_1", {"Which colour?": "Red"}))

    assert await task == PermissionResultAllow(
        updated_input={"questions": QUESTIONS, "answers": {"Which colour?": "Red"}}
    )
    await live.answered()
    await live.close()


async def test_parallel_requests_are_answered_in_any_order() -> None:
    live = await Live().start()
    await live.in_turn()
    tasks = [await live.asked(f"toolu_{number}") for number in range(3)]

    await live.session.submit(deny("toolu_2"))
    await live.session.submit(allow("toolu_0"))
    await settle()
    assert [task.done() for task in tasks] == [True, False, True]
    assert live.state() is State.WAITING
    await live.session.submit(allow("toolu_1"))
    await settle()

    assert live.state() is State.RUNNING
    assert [type(await task).__name__ for task in tasks] == [
        "PermissionResultAllow",
        "PermissionResultAllow",
        "PermissionResultDeny",
    ]
    await live.answered()
    await live.close()


async def test_reply_that_does_not_fit_leaves_the_request_to_a_better_one() -> None:
    live = await Live().start()
    task = await live.asked("toolu_1")

    with pytest.raises(InvalidInput):
        await live.session.submit(QuestionResponse("toolu_1", {"?": "x"}))
    with pytest.raises(ConflictError):
        await live.session.submit(allow("toolu_9"))
    assert not task.done()

    await live.session.submit(allow("toolu_1"))
    await task
    with pytest.raises(ConflictError) as caught:
        await live.session.submit(deny("toolu_1"))
    assert caught.value.outcome == "allow"
    await live.close()


async def test_request_taken_back_by_the_agent_is_resolved_as_cancelled() -> None:
    live = await Live().start()
    await live.in_turn()
    task = await live.asked("toolu_1")

    task.cancel()
    await settle()

    assert of(live.session.log, "permission_resolved") == [
        {"correlation_id": "toolu_1", "outcome": "cancelled"}
    ]
    with pytest.raises(ConflictError):
        await live.session.submit(allow("toolu_1"))
    assert live.state() is State.RUNNING
    await live.answered()
    await live.close()


async def test_request_open_when_the_session_closes_is_denied() -> None:
    live = await Live().start()
    await live.in_turn()
    task = await live.asked("toolu_1")
    closing = asyncio.ensure_future(live.session.close())
    await soon(live.agent.called("interrupt"))
    live.agent.push(ResultMessage("error_during_execution", is_error=True))
    await soon(closing)

    assert isinstance(await task, PermissionResultDeny)
    (resolved,) = of(live.session.log, "permission_resolved")
    assert resolved["outcome"] == "cancelled"
    assert names(live.session.log)[-1] == "done"
    assert live.session.pending == []


async def test_request_of_a_background_task_does_not_hold_the_next_turn_back() -> None:
    live = await Live().start()
    task = await live.asked("toolu_1")
    assert live.state() is State.BACKGROUND_WAITING

    await live.in_turn()
    assert live.state() is State.WAITING
    await live.answered()
    assert live.state() is State.BACKGROUND_WAITING

    await live.session.submit(allow("toolu_1"))
    await task
    assert live.state() is State.IDLE
    await live.close()


async def test_tool_use_is_shown_before_its_request_even_if_it_comes_later() -> None:
    callbacks: list[CanUseTool] = []
    live = Live()

    async def factory(config: SessionConfig, ask: CanUseTool) -> ScriptedAgent:
        callbacks.append(ask)
        return await live.factory(config, ask)

    session = Session(SessionConfig(session_id="s-1"), factory)
    await session.start()
    asking = callbacks[0]("Bash", {}, ToolPermissionContext("toolu_1"))
    task = asyncio.ensure_future(soon(asking))
    await settle()
    assert session.pending == []

    live.agent.push(AssistantMessage([ToolUseBlock("toolu_1", "Bash", {})], "msg_1"))
    await settle()

    shown = names(session.log)
    assert shown.index("tool_use") < shown.index("permission_request")
    await session.submit(allow("toolu_1"))
    assert await task == PermissionResultAllow()
    await session.close()


# --- the end


async def test_close_is_idempotent() -> None:
    live = await Live().start()

    await live.close()
    shown = names(live.session.log)
    await live.close()

    assert names(live.session.log) == shown
    assert [name for name, _ in live.agent.calls] == ["disconnect"]


async def test_closes_at_once_all_return_at_the_one_end() -> None:
    live = await Live().start()
    await live.in_turn()
    closings = [asyncio.ensure_future(live.session.close()) for _ in range(3)]
    await soon(live.agent.called("interrupt"))
    await settle()
    assert not any(closing.done() for closing in closings)

    live.agent.push(ResultMessage())
    await soon(asyncio.gather(*closings))

    assert names(live.session.log).count("done") == 1
    assert [name for name, _ in live.agent.calls].count("disconnect") == 1
    assert live.agent.disconnected


async def test_close_goes_on_when_its_caller_is_cancelled() -> None:
    live = await Live().start()
    await live.in_turn()
    closing = asyncio.ensure_future(live.session.close())
    await settle()

    closing.cancel()
    await settle()
    assert closing.cancelled()
    live.agent.push(ResultMessage())

    await soon(live.session.wait_ended())
    assert live.state() is State.CLOSED
    assert live.agent.disconnected


async def test_wait_ended_waits_for_the_agent_to_be_gone() -> None:
    live = await Live().start()
    waiting = asyncio.ensure_future(live.session.wait_ended())
    await settle()
    assert not waiting.done()

    live.agent.end()

    await soon(waiting)
    assert live.agent.disconnected
    assert live.state() is State.FAILED


# --- who uses it


async def test_idle_time_runs_while_nobody_uses_the_session() -> None:
    live = await Live().start()
    live.clock.advance(7)

    assert live.session.idle_s() == 7
    live.clock.advance(3)
    assert live.session.idle_s() == 10
    await live.close()


async def test_idle_time_begins_anew_with_every_input() -> None:
    live = await Live().start()
    live.clock.advance(7)

    await live.session.submit(Interrupt())

    assert live.session.idle_s() == 0
    live.clock.advance(2)
    assert live.session.idle_s() == 2
    await live.close()


async def test_subscriber_keeps_the_session_in_use_until_it_leaves() -> None:
    live = await Live().start()
    with live.session.attached():
        with live.session.attached():
            assert live.session.subscribers == 2
        assert live.session.subscribers == 1
        live.clock.advance(1000)
        assert live.session.idle_s() == 0
        live.clock.advance(1000)

    assert live.session.subscribers == 0
    assert live.session.idle_s() == 0
    live.clock.advance(5)
    assert live.session.idle_s() == 5
    await live.close()


async def test_subscriber_that_breaks_off_is_not_counted_any_more() -> None:
    live = Live()

    with pytest.raises(asyncio.CancelledError), live.session.attached():
        raise asyncio.CancelledError

    assert live.session.subscribers == 0


async def test_turn_keeps_the_session_in_use_until_its_end() -> None:
    live = await Live().start()
    await live.in_turn()
    live.clock.advance(1000)
    assert live.session.idle_s() == 0

    await live.answered()

    live.clock.advance(5)
    assert live.session.idle_s() == 5
    await live.close()


async def test_open_request_keeps_the_session_in_use_until_it_is_answered() -> None:
    live = await Live().start()
    task = await live.asked("toolu_1")
    live.clock.advance(1000)
    assert live.session.idle_s() == 0

    await live.session.submit(allow("toolu_1"))
    await task

    live.clock.advance(5)
    assert live.session.idle_s() == 5
    await live.close()


async def test_background_task_keeps_the_session_in_use() -> None:
    live = await Live().start()
    live.agent.push(task_started())
    await live.shown("task_status")

    live.clock.advance(1000)

    assert live.session.idle_s() == 0
    await live.close()


async def test_failed_session_with_messages_left_in_its_queue_grows_idle() -> None:
    """Else it would stay in the registry for ever."""
    live = await Live().start()
    await live.in_turn()
    await live.session.submit(UserMessage("never said"))
    live.agent.end(RuntimeError("boom"))
    await soon(live.session.wait_ended())

    live.clock.advance(1000)

    assert live.session.idle_s() == 1000
    assert live.session.queued == 0


async def test_failed_session_with_a_background_task_left_grows_idle() -> None:
    live = await Live().start()
    live.agent.push(task_started())
    await live.shown("task_status")
    live.agent.end()
    await soon(live.session.wait_ended())

    live.clock.advance(1000)

    assert live.session.idle_s() == 1000


async def test_failed_session_is_in_use_while_somebody_reads_it() -> None:
    live = await Live().start()
    live.agent.end()
    await soon(live.session.wait_ended())

    with live.session.attached():
        live.clock.advance(1000)
        assert live.session.idle_s() == 0


# --- what metrics are made of


class WithPid(ScriptedAgent):
    """An agent with a process, by whatever its client calls one."""

    def __init__(self, can_use_tool: CanUseTool, pid: object) -> None:
        super().__init__(can_use_tool)
        self.pid = pid


@pytest.mark.parametrize(("pid", "shown"), [(4711, 4711), (None, None), ("4711", None)])
async def test_pid_of_the_agent_is_known_while_it_is_there(
    pid: object, shown: int | None
) -> None:
    async def factory(_config: SessionConfig, ask: CanUseTool) -> ScriptedAgent:
        return WithPid(ask, pid)

    session = Session(SessionConfig(session_id="s-1"), factory)
    assert session.agent_pid is None
    await soon(session.start())
    assert session.agent_pid == shown

    await soon(session.close())

    assert session.agent_pid is None


async def test_agent_without_a_process_has_no_pid() -> None:
    live = await Live().start()

    assert live.session.agent_pid is None
    await soon(live.session.close())


async def test_released_is_told_once_with_the_session() -> None:
    live = await Live().start()
    told: list[tuple[Session, bool]] = []
    live.session.on_released(lambda session: told.append((session, session.released)))

    await soon(live.session.close())
    await soon(live.session.close())
    await settle()

    assert told == [(live.session, True)]


async def test_released_is_told_when_the_agent_dies_by_itself() -> None:
    live = await Live().start()
    told: list[Session] = []
    live.session.on_released(told.append)

    live.agent.end(RuntimeError("boom"))
    await soon(live.session.wait_ended())
    await settle()

    assert told == [live.session]


def test_sessions_count_into_the_traffic_they_are_given() -> None:
    traffic = Traffic()

    sessions = [
        Session(SessionConfig(session_id=name), ScriptedFactory(), traffic=traffic)
        for name in "ab"
    ]
    alone = Session(SessionConfig(session_id="c"), ScriptedFactory())

    assert [session.traffic is traffic for session in sessions] == [True, True]
    assert alone.traffic is not traffic
    assert alone.telemetry is telemetry_for()


# --- rules, and people who do not answer


def made(agents: ScriptedFactory, **given: Any) -> Session:
    return Session(SessionConfig(session_id="s-1"), agents, **given)


async def test_agent_hears_at_once_what_the_policy_of_its_session_says() -> None:
    heard: list[Any] = []

    async def policy(name: str, tool_input: dict[str, Any]) -> Any:
        heard.append((name, tool_input))
        return "allow" if name == "Read" else "deny"

    factory = ScriptedFactory()
    session = made(factory, policy=policy)
    await soon(session.start())
    agent = factory.agents[0]

    allowed = await soon(agent.ask("toolu_1", "Read", path="x"))
    denied = await soon(agent.ask("toolu_2", "Bash", command="ls"))

    assert allowed == PermissionResultAllow()
    assert isinstance(denied, PermissionResultDeny)
    assert denied.message
    assert not denied.interrupt
    assert heard == [("Read", {"path": "x"}), ("Bash", {"command": "ls"})]
    assert "permission_request" not in names(session.log)
    (notice,) = of(session.log, "notice")
    assert (notice["kind"], notice["details"]["request"]) == ("refused", "Bash")
    await soon(session.close())


def test_people_have_as_long_as_the_deadlines_of_the_session_say() -> None:
    async def main() -> None:
        factory = ScriptedFactory()
        session = made(factory, deadlines=Deadlines(permission_s=60.0))
        await session.start()

        denied = await factory.agents[0].ask("toolu_1")

        assert now_s() == pytest.approx(60, abs=0.1)
        assert isinstance(denied, PermissionResultDeny)
        assert not denied.interrupt
        with pytest.raises(ConflictError, match="expired"):
            await session.submit(allow("toolu_1"))
        assert session.pending == []
        assert [each["outcome"] for each in of(session.log, "permission_resolved")] == [
            "expired"
        ]
        await session.close()

    run_in_no_time(main())


def test_people_have_an_hour_by_default() -> None:
    async def main() -> None:
        factory = ScriptedFactory()
        session = made(factory)
        await session.start()
        await factory.agents[0].ask("toolu_1")
        assert now_s() == pytest.approx(3600, abs=0.1)
        await session.close()

    run_in_no_time(main())
