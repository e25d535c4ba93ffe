from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.test_conversation import of, state_of
from webkit_core import (
    DEFAULT_DELTAS,
    CanUseTool,
    Deadlines,
    Interrupt,
    Limits,
    PermissionResponse,
    QuestionResponse,
    Session,
    SessionConfig,
    State,
    UserMessage,
)
from webkit_core.conversation import Conversation
from webkit_core.tasks import OwnedTasks
from webkit_core.testing import (
    AssistantMessage,
    ResultMessage,
    ScriptedAgent,
    SystemMessage,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage as AgentsUserMessage,
)
from webkit_core.turn_control import TurnControl, done_by

SILENT_S = 100.0
TOOL_S = 1000.0
INTERRUPT_S = 10.0
PEOPLE_S = 100_000.0

QUESTION = {"questions": [{"question": "Which?", "header": "", "options": []}]}
PROGRESS = AssistantMessage([TextBlock("on it")], "msg_1")
CUT_SHORT = ResultMessage("error_during_execution", is_error=True)


class Obedient(ScriptedAgent):
    """Ends its turn when it is interrupted, and remembers when that was."""

    def __init__(self, can_use_tool: CanUseTool | None = None) -> None:
        super().__init__(can_use_tool)
        self.interrupted_at_s: list[float] = []

    async def interrupt(self) -> None:
        self.interrupted_at_s.append(now_s())
        await super().interrupt()
        self.push(CUT_SHORT)


class Deaf(Obedient):
    """Acknowledges an interrupt and goes on."""

    async def interrupt(self) -> None:
        self.interrupted_at_s.append(now_s())
        await ScriptedAgent.interrupt(self)


class Live:
    """A session in which silence takes no time."""

    def __init__(
        self, make: Callable[[CanUseTool], Obedient] = Obedient, **deadlines: float
    ) -> None:
        self.make = make
        silence = {
            "turn_silence_s": SILENT_S,
            "tool_silence_s": TOOL_S,
            "interrupt_s": INTERRUPT_S,
            "permission_s": PEOPLE_S,
        }
        self.session = Session(
            SessionConfig(session_id="s-1"),
            self.factory,
            deadlines=Deadlines(**silence | deadlines),
        )

    async def factory(self, _config: SessionConfig, ask: CanUseTool) -> Obedient:
        self.agent = self.make(ask)
        return self.agent

    async def start(self) -> Live:
        await self.session.start()
        return self

    async def prompted(self, count: int = 1) -> Live:
        """With a prompt handed over."""
        await self.session.submit(UserMessage("hello"))
        await self.agent.prompted(count)
        return self

    async def says(self, *messages: Any, after_s: float = 0.0) -> None:
        """Let messages arrive after a while."""
        await asyncio.sleep(after_s)
        self.agent.push(*messages)
        await asyncio.sleep(0.01)

    def state(self) -> State:
        """Asked anew each time: it changes behind the type checker's back."""
        return self.session.state

    @property
    def stopped_at_s(self) -> list[float]:
        return self.agent.interrupted_at_s

    @property
    def notices(self) -> list[Any]:
        return of(self.session.log, "notice")

    @property
    def errors(self) -> list[str]:
        return [error["code"] for error in of(self.session.log, "error")]


def run(
    course: Callable[[Live], Awaitable[None]],
    make: Callable[[CanUseTool], Obedient] = Obedient,
    **deadlines: float,
) -> Live:
    """Start a session, let the course happen to it, and close it."""
    live = Live(make, **deadlines)

    async def main() -> None:
        await live.start()
        await course(live)
        await live.session.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_in_no_time(main())
    return live


STALLED = [{"kind": "turn_stalled", "details": {"silent_s": SILENT_S}}]


# --- silence


@pytest.mark.parametrize("spoke_at_s", [0.0, 0.5, 50.0, 99.0, 101.0, 150.0, 199.0])
def test_turn_that_goes_silent_is_stopped_in_time(spoke_at_s: float) -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        if spoke_at_s > SILENT_S:
            await live.says(PROGRESS, after_s=90.0)
            await live.says(PROGRESS, after_s=spoke_at_s - now_s())
        elif spoke_at_s:
            await live.says(PROGRESS, after_s=spoke_at_s)
        last_s = now_s()
        await asyncio.sleep(2 * SILENT_S + 0.01)

        (stopped_s,) = live.stopped_at_s
        assert SILENT_S - 0.02 <= stopped_s - last_s <= 2 * SILENT_S
        assert live.notices == STALLED
        assert live.errors == []
        assert live.state() is State.IDLE

    run(course)


def test_session_goes_on_after_a_turn_that_was_stopped() -> None:
    """And says so again when the next one stalls as well."""

    async def course(live: Live) -> None:
        await live.prompted()
        await live.session.submit(UserMessage("next"))
        await live.agent.prompted(2)
        assert len(live.stopped_at_s) == 1
        assert live.state() is State.RUNNING
        await asyncio.sleep(2 * SILENT_S + 0.1)
        assert live.state() is State.IDLE

    live = run(course)
    assert len(live.stopped_at_s) == 2
    assert live.notices == STALLED * 2
    assert len(of(live.session.log, "result")) == 2


def test_clients_hear_of_the_stall_before_the_turn_ends() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        await asyncio.sleep(2 * SILENT_S + 0.1)
        data, _ = live.session.log.read(0)
        text = bytes(data).decode()
        assert 0 < text.index("turn_stalled") < text.index("interrupting")
        assert text.index("interrupting") < text.index("event: result")

    run(course)


def test_turn_in_which_messages_arrive_goes_on() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        for _ in range(30):
            await live.says(PROGRESS, after_s=SILENT_S - 5)
        await live.says(ResultMessage())
        assert live.state() is State.IDLE

    live = run(course)
    assert (live.stopped_at_s, live.notices) == ([], [])


def test_message_that_clients_do_not_see_is_a_sign_of_life_too() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        for _ in range(5):
            await live.says(SystemMessage("status", {}), after_s=SILENT_S - 5)
        await live.says(ResultMessage())

    assert run(course).stopped_at_s == []


def test_session_without_a_turn_may_be_silent() -> None:
    async def course(live: Live) -> None:
        await asyncio.sleep(10 * SILENT_S)
        await live.prompted()
        await live.says(ResultMessage(), after_s=SILENT_S / 2)
        await asyncio.sleep(10 * SILENT_S)

    live = run(course)
    assert (live.stopped_at_s, live.notices) == ([], [])


def test_turn_that_the_agent_began_by_itself_is_stopped_too() -> None:
    async def course(live: Live) -> None:
        await live.says(SystemMessage("init", {}))
        assert live.state() is State.RUNNING
        await asyncio.sleep(2 * SILENT_S + 0.1)
        assert live.state() is State.IDLE

    live = run(course)
    assert len(live.stopped_at_s) == 1
    assert live.notices == STALLED


@pytest.mark.parametrize("first_s", [0.0, 50.0, 90.0])
def test_turn_that_begins_as_another_ends_is_watched(first_s: float) -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        await live.session.submit(UserMessage("next"))
        await live.says(ResultMessage(), after_s=first_s)
        assert len(live.agent.prompts) == 2
        await asyncio.sleep(2 * SILENT_S + 0.1)
        (stopped_s,) = live.stopped_at_s
        assert first_s + SILENT_S <= stopped_s + 0.01

    run(course)


def test_own_turn_of_the_agent_right_after_ours_is_watched() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        await live.says(ResultMessage(), SystemMessage("init", {}), after_s=50.0)
        assert live.state() is State.RUNNING
        await asyncio.sleep(2 * SILENT_S + 0.1)
        assert len(live.stopped_at_s) == 1

    run(course)


def test_watch_is_one_task_however_many_turns_there_are() -> None:
    async def course(live: Live) -> None:
        idle, in_turn = set(), set()
        for count in range(1, 21):
            await live.prompted(count)
            await asyncio.sleep(1)
            in_turn.add(len(asyncio.all_tasks()))
            await live.says(ResultMessage(), after_s=1)
            idle.add(len(asyncio.all_tasks()))
        assert len(idle) == len(in_turn) == 1
        assert min(in_turn) == min(idle) + 1

    assert run(course).stopped_at_s == []


def test_turns_without_a_pause_between_them_are_watched_by_one_task() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        await asyncio.sleep(1)
        tasks = len(asyncio.all_tasks())
        for count in range(2, 22):
            await live.session.submit(UserMessage("next"))
            await live.says(ResultMessage(), after_s=1)
            await live.agent.prompted(count)
            assert len(asyncio.all_tasks()) == tasks
        await live.says(ResultMessage())

    assert run(course).stopped_at_s == []


# --- while people are asked


@pytest.mark.parametrize("name", ["Bash", "AskUserQuestion"])
def test_people_may_take_their_time(name: str) -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        ask = asyncio.ensure_future(live.agent.ask("toolu_1", name, **QUESTION))
        await asyncio.sleep(20.5 * TOOL_S)
        assert live.state() is State.WAITING
        assert live.stopped_at_s == []
        reply = (
            PermissionResponse("toolu_1", "allow")
            if name == "Bash"
            else QuestionResponse("toolu_1", {"Which?": "this"})
        )
        await live.session.submit(reply)
        await ask
        await live.says(ResultMessage())

    live = run(course)
    assert (live.stopped_at_s, live.notices) == ([], [])


@pytest.mark.parametrize("answered_at_s", [2090.0, 2500.0, 3050.0])
def test_tool_that_people_allowed_has_its_time_from_then_on(
    answered_at_s: float,
) -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        ask = asyncio.ensure_future(live.agent.ask("toolu_1"))
        await asyncio.sleep(answered_at_s)
        await live.session.submit(PermissionResponse("toolu_1", "allow"))
        await ask
        await asyncio.sleep(TOOL_S - 1)
        assert live.stopped_at_s == []
        await asyncio.sleep(TOOL_S + 1)
        assert len(live.stopped_at_s) == 1

    run(course)


# --- while a tool runs


def test_turn_in_which_a_tool_runs_may_be_silent_for_longer() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        tool = ToolUseBlock("toolu_1", "Bash", {})
        await live.says(AssistantMessage([tool], "msg_1"), after_s=1)
        began_s = now_s()
        await asyncio.sleep(TOOL_S - 1)
        assert live.stopped_at_s == []
        await asyncio.sleep(TOOL_S + 1)
        (stopped_s,) = live.stopped_at_s
        assert TOOL_S - 0.02 <= stopped_s - began_s <= 2 * TOOL_S

    live = run(course)
    assert live.notices == [{"kind": "turn_stalled", "details": {"silent_s": TOOL_S}}]


@pytest.mark.parametrize("tool_took_s", [0.5, 150.0, 300.0])
def test_turn_that_goes_silent_after_its_tool_is_stopped_like_any_other(
    tool_took_s: float,
) -> None:
    """Also when the watch had settled down to wait for the tool."""

    async def course(live: Live) -> None:
        await live.prompted()
        tool = ToolUseBlock("toolu_1", "Bash", {})
        await live.says(AssistantMessage([tool], "msg_1"), after_s=1)
        gave = AgentsUserMessage([ToolResultBlock("toolu_1", "out")])
        await live.says(gave, after_s=tool_took_s)
        last_s = now_s()
        await asyncio.sleep(2 * SILENT_S + 0.1)
        (stopped_s,) = live.stopped_at_s
        assert stopped_s - last_s + 0.02 >= SILENT_S

    assert run(course).notices == STALLED


def test_tool_of_a_turn_that_has_ended_does_not_lengthen_the_next() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        tool = ToolUseBlock("toolu_1", "Bash", {})
        await live.says(AssistantMessage([tool], "msg_1"), ResultMessage())
        await live.prompted(2)
        await asyncio.sleep(2 * SILENT_S + 0.1)
        assert len(live.stopped_at_s) == 1

    assert run(course).notices == STALLED


# --- a turn that does not stop


def test_turn_that_cannot_be_stopped_fails_the_session() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        await live.session.wait_ended()
        assert now_s() <= 2 * SILENT_S + INTERRUPT_S + 1

    live = run(course, Deaf)
    assert live.errors == ["interrupt_ignored"]
    assert live.notices == STALLED
    assert live.state() is State.FAILED
    assert live.agent.killed


def test_interrupt_without_effect_is_sent_again_at_its_interval() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        await asyncio.sleep(1)
        await live.session.submit(Interrupt())
        await live.session.wait_ended()
        began_s, *others = live.stopped_at_s
        assert [at_s - began_s for at_s in others] == pytest.approx([3, 6, 9])
        assert now_s() - began_s == pytest.approx(12, abs=0.1)

    live = run(course, Deaf, interrupt_again_s=3.0)
    assert live.errors == ["interrupt_ignored"]


def test_stall_while_somebody_stops_the_turn_is_one_interrupt() -> None:
    async def course(live: Live) -> None:
        live.agent.hangs.add("interrupt")
        await live.prompted()
        await asyncio.sleep(SILENT_S - 5)
        await live.session.submit(Interrupt())
        await live.session.wait_ended()

    live = run(course, Deaf)
    assert len(live.stopped_at_s) == 1
    assert live.errors == ["interrupt_failed"]


def test_closing_a_session_in_a_silent_turn_leaves_nothing_behind() -> None:
    async def course(live: Live) -> None:
        await live.prompted()
        await asyncio.sleep(1)
        await live.session.close()
        assert now_s() < 2

    assert run(course).notices == []


# --- by itself


def in_turn() -> Conversation:
    talk = Conversation("s-1", DEFAULT_DELTAS, Limits())
    talk.ready()
    talk.prompted("prompt-1")
    return talk


def control(talk: Conversation, **deadlines: float) -> TurnControl:
    return TurnControl(talk, OwnedTasks("s-1"), Deadlines(**deadlines))


def test_stop_is_one_interrupt_until_the_turn_has_ended() -> None:
    async def main() -> None:
        talk, agent = in_turn(), Deaf()
        turns = control(talk)
        turns.stop(agent)
        turns.stop(agent)
        assert turns.stopping
        await asyncio.sleep(0.1)
        assert len(agent.interrupted_at_s) == 1

        talk.receive(CUT_SHORT)
        await asyncio.sleep(0.01)

        assert state_of(talk) is State.IDLE
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_in_no_time(main())


def test_stop_without_a_turn_does_nothing() -> None:
    async def main() -> None:
        talk, agent = in_turn(), Obedient()
        talk.receive(ResultMessage())
        turns = control(talk)
        turns.stop(agent)
        await asyncio.sleep(1)
        assert not turns.stopping
        assert agent.interrupted_at_s == []

    run_in_no_time(main())


def test_whoever_waits_is_told_when_a_stop_is_over() -> None:
    """The next prompt must not go in before."""

    async def main() -> None:
        talk, agent = in_turn(), Deaf()
        turns = control(talk)
        turns.stop(agent)
        await asyncio.sleep(0.1)
        # Many: those that look at the turn's end before the stop is over are not told
        # by that.
        waiting = [talk.until(lambda: not turns.stopping, 60) for _ in range(50)]
        over = asyncio.gather(*waiting)
        await asyncio.sleep(0.1)
        talk.receive(CUT_SHORT)
        await over
        assert now_s() < 1

    run_in_no_time(main())


def test_interrupt_under_way_is_waited_for_though_the_turn_has_ended() -> None:
    """It would hit the next turn."""

    class Slow(Obedient):
        async def interrupt(self) -> None:
            await asyncio.sleep(3)

    async def main() -> None:
        talk, agent = in_turn(), Slow()
        turns = control(talk)
        turns.stop(agent)
        await asyncio.sleep(1)
        talk.receive(CUT_SHORT)
        await asyncio.sleep(1)
        assert turns.stopping
        await asyncio.sleep(1.1)
        assert not turns.stopping

    run_in_no_time(main())


@pytest.mark.parametrize(("interrupt_s", "control_s"), [(4.0, 9.0), (9.0, 4.0)])
def test_interrupt_never_acknowledged_is_given_up_by_the_earlier_deadline(
    interrupt_s: float, control_s: float
) -> None:
    async def main() -> None:
        talk, agent = in_turn(), Obedient()
        agent.hangs.add("interrupt")
        control(talk, interrupt_s=interrupt_s, control_s=control_s).stop(agent)
        assert await talk.until(lambda: talk.failure, 60)
        assert talk.failure is not None
        assert talk.failure.code == "interrupt_failed"
        assert now_s() == pytest.approx(4.0)

    run_in_no_time(main())


def test_interrupt_refused_fails_the_session_and_says_why() -> None:
    async def main() -> None:
        talk, agent = in_turn(), ScriptedAgent()
        agent.refuses.add("interrupt")
        control(talk).stop(agent)
        assert await talk.until(lambda: talk.failure, 60)
        assert talk.failure is not None
        assert talk.failure.code == "interrupt_failed"
        assert "interrupt is refused" in talk.failure.message

    run_in_no_time(main())


def test_watch_is_idempotent_and_over_with_its_turn() -> None:
    async def main() -> None:
        talk, agent = in_turn(), Obedient()
        turns = control(talk)
        for _ in range(5):
            turns.watch(agent)
        assert len(asyncio.all_tasks()) == 2
        await asyncio.sleep(1)
        talk.receive(ResultMessage())
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1

        talk.prompted("prompt-2")
        turns.watch(agent)
        assert len(asyncio.all_tasks()) == 2
        talk.finish()
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1

    run_in_no_time(main())


# --- waiting for a task


def test_done_by_tells_whether_a_task_is_done_in_time() -> None:
    async def main() -> None:
        talk = in_turn()
        quick = asyncio.ensure_future(asyncio.sleep(2))
        assert await done_by(talk, quick, 5, lambda: False)
        assert now_s() == pytest.approx(2)

        slow = asyncio.ensure_future(asyncio.sleep(60))
        assert not await done_by(talk, slow, 5, lambda: False)
        assert now_s() == pytest.approx(7)
        assert not slow.done()
        slow.cancel()

    run_in_no_time(main())


def test_done_by_waits_no_longer_than_it_is_of_use() -> None:
    async def main() -> None:
        talk = in_turn()
        slow = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_later(3, talk.fail, "boom", "it broke")

        assert not await done_by(talk, slow, 50, lambda: talk.ended)

        assert now_s() == pytest.approx(3)
        assert not slow.cancelled()
        slow.cancel()

    run_in_no_time(main())


def test_task_that_raised_is_done() -> None:
    async def fails() -> None:
        raise RuntimeError("boom")

    async def main() -> None:
        task = asyncio.ensure_future(fails())
        assert await done_by(in_turn(), task, 5, lambda: False)
        assert isinstance(task.exception(), RuntimeError)

    run_in_no_time(main())


def test_silence_by_default_outlasts_the_clis_own_patience_with_the_model() -> None:
    deadlines = Deadlines()

    assert 600 < deadlines.turn_silence_s < deadlines.tool_silence_s
