from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import ReadableSpan

from tests.unit.core.collecting import (
    Collecting,
    attributes,
    failed_with,
    hangs_below,
)
from tests.unit.core.stepping import settle
from tests.unit.core.test_conversation import seen as events_in
from webkit_core import (
    DEFAULT_DELTAS,
    PROTOCOL_VERSION,
    Deadlines,
    EventLog,
    Interrupt,
    Limits,
    PermissionResponse,
    QuestionResponse,
    Request,
    Session,
    SessionConfig,
    SetModel,
    UserMessage,
)
from webkit_core.claude import UnparsedMessage
from webkit_core.conversation import Conversation
from webkit_core.protocol import Outcome
from webkit_core.testing import (
    FakeClock,
    ResultMessage,
    ScriptedAgent,
    ScriptedFactory,
    SystemMessage,
    streamed_text,
)
from webkit_core.tracing import SessionTrace

TURN = "agent_webkit.turn.duration"
FIRST_TOKEN = "agent_webkit.turn.first_token"
WAIT = "agent_webkit.permissions.wait"
WINNER = "agent_webkit.permissions.first_reply_winner"

BASH = Request("toolu_1", "Bash", {"command": "ls"}, {})
QUESTIONS = [{"question": "Which colour?", "header": "Colour", "options": []}]


class Live:
    """A session of a scripted agent whose spans and durations are collected."""

    def __init__(self, **deadlines: float) -> None:
        self.seen = Collecting()
        self.factory = ScriptedFactory()
        self.session = Session(
            SessionConfig(session_id="s-1"),
            self.factory,
            deadlines=Deadlines(**deadlines),
            telemetry=self.seen.telemetry,
        )

    @property
    def agent(self) -> ScriptedAgent:
        return self.factory.agents[0]

    async def start(self) -> Live:
        async with asyncio.timeout(5):
            await self.session.start()
        return self

    async def prompted(self, text: str = "hello") -> None:
        """Submit a prompt, and return when the agent has it."""
        before = len(self.agent.prompts)
        await self.session.submit(UserMessage(text))
        async with asyncio.timeout(5):
            await self.agent.prompted(before + 1)
        await settle()

    async def asked(self, id_: str = "toolu_1", **given: Any) -> asyncio.Task[Any]:
        """A request of the agent that clients can see."""
        ask = asyncio.ensure_future(self.agent.ask(id_, **given))
        async with asyncio.timeout(5):
            while id_ not in [each.correlation_id for each in self.session.pending]:
                await self.session.log.wait()
        return ask

    async def turn_ends(self, **result: Any) -> None:
        self.agent.push(ResultMessage(**result))
        await settle()

    async def turn(self, text: str = "hello") -> None:
        await self.prompted(text)
        await self.turn_ends()

    async def ended(self) -> None:
        async with asyncio.timeout(5):
            await self.session.close()


def numbers_of(log: EventLog, name: str) -> list[int]:
    """The numbers of every event of that name."""
    return [at for at, (each, _) in enumerate(events_in(log), 1) if each == name]


# --- turns


async def test_turn_is_one_span_that_says_whose_it_is_and_how_it_ended() -> None:
    live = await Live().start()
    before = live.session.log.last_seq

    await live.prompted()
    assert live.seen.spans("turn") == []
    await live.turn_ends()

    span = live.seen.span("turn")
    assert attributes(span) == {
        "session_id": "s-1",
        "protocol_version": PROTOCOL_VERSION,
        "event_seq": before,
        "outcome": "success",
        "last_event_seq": numbers_of(live.session.log, "result")[0],
    }
    assert failed_with(span) is None
    await live.ended()
    assert len(live.seen.spans("turn")) == 1


async def test_turn_hangs_below_the_span_current_where_its_prompt_was_submitted() -> (
    None
):
    """Also when it had to wait for its turn, and the request was long over."""
    live = Live()
    with live.seen.tracer.start_as_current_span("creating"):
        await live.start()
    with live.seen.tracer.start_as_current_span("first"):
        await live.session.submit(UserMessage("one"))
    with live.seen.tracer.start_as_current_span("second"):
        await live.session.submit(SetModel("m"))
        await live.session.submit(UserMessage("two"))
    await live.session.submit(UserMessage("three"))

    for count in (1, 2, 3):
        async with asyncio.timeout(5):
            await live.agent.prompted(count)
        await live.turn_ends()

    one, two, three = live.seen.spans("turn")
    assert hangs_below(one, live.seen.span("first"))
    assert hangs_below(two, live.seen.span("second"))
    assert three.parent is None
    await live.ended()


async def test_turn_that_the_agent_began_belongs_to_no_earlier_prompt() -> None:
    live = await Live().start()
    with live.seen.tracer.start_as_current_span("request"):
        await live.turn()

    live.agent.push(SystemMessage("init"))
    await live.turn_ends(origin={"kind": "task-notification"})

    prompted, own = live.seen.spans("turn")
    assert hangs_below(prompted, live.seen.span("request"))
    assert own.parent is None
    assert attributes(own)["outcome"] == "success"
    await live.ended()


async def test_turn_that_ended_in_an_error_says_which() -> None:
    live = await Live().start()
    await live.prompted()

    await live.turn_ends(subtype="error_max_turns")

    span = live.seen.span("turn")
    assert attributes(span)["outcome"] == "error_max_turns"
    assert failed_with(span) == "error_max_turns"
    assert list(live.seen.times(TURN, "outcome")) == ["error_max_turns"]
    await live.ended()


@pytest.mark.parametrize(
    ("subtype", "outcome"),
    [("error_during_execution", "interrupted"), ("success", "success")],
)
async def test_turn_interrupted_is_no_error(subtype: str, outcome: str) -> None:
    """One that was done before the interrupt reached it was not interrupted."""
    live = await Live().start()
    await live.prompted()
    await live.session.submit(Interrupt())
    await live.agent.called("interrupt")

    await live.turn_ends(subtype=subtype)

    span = live.seen.span("turn")
    assert attributes(span)["outcome"] == outcome
    assert failed_with(span) is None
    assert list(live.seen.times(TURN, "outcome")) == [outcome]
    await live.ended()


async def test_turn_after_an_interrupted_one_has_an_outcome_of_its_own() -> None:
    live = await Live().start()
    await live.prompted()
    await live.session.submit(Interrupt())
    await live.agent.called("interrupt")
    await live.turn_ends(subtype="error_during_execution")

    await live.turn()

    outcomes = [attributes(span)["outcome"] for span in live.seen.spans("turn")]
    assert outcomes == ["interrupted", "success"]
    await live.ended()


async def test_turn_whose_agent_died_has_failed() -> None:
    live = await Live().start()
    await live.prompted()

    live.agent.end(RuntimeError("boom"))
    await live.session.wait_ended()

    span = live.seen.span("turn")
    assert attributes(span)["outcome"] == "agent_exited"
    assert failed_with(span) == "agent_exited"
    assert {key: n for key, (n, _) in live.seen.times(TURN, "outcome").items()} == {
        "agent_exited": 1
    }


async def test_agent_that_died_between_turns_fails_none() -> None:
    live = await Live().start()
    await live.turn()

    live.agent.end(RuntimeError("boom"))
    await live.session.wait_ended()

    assert failed_with(live.seen.span("turn")) is None


async def test_turn_cut_short_by_the_end_of_its_session_is_aborted() -> None:
    live = await Live(close_turn_s=0.02).start()
    await live.prompted()

    await live.ended()

    span = live.seen.span("turn")
    assert attributes(span)["outcome"] == "turn_aborted"
    assert failed_with(span) == "turn_aborted"


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (ResultMessage(usage=cast("Any", object())), "success"),
        (UnparsedMessage("no duration_ms", "result"), "unreadable"),
    ],
)
async def test_turn_with_an_odd_result_has_ended_all_the_same(
    result: Any, outcome: str
) -> None:
    live = await Live().start()
    await live.prompted()

    live.agent.push(result)
    await settle()

    assert attributes(live.seen.span("turn"))["outcome"] == outcome
    await live.ended()
    assert len(live.seen.spans("turn")) == 1


# --- permissions


async def test_permission_is_a_span_below_its_turn() -> None:
    live = await Live().start()
    with live.seen.tracer.start_as_current_span("request"):
        await live.prompted()
    ask = await live.asked(command="ls")

    with live.seen.tracer.start_as_current_span("reply"):
        reply = PermissionResponse("toolu_1", "allow")
        await live.session.submit(reply, "tab-1")
    await ask
    await live.turn_ends()

    permission, turn = live.seen.span("permission"), live.seen.span("turn")
    assert attributes(permission) == {
        "session_id": "s-1",
        "protocol_version": PROTOCOL_VERSION,
        "correlation_id": "toolu_1",
        "tool_name": "Bash",
        "event_seq": numbers_of(live.session.log, "permission_request")[0],
        "outcome": "allow",
    }
    assert hangs_below(permission, turn)
    assert hangs_below(turn, live.seen.span("request"))
    assert failed_with(permission) is None
    await live.ended()


async def test_permissions_of_one_turn_hang_side_by_side() -> None:
    live = await Live().start()
    await live.prompted()
    asks = [await live.asked(id_) for id_ in ("toolu_1", "toolu_2")]

    for id_ in ("toolu_2", "toolu_1"):
        await live.session.submit(PermissionResponse(id_, "deny"))
    await asyncio.wait(asks)
    await live.turn_ends()

    permissions = live.seen.spans("permission")
    assert [attributes(each)["correlation_id"] for each in permissions] == [
        "toolu_2",
        "toolu_1",
    ]
    assert all(hangs_below(each, live.seen.span("turn")) for each in permissions)
    await live.ended()


async def test_permission_of_a_background_task_hangs_below_no_turn() -> None:
    live = await Live().start()
    await live.turn()
    ask = await live.asked()

    await live.session.submit(PermissionResponse("toolu_1", "allow"))
    await ask

    assert live.seen.span("permission").parent is None
    await live.ended()


async def test_permission_asked_twice_is_two_spans_with_ids_of_their_own() -> None:
    live = await Live().start()
    await live.prompted()
    for correlation_id in ("toolu_1", "toolu_1.2"):
        ask = asyncio.ensure_future(live.agent.ask("toolu_1"))
        await settle()
        await live.session.submit(PermissionResponse(correlation_id, "allow"))
        await ask

    spans = live.seen.spans("permission")
    assert [attributes(span)["correlation_id"] for span in spans] == [
        "toolu_1",
        "toolu_1.2",
    ]
    await live.turn_ends()
    await live.ended()


async def answered(live: Live) -> None:
    ask = await live.asked(tool_name="AskUserQuestion", questions=QUESTIONS)
    await live.session.submit(QuestionResponse("toolu_1", {"Which colour?": "Red"}))
    await ask


async def denied(live: Live) -> None:
    ask = await live.asked()
    await live.session.submit(PermissionResponse("toolu_1", "deny"))
    await ask


async def taken_back(live: Live) -> None:
    ask = await live.asked()
    ask.cancel()
    await asyncio.wait({ask})


async def left_open(live: Live) -> None:
    ask = await live.asked()
    live.agent.end(RuntimeError("boom"))
    await live.session.wait_ended()
    await ask


@pytest.mark.parametrize(
    ("course", "outcome", "winners"),
    [
        (answered, "answered", {"none": 1}),
        (denied, "deny", {"none": 1}),
        (taken_back, "cancelled", {}),
        (left_open, "cancelled", {}),
    ],
)
async def test_permission_has_the_outcome_that_clients_are_told(
    course: Any, outcome: str, winners: dict[str, int]
) -> None:
    live = await Live().start()
    await live.prompted()

    await course(live)

    assert attributes(live.seen.span("permission"))["outcome"] == outcome
    assert {key: n for key, (n, _) in live.seen.times(WAIT, "outcome").items()} == {
        outcome: 1
    }
    assert live.seen.numbers(WINNER, "subscriber_id") == winners
    await live.turn_ends()
    await live.ended()


async def test_winner_is_who_answered_first_and_nobody_after() -> None:
    live = await Live().start()
    await live.prompted()
    asks = [await live.asked(id_) for id_ in ("toolu_1", "toolu_2", "toolu_3")]

    for id_, tab in [("toolu_1", "a"), ("toolu_2", "b"), ("toolu_3", "a")]:
        await live.session.submit(PermissionResponse(id_, "allow"), tab)
        with pytest.raises(Exception, match="already resolved"):
            await live.session.submit(PermissionResponse(id_, "deny"), "late")
    await asyncio.wait(asks)

    assert live.seen.numbers(WINNER, "subscriber_id") == {"a": 2, "b": 1}
    await live.turn_ends()
    await live.ended()


# --- first tokens


async def test_first_token_counts_once_per_turn_however_many_follow() -> None:
    live = await Live().start()

    for count in (1, 2):
        await live.prompted()
        assert live.seen.times(FIRST_TOKEN).get(None, (0, 0))[0] == count - 1
        live.agent.push(*streamed_text(f"msg_{count}", "Hel", "lo", " there"))
        live.agent.push(*streamed_text(f"msg_{count}_2", "and", "more"))
        await settle()
        assert live.seen.times(FIRST_TOKEN)[None][0] == count
        await live.turn_ends()

    assert live.seen.times(FIRST_TOKEN)[None][0] == 2
    assert [events_of(span) for span in live.seen.spans("turn")] == [
        ["first_token"],
        ["first_token"],
    ]
    await live.ended()


def events_of(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


async def test_turn_without_a_delta_has_no_first_token() -> None:
    live = await Live().start()

    await live.turn()

    assert FIRST_TOKEN not in live.seen.metrics()
    assert events_of(live.seen.span("turn")) == []
    await live.ended()


async def test_delta_between_turns_is_nobodys_first_token() -> None:
    live = await Live().start()
    await live.turn()

    live.agent.push(*streamed_text("msg_1", "late"))
    await settle()
    assert FIRST_TOKEN not in live.seen.metrics()

    await live.prompted()
    live.agent.push(*streamed_text("msg_2", "new"))
    await live.turn_ends()
    assert [events_of(span) for span in live.seen.spans("turn")] == [
        [],
        ["first_token"],
    ]
    await live.ended()


# --- what spans must not tell


async def test_no_attribute_carries_what_people_or_agents_wrote() -> None:
    live = await Live().start()
    await live.prompted("confidential")
    live.agent.push(*streamed_text("msg_1", "confidential"))
    ask = await live.asked(command="confidential")
    await live.session.submit(
        PermissionResponse("toolu_1", "deny", message="confidential"), "tab-1"
    )
    await ask
    live.agent.end(RuntimeError("confidential"))
    await live.session.wait_ended()

    assert len(live.seen.all_spans()) == 2
    for span in live.seen.all_spans():
        assert "confidential" not in span.to_json()
    for metric in live.seen.metrics().values():
        assert "confidential" not in metric.to_json()


# --- the trace itself, on a clock that stands still


class Traced:
    """A conversation without its agent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        monkeypatch.setattr("webkit_core.tracing.now_s", self.clock)
        self.seen = Collecting()
        self.talk = Conversation(
            "s-1", DEFAULT_DELTAS, Limits(), telemetry=self.seen.telemetry
        )
        self.talk.ready()

    async def asked(self, request: Request = BASH) -> asyncio.Task[Any]:
        """A request that is open; no message announces it."""
        router = self.talk.router
        ask = asyncio.ensure_future(
            router.ask(request, lambda name, data: self.talk.emit(data))
        )
        await settle()
        assert router.has_pending(request.correlation_id)
        return ask


async def test_durations_run_from_the_prompt_being_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced = Traced(monkeypatch)
    traced.clock.advance(100)
    for wait_s in (2.0, 3.0):
        traced.talk.prompted("uuid", get_current())
        traced.clock.advance(wait_s)
        for message in streamed_text("msg_1", "Hel", "lo"):
            traced.talk.receive(message)
            traced.clock.advance(1)
        traced.clock.advance(10)
        traced.talk.receive(ResultMessage())

    pieces = len(streamed_text("msg_1", "Hel", "lo"))
    # What comes before the first delta: the message's start and its block's.
    assert traced.seen.times(FIRST_TOKEN) == {None: (2, 5.0 + 2 * 2)}
    assert traced.seen.times(TURN, "outcome") == {
        "success": (2, 5.0 + 2 * pieces + 2 * 10)
    }


async def test_wait_for_people_runs_from_the_request_to_its_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced = Traced(monkeypatch)
    first = await traced.asked()
    traced.clock.advance(5)
    second = await traced.asked(Request("toolu_2", "Bash", {}, {}))
    traced.clock.advance(2)
    assert traced.talk.ask_ages_s == [7.0, 2.0]

    traced.talk.router.reply(PermissionResponse("toolu_1", "allow"))
    assert traced.talk.ask_ages_s == [2.0]
    traced.clock.advance(1)
    traced.talk.router.reply(PermissionResponse("toolu_2", "deny"))

    assert traced.talk.ask_ages_s == []
    assert traced.seen.times(WAIT, "outcome") == {"allow": (1, 7.0), "deny": (1, 3.0)}
    await asyncio.wait({first, second})


@pytest.mark.parametrize("outcome", ["allow", "deny", "answered", "cancelled"])
def test_outcome_of_what_was_never_asked_is_nothing(outcome: Outcome) -> None:
    seen = Collecting()
    trace = SessionTrace(seen.telemetry, "s-1", EventLog())

    trace.resolved("toolu_1", outcome, "tab-1")
    trace.turn_ended("success")
    trace.first_token()

    assert trace.ask_ages_s == []
    assert seen.all_spans() == ()
    assert not {WAIT, WINNER, TURN, FIRST_TOKEN} & set(seen.metrics())


def test_outcome_told_twice_counts_once() -> None:
    seen = Collecting()
    trace = SessionTrace(seen.telemetry, "s-1", EventLog())
    trace.turn_began(None)
    trace.asked(BASH)

    for _ in range(2):
        trace.resolved("toolu_1", "allow", "tab-1")
        trace.turn_ended("success")

    assert seen.numbers(WINNER, "subscriber_id") == {"tab-1": 1}
    assert [span.name for span in seen.all_spans()] == ["permission", "turn"]


def test_permission_that_outlives_its_turn_still_hangs_below_it() -> None:
    seen = Collecting()
    trace = SessionTrace(seen.telemetry, "s-1", EventLog())
    trace.turn_began(None)
    trace.asked(BASH)

    trace.turn_ended("success")
    trace.resolved("toolu_1", "cancelled", None)

    assert hangs_below(seen.span("permission"), seen.span("turn"))
