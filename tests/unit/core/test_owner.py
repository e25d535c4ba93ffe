from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from opentelemetry.context import attach, detach, get_value, set_value

from tests.unit.core.stepping import settle
from tests.unit.core.test_conversation import names, of, open_ask, seen, states
from webkit_core import (
    DEFAULT_DELTAS,
    Agent,
    AgentError,
    AgentRefused,
    AgentStartError,
    AgentTimeout,
    CanUseTool,
    Deadlines,
    Deny,
    Limits,
    SdkFactory,
    SessionConfig,
    SetModel,
    State,
    UserMessage,
)
from webkit_core.conversation import Conversation
from webkit_core.owner import Owner
from webkit_core.protocol import ImageContent, ImageSource, TextContent
from webkit_core.testing import (
    ResultMessage,
    ScriptedAgent,
    ScriptedFactory,
    SystemMessage,
)

SOON_S = 0.02
"""A deadline that the test waits for."""

Make = Callable[[CanUseTool], ScriptedAgent]


async def no_permission(_name: str, _input: dict[str, Any], _context: Any) -> Any:
    raise AssertionError


class Live:
    """An owner, its conversation, and the agent when there is one."""

    def __init__(
        self,
        make: Make = ScriptedAgent,
        *,
        factory: SdkFactory | None = None,
        **deadlines: float,
    ) -> None:
        self.agents: list[ScriptedAgent] = []
        self.make = make
        self.talk = Conversation("s-1", DEFAULT_DELTAS, Limits())
        self.owner = Owner(
            SessionConfig(session_id="s-1"),
            factory or self.factory,
            self.talk,
            Deadlines(**deadlines),
        )

    async def factory(
        self, _config: SessionConfig, can_use_tool: CanUseTool
    ) -> ScriptedAgent:
        self.agents.append(self.make(can_use_tool))
        return self.agent

    @property
    def agent(self) -> ScriptedAgent:
        return self.agents[-1]

    @property
    def errors(self) -> list[str]:
        return [error["code"] for error in of(self.talk.log, "error")]

    async def start(self) -> Live:
        async with asyncio.timeout(5):
            await self.owner.start()
        return self

    async def ended(self) -> None:
        """Until the agent is gone; then the log must have ended, once."""
        async with asyncio.timeout(5):
            await self.owner.ended()
        shown = names(self.talk.log)
        assert shown.count("done") == 1
        assert shown[-1] == "done"
        assert self.talk.log.closed

    async def stop(self) -> None:
        self.owner.stop()
        await self.ended()

    async def shown(self, name: str, count: int = 1) -> None:
        """Until that many events of that name are in the log."""
        async with asyncio.timeout(5):
            while names(self.talk.log).count(name) < count:
                await self.talk.log.wait()

    def say(self, text: str = "hello") -> None:
        self.owner.put(UserMessage(text))

    async def in_turn(self) -> Live:
        """Started, with a prompt handed over."""
        await self.start()
        self.say()
        async with asyncio.timeout(5):
            await self.agent.prompted()
        await settle()
        assert self.talk.state is State.RUNNING
        return self

    @property
    def prompts(self) -> list[Any]:
        return [prompt["message"]["content"] for prompt in self.agent.prompts]

    def count(self, name: str) -> int:
        """How often the agent was called so."""
        return [called for called, _ in self.agent.calls].count(name)


class Gated(ScriptedAgent):
    """An agent whose control calls wait for a gate."""

    def __init__(self, can_use_tool: CanUseTool) -> None:
        super().__init__(can_use_tool)
        self.gate = asyncio.Event()
        self.finished: list[str] = []
        self.cancelled: list[str] = []

    async def passed(self, name: str) -> None:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        self.finished.append(name)

    async def interrupt(self) -> None:
        await super().interrupt()
        await self.passed("interrupt")

    async def stop_task(self, task_id: str) -> None:
        await super().stop_task(task_id)
        await self.passed("stop_task")


class Wedged(ScriptedAgent):
    """An agent that does not leave until it is killed, as a wedged CLI."""

    def __init__(self, can_use_tool: CanUseTool) -> None:
        super().__init__(can_use_tool)
        self.dead = asyncio.Event()
        self.kills: list[str] = []
        self.stage = "before"
        self.cancelled = False

    async def disconnect(self) -> None:
        self.stage = "leaving"
        try:
            await self.dead.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.stage = "left"
        await super().disconnect()

    def kill(self) -> None:
        self.kills.append(self.stage)
        super().kill()
        self.dead.set()


def gated(live: Live) -> Gated:
    assert isinstance(live.agent, Gated)
    return live.agent


# --- start


async def test_start_returns_when_the_agent_is_up() -> None:
    live = await Live().start()

    assert live.owner.agent is live.agent
    assert live.talk.state is State.IDLE
    assert names(live.talk.log) == ["session_ready"]
    await live.stop()


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE")


async def test_start_gives_the_agent_nothing_of_the_callers_context() -> None:
    """The SDK's reader lives as long as the session, the request does not."""
    found: list[str] = []

    async def factory(_config: SessionConfig, ask: CanUseTool) -> ScriptedAgent:
        found.append(VARIABLE.get("nothing"))
        return ScriptedAgent(ask)

    VARIABLE.set("the request's")
    live = await Live(factory=factory).start()

    assert found == ["nothing"]
    await live.stop()


async def test_start_gives_the_agent_the_callers_trace() -> None:
    """The SDK hands it on to the CLI, so that its spans are found below ours."""
    found: list[object] = []

    async def factory(_config: SessionConfig, ask: CanUseTool) -> ScriptedAgent:
        found.append(get_value("trace"))
        return ScriptedAgent(ask)

    token = attach(set_value("trace", "the request's"))
    live = await Live(factory=factory).start()
    detach(token)

    assert found == ["the request's"]
    await live.stop()


async def test_start_with_a_factory_that_raises_says_why() -> None:
    async def factory(_config: SessionConfig, _ask: CanUseTool) -> ScriptedAgent:
        raise OSError("no such CLI")

    live = Live(factory=factory)

    with pytest.raises(AgentStartError, match="no such CLI") as caught:
        await live.start()

    assert isinstance(caught.value.__cause__, OSError)
    await live.ended()
    assert seen(live.talk.log) == [
        ("error", {"code": "agent_start_failed", "message": "no such CLI"}),
        ("session_state", {"state": "failed"}),
        ("done", {}),
    ]
    assert live.owner.agent is None


async def test_start_passes_a_factorys_own_start_error_on() -> None:
    error = AgentStartError("not logged in")

    async def factory(_config: SessionConfig, _ask: CanUseTool) -> ScriptedAgent:
        raise error

    with pytest.raises(AgentStartError) as caught:
        await Live(factory=factory).start()

    assert caught.value is error


async def test_start_with_a_factory_that_cannot_be_called_so_says_why() -> None:
    """For example one that forgot the second argument."""

    async def factory(_config: SessionConfig) -> ScriptedAgent:
        raise AssertionError

    live = Live(factory=cast("SdkFactory", factory))

    with pytest.raises(AgentStartError, match="positional argument"):
        await live.start()
    await live.ended()


async def test_start_with_a_factory_that_makes_nothing_to_await_says_why() -> None:
    def factory(_config: SessionConfig, _ask: CanUseTool) -> str:
        return "an agent"

    live = Live(factory=cast("SdkFactory", factory))

    with pytest.raises(AgentStartError):
        await live.start()
    await live.ended()


async def test_start_with_a_factory_that_cancels_itself_fails() -> None:
    async def factory(_config: SessionConfig, _ask: CanUseTool) -> ScriptedAgent:
        raise asyncio.CancelledError

    live = Live(factory=factory)

    with pytest.raises(AgentStartError, match="cancelled"):
        await live.start()
    await live.ended()


class Slow:
    """A factory that stands still; counts how often it is cancelled.

    Args:
        ignores: cancellations that do not stop it.
    """

    def __init__(self, ignores: int = 0) -> None:
        self.ignores = ignores
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.refused = asyncio.Event()
        self.cancelled = 0
        self.agents: list[ScriptedAgent] = []

    async def __call__(
        self, _config: SessionConfig, can_use_tool: CanUseTool
    ) -> ScriptedAgent:
        self.entered.set()
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if self.cancelled > self.ignores:
                    raise
                self.refused.set()
        self.agents.append(ScriptedAgent(can_use_tool))
        return self.agents[-1]


async def test_start_past_its_deadline_is_cancelled_once() -> None:
    factory = Slow()
    live = Live(factory=factory, connect_s=SOON_S)

    with pytest.raises(AgentStartError, match=r"within 0\.02 s"):
        await live.start()

    await live.ended()
    assert factory.cancelled == 1


async def test_start_that_ignores_its_cancellation_is_given_up_on() -> None:
    """A second cancellation would leak the CLI."""
    factory = Slow(ignores=9)
    live = Live(factory=factory, connect_s=SOON_S, connect_cancel_s=SOON_S)

    with pytest.raises(AgentStartError):
        await live.start()

    await live.ended()
    assert factory.cancelled == 1
    factory.gate.set()
    await settle()


async def test_agent_that_comes_up_although_cancelled_is_ended() -> None:
    factory = Slow(ignores=1)
    live = Live(factory=factory, connect_s=SOON_S)
    starting = asyncio.ensure_future(live.start())
    await factory.refused.wait()

    factory.gate.set()
    with pytest.raises(AgentStartError):
        await starting
    await live.ended()
    await settle()

    (agent,) = factory.agents
    assert agent.disconnected


async def test_agent_that_comes_up_after_it_was_given_up_on_is_ended() -> None:
    factory = Slow(ignores=1)
    live = Live(factory=factory, connect_s=SOON_S, connect_cancel_s=SOON_S)
    with pytest.raises(AgentStartError):
        await live.start()
    await live.ended()

    factory.gate.set()
    await settle()

    (agent,) = factory.agents
    assert agent.disconnected


async def test_start_cancelled_by_its_caller_ends_the_start() -> None:
    factory = Slow()
    live = Live(factory=factory)
    starting = asyncio.ensure_future(live.owner.start())
    await factory.entered.wait()

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    await live.ended()
    assert factory.cancelled == 1
    assert live.talk.failure is not None
    assert "closed while it started" in live.talk.failure.message


@pytest.mark.parametrize("steps", range(8))
async def test_start_cancelled_at_any_step_ends_whatever_there_is(steps: int) -> None:
    live = Live()
    starting = asyncio.ensure_future(live.owner.start())
    for _ in range(steps):
        await asyncio.sleep(0)

    starting.cancel()
    await asyncio.wait({starting})
    live.owner.stop()
    await live.owner.ended()

    assert all(agent.disconnected for agent in live.agents)
    assert live.talk.ended or not live.agents


async def test_stop_in_mid_start_ends_the_start() -> None:
    factory = Slow()
    live = Live(factory=factory)
    starting = asyncio.ensure_future(live.start())
    await factory.entered.wait()

    await live.stop()

    with pytest.raises(AgentStartError, match="closed while it started"):
        await starting
    assert factory.cancelled == 1


async def test_owner_never_started_has_ended() -> None:
    async with asyncio.timeout(1):
        await Live().owner.ended()


# --- turns


async def test_prompts_are_handed_over_one_by_one_after_each_result() -> None:
    live = await Live().start()
    for text in ("one", "two", "three"):
        live.say(text)

    for number, text in enumerate(("one", "two", "three"), 1):
        async with asyncio.timeout(5):
            await live.agent.prompted(number)
        await settle()
        assert live.prompts[-1] == text
        assert len(live.prompts) == number
        live.agent.say(f"answer {number}")
        await live.shown("result", number)

    await settle()
    assert live.talk.state is State.IDLE
    assert len(live.owner.inbound) == 0
    await live.stop()
    assert live.errors == []


async def test_prompt_is_handed_over_as_the_cli_reads_it_with_an_id_of_its_own() -> (
    None
):
    live = await Live().start()
    picture = ImageContent(ImageSource("base64", "image/png", "aGk="))
    live.say("one")
    live.owner.put(UserMessage([TextContent("look"), picture]))
    await live.agent.prompted(1)
    live.agent.say("yes")
    async with asyncio.timeout(5):
        await live.agent.prompted(2)

    first, second = live.agent.prompts
    assert first.pop("uuid") != second.pop("uuid")
    assert first == {
        "type": "user",
        "message": {"role": "user", "content": "one"},
        "parent_tool_use_id": None,
    }
    assert second["message"]["content"] == [
        {"type": "text", "text": "look"},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
        },
    ]
    live.agent.say("a picture")
    await live.shown("result", 2)
    await live.stop()


async def test_next_prompt_waits_until_the_agents_own_turn_has_ended() -> None:
    live = await Live().start()
    live.agent.push(SystemMessage("init"))
    await live.shown("session_state")

    live.say()
    await settle()
    assert live.prompts == []

    live.agent.push(ResultMessage(origin={"kind": "task-notification"}))
    async with asyncio.timeout(5):
        await live.agent.prompted()
    live.agent.say("hello")
    await live.shown("result", 2)
    await live.stop()


async def test_next_prompt_waits_through_a_foreign_result_in_mid_turn() -> None:
    live = await Live().in_turn()
    live.say("second")

    live.agent.push(ResultMessage(origin={"kind": "task-notification"}))
    await live.shown("result")
    await settle()
    assert live.prompts == ["hello"]

    uuid = live.agent.prompts[0]["uuid"]
    live.agent.push(
        ResultMessage(origin={"kind": "task-notification"}, user_message_uuids=[uuid])
    )
    async with asyncio.timeout(5):
        await live.agent.prompted(2)
    assert live.prompts == ["hello", "second"]
    live.agent.say("yes")
    await live.shown("result", 3)
    await live.stop()


async def test_model_is_set_between_turns_in_the_order_of_the_queue() -> None:
    live = await Live().in_turn()
    live.owner.put(SetModel("other"))
    live.say("second")
    live.owner.put(SetModel(None))
    await settle()
    assert live.count("set_model") == 0

    live.agent.say("first answer")
    async with asyncio.timeout(5):
        await live.agent.prompted(2)
    assert live.agent.calls == [("query", None), ("set_model", "other"),
                                ("query", None)]  # fmt: skip

    live.agent.say("second answer")
    await live.shown("result", 2)
    await settle()
    assert live.agent.calls[3:] == [("set_model", None)]
    await live.stop()


async def test_model_refused_is_told_and_the_queue_goes_on() -> None:
    live = await Live().start()
    live.agent.refuses.add("set_model")
    live.owner.put(SetModel("nonsense"))
    live.say()

    async with asyncio.timeout(5):
        await live.agent.prompted()

    (notice,) = of(live.talk.log, "notice")
    assert notice == {
        "kind": "refused",
        "details": {"request": "set_model", "reason": "set_model is refused"},
    }
    live.agent.say("hi")
    await live.shown("result")
    await live.stop()
    assert live.talk.state is State.CLOSED


@pytest.mark.parametrize(
    ("call", "message"),
    [("query", UserMessage("hello")), ("set_model", SetModel("other"))],
)
async def test_agent_that_takes_no_input_is_given_up_on(
    call: str, message: UserMessage | SetModel
) -> None:
    live = await Live(control_s=SOON_S).start()
    live.agent.hangs.add(call)

    live.owner.put(message)
    await live.ended()

    assert live.errors == ["agent_timeout"]
    assert live.talk.state is State.FAILED
    assert live.agent.killed


async def test_agent_that_cannot_be_reached_is_given_up_on() -> None:
    live = await Live().start()
    live.agent.refuses.add("query")

    live.say()
    await live.ended()

    assert seen(live.talk.log)[1:] == [
        ("session_state", {"state": "running"}),
        ("error", {"code": "agent_unreachable", "message": "query is refused"}),
        ("session_state", {"state": "failed"}),
        ("done", {}),
    ]


async def test_stop_while_a_prompt_is_handed_over_does_not_wait_for_it() -> None:
    live = await Live(close_turn_s=SOON_S).start()
    live.agent.hangs.add("query")
    live.say()
    async with asyncio.timeout(5):
        await live.agent.called("query")

    await live.stop()

    assert live.errors == ["turn_aborted"]


async def test_stop_leaves_what_is_queued_unsaid() -> None:
    live = await Live().in_turn()
    live.say("never said")
    live.owner.stop()

    async with asyncio.timeout(5):
        await live.agent.called("interrupt")
    live.agent.push(ResultMessage("error_during_execution", is_error=True))
    await live.ended()

    assert live.prompts == ["hello"]
    assert live.errors == []
    assert len(live.owner.inbound) == 0


# --- interrupts


async def test_interrupt_stops_the_turn_with_one_call() -> None:
    live = await Live().in_turn()

    live.owner.interrupt(live.agent)
    async with asyncio.timeout(5):
        await live.agent.called("interrupt")
    assert live.talk.state is State.INTERRUPTING
    live.agent.push(ResultMessage("error_during_execution", is_error=True))
    await live.shown("session_state", 3)

    assert states(live.talk.log) == ["running", "interrupting", "idle"]
    await live.stop()
    assert live.count("interrupt") == 1
    assert live.errors == []


class Slack(ScriptedAgent):
    """Acknowledges every interrupt, and heeds the third."""

    async def interrupt(self) -> None:
        await super().interrupt()
        if self.calls.count(("interrupt", None)) == 3:
            self.push(ResultMessage("error_during_execution", is_error=True))


async def test_interrupt_without_effect_is_sent_again_until_the_turn_ends() -> None:
    """The CLI acknowledges one that comes too early, and does nothing."""
    live = await Live(Slack, interrupt_again_s=0.001).in_turn()
    live.say("next")

    live.owner.interrupt(live.agent)
    async with asyncio.timeout(5):
        await live.agent.prompted(2)
    live.agent.say("yes")
    await live.shown("result", 2)
    await live.stop()

    assert live.count("interrupt") == 3
    assert live.errors == []


async def test_interrupt_when_idle_calls_nobody() -> None:
    live = await Live().start()

    live.owner.interrupt(live.agent)
    await settle()

    assert live.agent.calls == []
    assert live.talk.state is State.IDLE
    await live.stop()


async def test_interrupts_at_once_are_one_call() -> None:
    live = await Live(Gated).in_turn()

    for _ in range(3):
        live.owner.interrupt(live.agent)
        await settle()
    gated(live).gate.set()
    live.agent.push(ResultMessage())
    await live.shown("result")

    await live.stop()
    assert live.count("interrupt") == 1


async def test_interrupt_ignored_past_its_deadline_ends_the_agent() -> None:
    live = await Live(Wedged, interrupt_s=SOON_S, interrupt_again_s=0.001).in_turn()

    live.owner.interrupt(live.agent)
    await live.ended()

    assert live.errors == ["interrupt_ignored"]
    assert live.talk.state is State.FAILED
    assert live.count("interrupt") > 1
    assert isinstance(live.agent, Wedged)
    assert live.agent.kills[0] == "before"


async def test_interrupt_acknowledged_but_ignored_is_not_called_unanswered() -> None:
    """An acknowledgement takes the CLI a moment, also the one after the deadline."""

    class Sluggish(ScriptedAgent):
        async def interrupt(self) -> None:
            await super().interrupt()
            await settle()

    live = await Live(Sluggish, interrupt_s=SOON_S, interrupt_again_s=0.05).in_turn()

    live.owner.interrupt(live.agent)
    await live.ended()

    assert live.errors == ["interrupt_ignored"]


async def test_interrupt_refused_ends_the_agent() -> None:
    live = await Live().in_turn()
    live.agent.refuses.add("interrupt")

    live.owner.interrupt(live.agent)
    await live.ended()

    (error,) = of(live.talk.log, "error")
    assert error == {"code": "interrupt_failed", "message": "interrupt is refused"}


async def test_interrupt_never_acknowledged_ends_the_agent() -> None:
    live = await Live(control_s=SOON_S).in_turn()
    live.agent.hangs.add("interrupt")

    live.owner.interrupt(live.agent)
    await live.ended()

    assert live.errors == ["interrupt_failed"]


async def test_interrupt_never_acknowledged_is_given_up_on_by_its_own_deadline() -> (
    None
):
    """A wedged agent must not get the longer deadline of a control call."""
    live = await Live(interrupt_s=SOON_S, control_s=60).in_turn()
    live.agent.hangs.add("interrupt")

    live.owner.interrupt(live.agent)

    await live.ended()
    assert len(live.errors) == 1


async def test_interrupt_that_breaks_off_does_not_leave_the_turn_interrupting() -> None:
    class BreaksOff(ScriptedAgent):
        async def interrupt(self) -> None:
            raise asyncio.CancelledError

    live = await Live(BreaksOff).in_turn()

    live.owner.interrupt(live.agent)

    await live.ended()
    assert len(live.errors) == 1


async def test_next_prompt_waits_while_an_interrupt_is_under_way() -> None:
    """It would be the one that the interrupt stops."""
    live = await Live(Gated).in_turn()
    live.say("second")
    live.owner.interrupt(live.agent)
    async with asyncio.timeout(5):
        await live.agent.called("interrupt")

    live.agent.push(ResultMessage())
    await live.shown("result")
    await settle()
    assert live.talk.state is State.IDLE
    assert live.prompts == ["hello"]

    gated(live).gate.set()
    async with asyncio.timeout(5):
        await live.agent.prompted(2)
    live.agent.say("yes")
    await live.shown("result", 2)
    await live.stop()


async def test_interrupt_that_fails_after_its_turn_ended_harms_nobody() -> None:
    class Late(Gated):
        async def interrupt(self) -> None:
            await super().interrupt()
            raise RuntimeError("nothing to interrupt")

    live = await Live(Late).in_turn()
    live.owner.interrupt(live.agent)
    async with asyncio.timeout(5):
        await live.agent.called("interrupt")
    live.agent.push(ResultMessage())
    await live.shown("result")

    gated(live).gate.set()
    await settle()

    assert live.errors == []
    assert live.talk.state is State.IDLE
    await live.stop()


# --- control calls


async def test_control_call_returns_when_the_agent_has_answered() -> None:
    live = await Live(Gated).start()
    call = asyncio.ensure_future(live.owner.control(live.agent.stop_task("t-1")))
    await settle()
    assert not call.done()

    gated(live).gate.set()

    await call
    assert live.agent.calls == [("stop_task", "t-1")]
    await live.stop()


async def test_control_call_refused_says_why() -> None:
    live = await Live().start()
    live.agent.refuses.add("stop_task")

    with pytest.raises(AgentRefused, match="stop_task is refused") as caught:
        await live.owner.control(live.agent.stop_task("t-1"))

    assert isinstance(caught.value.__cause__, RuntimeError)
    await live.stop()


async def test_control_call_refused_without_a_word_names_the_error() -> None:
    live = await Live().start()

    async def refuse() -> None:
        raise KeyError

    with pytest.raises(AgentRefused, match="KeyError"):
        await live.owner.control(refuse())
    await live.stop()


async def test_control_call_past_its_deadline_goes_on_without_its_caller() -> None:
    live = await Live(Gated, control_s=SOON_S).start()

    with pytest.raises(AgentTimeout, match=r"within 0\.02 s"):
        await live.owner.control(live.agent.stop_task("t-1"))
    assert gated(live).cancelled == []

    gated(live).gate.set()
    await settle()
    assert gated(live).finished == ["stop_task"]
    await live.stop()


async def test_control_call_goes_on_when_its_caller_is_cancelled() -> None:
    live = await Live(Gated).start()
    call = asyncio.ensure_future(live.owner.control(live.agent.stop_task("t-1")))
    await settle()

    call.cancel()
    await settle()
    assert call.cancelled()
    gated(live).gate.set()
    await settle()

    assert gated(live).finished == ["stop_task"]
    await live.stop()


async def test_control_call_that_breaks_off_is_not_its_callers_cancellation() -> None:
    live = await Live().start()

    async def break_off() -> None:
        raise asyncio.CancelledError

    with pytest.raises(AgentError):
        await live.owner.control(break_off())
    await live.stop()


async def test_control_call_under_way_at_the_end_is_answered_at_once() -> None:
    """The request would hang for the rest of its deadline, and the drain with it."""
    live = await Live(Gated).start()
    call = asyncio.ensure_future(live.owner.control(live.agent.stop_task("t-1")))
    await settle()

    await live.stop()
    await asyncio.wait({call}, timeout=1)

    assert call.done()
    assert isinstance(call.exception(), AgentRefused)


@pytest.mark.parametrize("call", ["query", "interrupt", "stop_task"])
async def test_owner_at_its_end_leaves_no_task_behind(call: str) -> None:
    before = asyncio.all_tasks()
    live = await Live(control_s=SOON_S, close_turn_s=SOON_S).start()
    live.agent.hangs.add(call)
    live.say()
    async with asyncio.timeout(5):
        await live.agent.called("query")
    asking = asyncio.ensure_future(live.owner.control(live.agent.stop_task("t-1")))
    await asyncio.wait({asking})
    asking.exception()

    await live.stop()
    await settle()

    assert asyncio.all_tasks() - before == set()


# --- when the agent ends


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, "the agent ended by itself"),
        (AgentError("the agent's process exited with code 3"), "exited with code 3"),
        (RuntimeError("stream broke"), "stream broke"),
        (KeyError(), "KeyError"),
    ],
)
async def test_agent_that_ends_when_idle_fails_the_session(
    error: Exception | None, text: str
) -> None:
    live = await Live().start()

    live.agent.end(error)
    await live.ended()

    (told,) = of(live.talk.log, "error")
    assert told["code"] == "agent_exited"
    assert text in told["message"]
    assert states(live.talk.log) == ["failed"]
    assert live.agent.disconnected


async def test_agent_that_ends_is_quoted() -> None:
    live = await Live().start()
    live.agent.stderr = "Not logged in"

    live.agent.end()
    await live.ended()

    (told,) = of(live.talk.log, "error")
    assert told["message"] == "the agent ended by itself; it said: Not logged in"


async def test_agent_that_ends_in_mid_turn_ends_it_with_one_error() -> None:
    live = await Live().in_turn()
    live.say("second")

    live.agent.end(RuntimeError("boom"))
    await live.ended()

    assert live.errors == ["agent_exited"]
    assert names(live.talk.log).count("result") == 0
    assert live.count("interrupt") == 0


async def test_agent_that_ends_while_interrupted_ends_the_turn_with_one_error() -> None:
    live = await Live(Gated).in_turn()
    live.owner.interrupt(live.agent)
    async with asyncio.timeout(5):
        await live.agent.called("interrupt")

    live.agent.end()
    await live.ended()
    gated(live).gate.set()
    await settle()

    assert live.errors == ["agent_exited"]


async def test_agent_that_ends_with_a_request_open_takes_it_back() -> None:
    live = await Live().in_turn()
    task = await open_ask(live.talk)

    live.agent.end()
    await live.ended()

    assert isinstance(await task, Deny)
    shown = names(live.talk.log)
    assert shown.count("permission_resolved") == 1
    assert shown.index("error") < shown.index("permission_resolved")
    assert live.errors == ["agent_exited"]


async def test_agent_whose_stream_is_cancelled_from_within_has_ended() -> None:
    """Nobody would read it any more, and the session would look alive."""

    class CutOff(ScriptedAgent):
        async def receive_messages(self) -> AsyncIterator[Any]:
            async for message in super().receive_messages():
                yield message
            raise asyncio.CancelledError

    live = await Live(CutOff).in_turn()

    live.agent.end()
    await live.ended()

    assert live.errors == ["agent_exited"]


async def test_messages_before_the_agents_end_are_all_shown() -> None:
    live = await Live().in_turn()

    live.agent.say("last words")
    live.agent.end()
    await live.ended()

    shown = names(live.talk.log)
    assert shown.index("result") < shown.index("error")
    assert live.errors == ["agent_exited"]


# --- the end


async def test_stop_when_idle_disconnects_the_agent() -> None:
    live = await Live().start()

    await live.stop()

    assert live.agent.calls == [("disconnect", None)]
    assert live.agent.disconnected
    assert names(live.talk.log) == ["session_ready", "session_state", "done"]
    assert live.talk.state is State.CLOSED


async def test_stop_in_mid_turn_interrupts_it_and_waits_for_its_result() -> None:
    live = await Live().in_turn()

    live.owner.stop()
    async with asyncio.timeout(5):
        await live.agent.called("interrupt")
    await settle()
    assert not live.talk.log.closed
    assert live.count("disconnect") == 0
    live.agent.push(ResultMessage("error_during_execution", is_error=True))
    await live.ended()

    assert names(live.talk.log)[-4:] == [
        "result",
        "session_state",
        "session_state",
        "done",
    ]
    assert live.errors == []
    assert [name for name, _ in live.agent.calls] == [
        "query",
        "interrupt",
        "disconnect",
    ]


async def test_stop_of_a_turn_without_a_result_aborts_it_in_time() -> None:
    live = await Live(close_turn_s=SOON_S).in_turn()

    await live.stop()

    assert live.errors == ["turn_aborted"]
    assert live.talk.state is State.CLOSED
    assert live.agent.disconnected


async def test_stop_when_the_agent_leaves_in_mid_turn_does_not_wait_for_a_result() -> (
    None
):
    live = await Live(close_turn_s=60).in_turn()
    live.owner.stop()
    async with asyncio.timeout(5):
        await live.agent.called("interrupt")

    live.agent.end()

    await live.ended()
    assert live.errors == ["turn_aborted"]
    assert live.talk.state is State.CLOSED


async def test_agent_that_does_not_leave_is_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    live = await Live(Wedged, disconnect_s=SOON_S).start()

    await live.stop()

    agent = live.agent
    assert isinstance(agent, Wedged)
    assert (agent.kills[0], agent.stage) == ("leaving", "left")
    assert agent.kills[-1] == "left", "it was not killed in time"
    assert not agent.cancelled
    assert "killed" in caplog.text


class Ghost(ScriptedAgent):
    """Neither leaves nor falls silent, whatever is done to it."""

    async def disconnect(self) -> None:
        await asyncio.get_running_loop().create_future()

    def end(self, error: Exception | None = None) -> None:
        pass


async def test_agent_that_cannot_be_killed_is_left_behind_in_time() -> None:
    live = await Live(Ghost, disconnect_s=SOON_S).start()

    await live.stop()

    assert live.agent.killed


class Endless(ScriptedAgent):
    """Leaves, but its stream does not end."""

    def end(self, error: Exception | None = None) -> None:
        pass


async def test_agent_whose_stream_never_ends_is_no_longer_read() -> None:
    before = asyncio.all_tasks()
    live = await Live(Endless, disconnect_s=SOON_S).start()

    await live.stop()
    await settle()

    assert live.agent.disconnected
    assert asyncio.all_tasks() - before == set()


class Plain:
    """An agent without a process of its own: it cannot be killed."""

    def __init__(self, agent: ScriptedAgent) -> None:
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        if name in {"kill", "last_words"}:
            raise AttributeError(name)
        return getattr(self._agent, name)


@pytest.mark.parametrize("hangs", [True, False])
async def test_agent_without_a_process_ends_in_time(hangs: bool) -> None:
    agent = ScriptedAgent()
    agent.hangs = {"disconnect"} if hangs else set()

    async def factory(_config: SessionConfig, _ask: CanUseTool) -> Agent:
        return cast("Agent", Plain(agent))

    live = await Live(factory=factory, disconnect_s=SOON_S).start()

    await live.stop()

    assert not agent.killed
    assert agent.disconnected is not hangs


async def test_agent_without_a_process_that_leaves_slowly_is_not_cut_short() -> None:
    """A bare SDK client takes up to 15 s to leave; cancelled, it leaks its CLI."""
    agent = Wedged(no_permission)

    async def factory(_config: SessionConfig, _ask: CanUseTool) -> Agent:
        return cast("Agent", Plain(agent))

    live = await Live(factory=factory, disconnect_s=SOON_S).start()
    await live.stop()
    await settle()
    assert (agent.stage, agent.cancelled) == ("leaving", False)

    agent.dead.set()
    await settle()

    assert agent.stage == "left"


async def test_agent_without_a_process_that_ends_fails_the_session() -> None:
    agent = ScriptedAgent()

    async def factory(_config: SessionConfig, _ask: CanUseTool) -> Agent:
        return cast("Agent", Plain(agent))

    live = await Live(factory=factory).start()

    agent.end()
    await live.ended()

    assert of(live.talk.log, "error")[0]["message"] == "the agent ended by itself"


async def test_agent_that_will_not_be_disconnected_is_ended_all_the_same() -> None:
    live = await Live(disconnect_s=SOON_S).start()
    live.agent.refuses.add("disconnect")

    await live.stop()

    assert live.agent.killed
    assert live.errors == []


async def test_failed_agent_is_killed_before_it_is_disconnected() -> None:
    """It does not listen any more; asking it nicely would only take time."""
    live = await Live(Wedged).start()

    live.agent.end(RuntimeError("reader broke"))
    await live.ended()

    assert isinstance(live.agent, Wedged)
    assert live.agent.kills[0] == "before"


async def test_what_the_agent_says_after_the_end_is_dropped() -> None:
    live = await Live(Ghost, close_turn_s=SOON_S, disconnect_s=SOON_S).in_turn()
    live.owner.stop()
    async with asyncio.timeout(5):
        while not live.talk.log.closed:
            await live.talk.log.wait()
    before = names(live.talk.log)

    live.agent.say("too late")
    await live.ended()

    assert names(live.talk.log) == before
    assert before[-1] == "done"


async def test_callers_that_stop_waiting_for_the_end_change_nothing() -> None:
    live = await Live(Gated, close_turn_s=60).in_turn()
    live.owner.stop()
    waiting = asyncio.ensure_future(live.owner.ended())
    await settle()

    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    assert not live.talk.log.closed
    live.agent.push(ResultMessage())
    gated(live).gate.set()

    await live.ended()
    assert live.errors == []


async def test_mistake_that_nobody_foresaw_ends_the_session_with_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever it is, clients hear of it, operators see it, and the agent is gone."""

    class NoCoroutine(ScriptedAgent):
        def query(self, prompt: Any) -> Any:
            raise ZeroDivisionError

    live = await Live(NoCoroutine).start()

    live.say()
    await live.ended()

    assert live.errors == ["internal_error"]
    assert live.agent.disconnected
    assert "ZeroDivisionError" in caplog.text


def test_deadlines_by_default_fit_a_start_and_a_drain() -> None:
    """Closing in mid-turn takes at most this long; drain time-outs build on it."""
    deadlines = Deadlines()

    closing_s = deadlines.close_turn_s + 3 * deadlines.disconnect_s
    assert closing_s <= 10
    assert deadlines.connect_s >= 60, "the SDK's own time-out, which it cannot lower"
    assert deadlines.connect_cancel_s > 15, "the SDK's clean-up of a failed start"


async def test_factory_of_doubles_serves_an_owner() -> None:
    factory = ScriptedFactory()
    live = Live(factory=factory)

    await live.start()

    assert live.owner.agent is factory.agents[0]
    await live.stop()


async def test_messages_nobody_will_hear_are_counted_before_the_end() -> None:
    """They were accepted; whoever sent them learns that they are lost."""
    live = await Live().in_turn()
    live.say("never said")
    live.say("nor this")

    live.agent.end(RuntimeError("boom"))
    await live.ended()

    (notice,) = of(live.talk.log, "notice")
    assert notice == {"kind": "messages_dropped", "details": {"count": 2}}
    assert names(live.talk.log)[-1] == "done"


async def test_failure_is_logged_with_its_session_and_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    live = await Live().in_turn()

    live.agent.end(RuntimeError("boom"))
    await live.ended()

    assert f"session {live.talk.id} failed: agent_exited: boom" in caplog.text


# --- when it is gone


async def test_gone_is_told_when_the_agent_is_gone_and_not_before() -> None:
    live = await Live(Wedged).start()
    told: list[bool] = []
    live.owner.on_gone(lambda _: told.append(live.owner.gone))
    agent = live.agent
    assert isinstance(agent, Wedged)

    live.owner.stop()
    await settle()
    assert (agent.stage, live.talk.ended, told) == ("leaving", True, [])

    agent.dead.set()
    await live.ended()
    await settle()
    assert told == [True]


async def test_gone_is_told_also_to_whoever_asks_late() -> None:
    live = await Live().start()
    await live.stop()
    told: list[bool] = []

    live.owner.on_gone(lambda _: told.append(True))
    await settle()

    assert told == [True]
