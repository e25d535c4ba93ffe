from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from claude_agent_sdk.types import (
    TaskNotificationMessage,
    TaskStartedMessage,
    TaskUpdatedMessage,
)

from tests.sse_parser import SseParser
from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.collecting import Collecting, attributes
from tests.unit.core.stepping import settle
from webkit_core import (
    DEFAULT_DELTAS,
    Allow,
    Decision,
    Deny,
    EventLog,
    Limits,
    PermissionResponse,
    Request,
    State,
)
from webkit_core.claude import UnparsedMessage
from webkit_core.conversation import Conversation
from webkit_core.testing import (
    AssistantMessage,
    ResultMessage,
    SystemMessage,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
    streamed_text,
)

PROMPT = "6ad1e4a1-0000-4000-8000-000000000001"
BASH = Request("toolu_1", "Bash", {"command": "ls"}, {})
TOOL_USE = AssistantMessage([ToolUseBlock("toolu_1", "Bash", {})], "msg_1")
NOTIFICATION = {"kind": "task-notification"}


def seen(log: EventLog) -> list[tuple[str, Any]]:
    """What a client that came late would be sent: names and data."""
    data, _ = log.read(log.oldest_seq - 1)
    events = SseParser().feed(bytes(data))
    return [(event.type, json.loads(event.data)) for event in events]


def names(log: EventLog) -> list[str]:
    return [name for name, _ in seen(log)]


def of(log: EventLog, wanted: str) -> list[Any]:
    """The data of every event of that name."""
    return [data for name, data in seen(log) if name == wanted]


def states(log: EventLog) -> list[str]:
    return [data["state"] for data in of(log, "session_state")]


def state_of(talk: Conversation) -> State:
    """Asked anew each time: it changes behind the type checker's back."""
    return talk.state


def conversation() -> Conversation:
    talk = Conversation("s-1", DEFAULT_DELTAS, Limits())
    talk.ready()
    return talk


async def answer_to(talk: Conversation, request: Request) -> Decision:
    async with asyncio.timeout(5):
        return await talk.ask(request)


def asked(talk: Conversation, request: Request = BASH) -> asyncio.Task[Decision]:
    return asyncio.ensure_future(answer_to(talk, request))


async def open_ask(talk: Conversation) -> asyncio.Task[Decision]:
    """A request that clients can see and nobody has answered."""
    talk.receive(TOOL_USE)
    task = asked(talk)
    await settle()
    assert talk.router.has_pending("toolu_1")
    return task


def result(**fields: Any) -> ResultMessage:
    return ResultMessage(**fields)


INIT = SystemMessage("init", {})


# --- turns


def test_conversation_before_the_agent_is_up_is_starting_and_silent() -> None:
    talk = Conversation("s-1", DEFAULT_DELTAS, Limits())

    assert (talk.state, talk.log.last_seq) == (State.STARTING, 0)
    assert not talk.ended
    assert talk.busy


def test_ready_says_who_we_are_first() -> None:
    talk = conversation()

    assert seen(talk.log) == [
        ("session_ready", {"session_id": "s-1", "protocol_version": "1.0"})
    ]
    assert talk.log.last_seq == 1
    assert state_of(talk) is State.IDLE


def test_prompt_begins_a_turn_and_its_result_ends_it() -> None:
    talk = conversation()

    talk.prompted(PROMPT)
    assert (talk.state, talk.turn_runs, talk.busy) == (State.RUNNING, True, True)
    assert states(talk.log) == ["running"]

    talk.receive(result())
    assert (talk.state, talk.turn_runs, talk.busy) == (State.IDLE, False, False)
    assert names(talk.log)[2:] == ["result", "session_state"]
    assert states(talk.log) == ["running", "idle"]


@pytest.mark.parametrize(
    ("origin", "uuids"),
    [
        (NOTIFICATION, None),
        (NOTIFICATION, []),
        (NOTIFICATION, ["somebody-else"]),
        # A late result, of a prompt that was handed over before.
        (None, ["somebody-else"]),
        ({"kind": "human"}, ["somebody-else"]),
        ({"kind": "human"}, [None, 7, "somebody-else"]),
    ],
)
def test_result_of_the_agents_own_turn_does_not_end_ours(
    origin: dict[str, Any] | None, uuids: list[Any] | None
) -> None:
    talk = conversation()
    talk.prompted(PROMPT)

    talk.receive(result(origin=origin, user_message_uuids=uuids))

    assert state_of(talk) is State.RUNNING
    assert len(of(talk.log, "result")) == 1
    talk.receive(result())
    assert state_of(talk) is State.IDLE


@pytest.mark.parametrize(
    ("origin", "uuids"),
    [
        (None, None),
        (None, [PROMPT]),
        ({"kind": "human"}, None),
        ({"kind": "human"}, [PROMPT]),
        # The agent took our prompt up within a turn it had begun by itself.
        (NOTIFICATION, [PROMPT]),
        (NOTIFICATION, ["somebody-else", PROMPT]),
    ],
)
def test_result_of_our_prompt_ends_our_turn(
    origin: dict[str, Any] | None, uuids: list[str] | None
) -> None:
    talk = conversation()
    talk.prompted(PROMPT)

    talk.receive(result(origin=origin, user_message_uuids=uuids))

    assert state_of(talk) is State.IDLE


@pytest.mark.parametrize(
    "uuids", [7, "somebody-else", PROMPT, None, [], {}, True, 1.5], ids=repr
)
@pytest.mark.parametrize("origin", [None, "human", 7, []], ids=repr)
def test_result_that_names_prompts_in_an_odd_way_ends_our_turn(
    uuids: Any, origin: Any
) -> None:
    talk = conversation()
    talk.prompted(PROMPT)

    talk.receive(result(origin=origin, user_message_uuids=uuids))

    assert state_of(talk) is State.IDLE
    assert names(talk.log)[2:] == ["result", "session_state"]


@pytest.mark.parametrize("uuids", [["an-earlier-one"], [PROMPT], 7, None])
def test_turn_that_the_agent_began_ends_with_any_result(uuids: Any) -> None:
    talk = conversation()
    talk.receive(INIT)

    talk.receive(result(user_message_uuids=uuids))

    assert state_of(talk) is State.IDLE


def test_late_result_of_the_prompt_before_does_not_end_the_next_ones_turn() -> None:
    talk = conversation()
    talk.prompted("prompt-1")
    talk.receive(result(user_message_uuids=["prompt-1"]))
    talk.prompted("prompt-2")

    talk.receive(result(user_message_uuids=["prompt-1"]))
    assert state_of(talk) is State.RUNNING
    talk.receive(result(user_message_uuids=["prompt-2"]))

    assert state_of(talk) is State.IDLE
    assert len(of(talk.log, "result")) == 3


def test_messages_are_counted_as_they_arrive() -> None:
    """Also those that nobody can read: something is alive there."""
    talk = conversation()
    assert talk.received == 0

    for message in (INIT, Odd(), AssistantMessage(None, "m"), result()):  # type: ignore[arg-type]
        talk.receive(message)

    assert talk.received == 4


@pytest.mark.parametrize("uuids", [None, [PROMPT]])
def test_tools_are_forgotten_with_their_turn(uuids: Any) -> None:
    talk = conversation()
    talk.prompted(PROMPT)
    talk.receive(TOOL_USE)
    assert talk.tools_run == 1

    talk.receive(result(user_message_uuids=uuids))

    assert talk.tools_run == 0


def test_tools_are_not_forgotten_with_somebody_elses_turn() -> None:
    talk = conversation()
    talk.prompted(PROMPT)
    talk.receive(TOOL_USE)

    talk.receive(result(origin=NOTIFICATION))
    assert talk.tools_run == 1
    talk.receive(UserMessage([ToolResultBlock("toolu_1", "out")]))

    assert talk.tools_run == 0


def test_prompt_is_forgotten_with_its_turn() -> None:
    """Else the agent's next own turn would never end."""
    talk = conversation()
    talk.prompted(PROMPT)
    talk.receive(result())

    talk.receive(INIT)
    assert state_of(talk) is State.RUNNING
    talk.receive(result(origin=NOTIFICATION))

    assert state_of(talk) is State.IDLE


def test_init_in_a_running_turn_changes_nothing() -> None:
    talk = conversation()
    talk.prompted(PROMPT)

    talk.receive(INIT)

    assert states(talk.log) == ["running"]


def test_other_system_messages_begin_no_turn() -> None:
    talk = conversation()

    talk.receive(SystemMessage("status", {}))

    assert state_of(talk) is State.IDLE


def test_result_when_nothing_runs_is_shown_and_changes_nothing() -> None:
    talk = conversation()

    talk.receive(result())

    assert names(talk.log) == ["session_ready", "result"]


async def test_result_with_a_request_open_leaves_it_waiting_in_the_background() -> None:
    talk = conversation()
    talk.prompted(PROMPT)
    task = await open_ask(talk)
    assert state_of(talk) is State.WAITING

    talk.receive(result())

    assert state_of(talk) is State.BACKGROUND_WAITING
    assert talk.busy
    assert not talk.turn_runs
    talk.router.reply(PermissionResponse("toolu_1", "allow"))
    await task
    assert states(talk.log) == ["running", "waiting", "background_waiting", "idle"]


async def test_interrupted_turn_with_a_request_open_ends_in_the_background() -> None:
    talk = conversation()
    talk.prompted(PROMPT)
    task = await open_ask(talk)
    assert talk.interrupted()

    talk.receive(result())

    assert state_of(talk) is State.BACKGROUND_WAITING
    task.cancel()
    await settle()
    assert state_of(talk) is State.IDLE


async def test_interrupt_is_wanted_only_while_a_turn_runs() -> None:
    talk = conversation()
    assert not talk.interrupted()
    task = await open_ask(talk)
    assert not talk.interrupted()
    assert state_of(talk) is State.BACKGROUND_WAITING

    talk.prompted(PROMPT)
    assert talk.interrupted()
    assert talk.interrupted()
    assert state_of(talk) is State.INTERRUPTING

    talk.finish()
    assert not talk.interrupted()
    await task


def test_cost_adds_up_what_the_turns_cost() -> None:
    talk = conversation()
    for total in (0.25, 0.75):
        talk.prompted(PROMPT)
        talk.receive(result(total_cost_usd=total))

    assert talk.cost_usd == 0.75
    assert [data["total_cost_usd"] for data in of(talk.log, "result")] == [0.25, 0.5]


# --- odd messages


class Odd:
    """Answers no question."""


def named(name: str) -> object:
    """An SDK message of that name without any of its fields."""
    return type(name, (Odd,), {})()


@pytest.mark.parametrize("kind", ["AssistantMessage", "StreamEvent", "UserMessage"])
def test_message_that_cannot_be_translated_is_left_out_by_name(kind: str) -> None:
    talk = conversation()
    talk.prompted(PROMPT)

    talk.receive(named(kind))

    (notice,) = of(talk.log, "notice")
    assert notice == {"kind": "message_left_out", "details": {"kind": kind}}
    assert state_of(talk) is State.RUNNING
    talk.receive(AssistantMessage([TextBlock("still here")], "msg_2"))
    assert names(talk.log)[-1] == "message_complete"


def test_result_that_cannot_be_translated_still_ends_its_turn() -> None:
    talk = conversation()
    talk.prompted(PROMPT)

    talk.receive(named("ResultMessage"))

    assert names(talk.log)[2:] == ["error", "session_state"]
    assert state_of(talk) is State.IDLE


def test_unknown_message_is_told_to_the_operator_once_and_to_no_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    talk = conversation()

    talk.receive(named("BrandNewMessage"))
    talk.receive(named("BrandNewMessage"))

    assert names(talk.log) == ["session_ready"]
    assert [record.getMessage() for record in caplog.records] == [
        "session s-1: unknown kind of SDK message: BrandNewMessage"
    ]


# --- the end


def test_fail_says_why_once() -> None:
    talk = conversation()

    talk.fail("agent_exited", "gone")
    talk.fail("agent_timeout", "slow")

    assert of(talk.log, "error") == [{"code": "agent_exited", "message": "gone"}]
    assert talk.failure is not None
    assert talk.failure.message == "gone"
    assert state_of(talk) is State.FAILED
    assert talk.ended


def test_fail_after_the_end_says_nothing() -> None:
    talk = conversation()
    talk.finish()
    before = names(talk.log)

    talk.fail("agent_exited", "gone")

    assert names(talk.log) == before
    assert talk.failure is None
    assert state_of(talk) is State.CLOSED


def test_finish_when_idle_ends_the_log_with_done_once() -> None:
    talk = conversation()

    talk.finish()
    talk.finish()

    assert names(talk.log) == ["session_ready", "session_state", "done"]
    assert states(talk.log) == ["closed"]
    assert talk.log.closed


def test_finish_in_mid_turn_ends_it_with_an_error() -> None:
    talk = conversation()
    talk.prompted(PROMPT)

    talk.finish()

    assert names(talk.log)[2:] == ["error", "session_state", "done"]
    assert of(talk.log, "error")[0]["code"] == "turn_aborted"


def test_finish_after_a_failure_in_mid_turn_adds_no_second_error() -> None:
    talk = conversation()
    talk.prompted(PROMPT)
    talk.fail("agent_exited", "gone")

    talk.finish()

    assert [error["code"] for error in of(talk.log, "error")] == ["agent_exited"]
    assert state_of(talk) is State.FAILED
    assert names(talk.log)[-1] == "done"


async def test_finish_takes_back_what_is_open_before_the_end() -> None:
    talk = conversation()
    talk.prompted(PROMPT)
    task = await open_ask(talk)

    talk.finish()

    decision = await task
    assert isinstance(decision, Deny)
    assert decision.interrupt
    assert of(talk.log, "permission_resolved") == [
        {"correlation_id": "toolu_1", "outcome": "cancelled"}
    ]
    assert names(talk.log)[-1] == "done"
    assert names(talk.log).count("error") == 1


def test_what_comes_after_done_is_dropped() -> None:
    talk = conversation()
    talk.prompted(PROMPT)
    talk.finish()
    before = names(talk.log)

    for message in (*streamed_text("msg_1", "late"), TOOL_USE, result(), INIT):
        talk.receive(message)
    talk.receive(named("AssistantMessage"))

    assert names(talk.log) == before
    assert state_of(talk) is State.CLOSED


# --- permissions


async def test_request_waits_for_the_message_it_is_about() -> None:
    """The SDK hears of both at once, and the callback may come first."""
    talk = conversation()
    task = asked(talk)
    await settle()
    assert names(talk.log) == ["session_ready"]

    talk.receive(TOOL_USE)
    await settle()

    assert names(talk.log) == [
        "session_ready",
        "message_complete",
        "tool_use",
        "permission_request",
        "session_state",
    ]
    talk.finish()
    await task


async def test_request_already_announced_is_shown_at_once() -> None:
    talk = conversation()
    talk.receive(TOOL_USE)

    task = asked(talk)
    await settle()

    assert "permission_request" in names(talk.log)
    talk.finish()
    await task


async def test_request_of_a_tool_that_has_finished_waits_for_its_next_use() -> None:
    """Finished tools are forgotten, else a long session would remember them all."""
    talk = conversation()
    talk.receive(TOOL_USE)
    talk.receive(UserMessage([ToolResultBlock("toolu_1", "done")]))

    task = asked(talk)
    await settle()

    assert names(talk.log)[-1] == "tool_result"
    talk.finish()
    await task


async def test_request_never_announced_is_shown_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sub-agent's tool use may stay untold; its request must not hang."""
    monkeypatch.setattr("webkit_core.conversation.ANNOUNCED_S", 0.01)
    talk = conversation()
    task = asked(talk)

    assert await talk.until(lambda: talk.router.requests, 5)

    assert of(talk.log, "permission_request")[0]["correlation_id"] == "toolu_1"
    talk.finish()
    await task


async def test_request_taken_back_before_it_was_shown_leaves_no_trace() -> None:
    talk = conversation()
    task = asked(talk)
    await settle()

    task.cancel()
    await settle()
    talk.receive(TOOL_USE)
    await settle()

    assert task.cancelled()
    assert names(talk.log) == ["session_ready", "message_complete", "tool_use"]
    assert not talk.busy


async def test_request_made_after_the_end_is_denied_at_once() -> None:
    """Nobody is left to answer it, and the agent would wait for ever."""
    talk = conversation()
    talk.finish()
    before = names(talk.log)

    decision = await answer_to(talk, BASH)

    assert isinstance(decision, Deny)
    assert decision.interrupt
    assert names(talk.log) == before
    assert not talk.busy


async def test_request_not_yet_shown_at_the_end_is_denied() -> None:
    talk = conversation()
    task = asked(talk)
    await settle()

    talk.finish()

    assert isinstance(await task, Deny)
    assert names(talk.log)[-1] == "done"
    assert talk.router.requests == []


async def test_request_made_while_the_agent_starts_is_shown_after_session_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resumed agent may go on with a tool before it counts as connected."""
    monkeypatch.setattr("webkit_core.conversation.ANNOUNCED_S", 0)
    talk = Conversation("s-1", DEFAULT_DELTAS, Limits())
    task = asked(talk)
    await settle()

    talk.ready()
    await settle()

    assert names(talk.log) == ["session_ready", "permission_request", "session_state"]
    assert state_of(talk) is State.BACKGROUND_WAITING
    talk.finish()
    await task


# --- background tasks


def started(task_id: str = "t-1") -> TaskStartedMessage:
    return TaskStartedMessage("task_started", {}, task_id, "sleep 60", "u", "s-1")


def updated(status: Any, task_id: str = "t-1") -> TaskUpdatedMessage:
    return TaskUpdatedMessage("task_updated", {}, task_id, {}, status)


def notified(status: Any, task_id: str = "t-1") -> TaskNotificationMessage:
    return TaskNotificationMessage(
        "task_notification", {}, task_id, status, "/tmp/out", "done", "u", "s-1"
    )


@pytest.mark.parametrize(
    "end",
    [
        notified("completed"),
        notified("failed"),
        notified("stopped"),
        updated("killed"),
        updated("completed"),
    ],
    ids=lambda end: f"{end.subtype}-{end.status}",
)
def test_background_task_keeps_the_session_busy_until_it_ends(end: object) -> None:
    talk = conversation()
    talk.receive(started())
    talk.receive(started("t-2"))
    assert talk.busy
    assert not talk.turn_runs

    talk.receive(end)
    assert talk.busy
    talk.receive(notified("completed", "t-2"))

    assert not talk.busy


def test_background_task_that_goes_on_keeps_the_session_busy() -> None:
    talk = conversation()
    talk.receive(started())

    talk.receive(updated("running"))

    assert talk.busy


@pytest.mark.parametrize("late", [updated(None), updated("completed")])
def test_news_of_an_ended_task_does_not_make_the_session_busy_again(
    late: object,
) -> None:
    """A patch without a status (an end time, say) may come after the end."""
    talk = conversation()
    talk.receive(started())
    talk.receive(notified("completed"))

    talk.receive(late)

    assert not talk.busy


@pytest.mark.parametrize("failed", [True, False])
async def test_ended_conversation_is_not_busy_whatever_was_left(failed: bool) -> None:
    """Else nobody would ever evict it: its tasks died with its agent."""
    talk = conversation()
    talk.prompted(PROMPT)
    talk.receive(started())
    task = await open_ask(talk)

    if failed:
        talk.fail("agent_exited", "gone")
    talk.finish()
    await task

    assert not talk.busy


# --- waiting


async def test_until_with_the_condition_met_does_not_wait() -> None:
    assert await conversation().until(lambda: True, 0)


async def test_until_looks_again_after_every_change() -> None:
    talk = conversation()
    task = asyncio.ensure_future(talk.until(lambda: talk.turn_runs, 5))
    await settle()
    talk.changed.publish()
    await settle()
    assert not task.done()

    talk.prompted(PROMPT)

    assert await task


async def test_until_gives_up_in_time() -> None:
    assert not await conversation().until(lambda: False, 0.01)


async def test_until_cancelled_is_cancelled_and_disturbs_no_other() -> None:
    talk = conversation()
    first = asyncio.ensure_future(talk.until(lambda: talk.ended, 5))
    second = asyncio.ensure_future(talk.until(lambda: talk.ended, 5))
    await settle()

    first.cancel()
    await settle()
    talk.finish()

    assert first.cancelled()
    assert await second


@dataclass
class ConversationResetMessage:
    """What the CLI says after ``/clear``."""


def test_notices_reach_clients_in_the_order_they_came() -> None:
    talk = conversation()

    talk.receive(ConversationResetMessage())
    talk.receive(SystemMessage("api_retry", {"attempt": 1}))

    assert [data["kind"] for data in of(talk.log, "notice")] == [
        "conversation_reset",
        "api_retry",
    ]


def test_result_the_sdk_cannot_parse_ends_its_turn_with_an_error() -> None:
    """Else no further prompt would ever be handed over."""
    talk = conversation()
    talk.prompted(PROMPT)

    talk.receive(UnparsedMessage("no duration_ms", "result"))

    (error,) = of(talk.log, "error")
    assert error == {"code": "unreadable_result", "message": "no duration_ms"}
    assert state_of(talk) is State.IDLE


def test_model_and_mode_are_those_the_agent_tells_of() -> None:
    talk = conversation()

    talk.receive(SystemMessage("init", {"model": "m-1", "permissionMode": "default"}))
    assert (talk.model, talk.permission_mode) == ("m-1", "default")
    talk.receive(SystemMessage("status", {"permissionMode": "plan"}))

    assert (talk.model, talk.permission_mode) == ("m-1", "plan")


# --- rules


def ruled(ruling: Any, **more: Any) -> Conversation:
    def policy(_name: str, _input: dict[str, Any]) -> Any:
        return ruling

    talk = Conversation("s-1", DEFAULT_DELTAS, Limits(), policy=policy, **more)
    talk.ready()
    talk.prompted(PROMPT)
    talk.receive(TOOL_USE)
    return talk


async def test_tool_that_the_rules_allow_runs_and_clients_hear_nothing() -> None:
    talk = ruled("allow")
    before = talk.log.last_seq

    assert await answer_to(talk, BASH) == Allow()

    assert talk.log.last_seq == before
    assert state_of(talk) is State.RUNNING


@pytest.mark.parametrize("ruling", ["deny", "odd", None])
async def test_tool_that_the_rules_deny_is_told_to_clients_and_asked_of_nobody(
    ruling: Any,
) -> None:
    talk = ruled(ruling)
    before = names(talk.log)

    decision = await answer_to(talk, BASH)

    assert isinstance(decision, Deny)
    assert not decision.interrupt
    assert names(talk.log) == [*before, "notice"]
    assert of(talk.log, "notice") == [
        {
            "kind": "refused",
            "details": {"request": "Bash", "reason": decision.message},
        }
    ]
    assert state_of(talk) is State.RUNNING
    assert len(talk.router) == 0


async def test_tool_that_the_rules_leave_open_is_asked_for() -> None:
    talk = ruled("ask")

    task = asked(talk)
    await settle()
    talk.router.reply(PermissionResponse("toolu_1", "allow"))

    assert await task == Allow()
    assert [name for name in names(talk.log) if name.startswith("permission")] == [
        "permission_request",
        "permission_resolved",
    ]
    assert of(talk.log, "notice") == []


@pytest.mark.parametrize("ruling", ["allow", "deny", None])
async def test_question_is_asked_whatever_the_rules(ruling: Any) -> None:
    talk = ruled(ruling)
    request = Request("toolu_1", "AskUserQuestion", {"questions": []}, {})

    task = asked(talk, request)
    await settle()

    assert names(talk.log).count("ask_user_question") == 1
    assert of(talk.log, "notice") == []
    task.cancel()


async def test_rules_decide_after_the_tool_was_shown() -> None:
    """Else its refusal would be told before the use that was refused."""
    talk = ruled("deny")
    talk.receive(UserMessage([ToolResultBlock("toolu_1", "out")]))

    task = asked(talk)
    await settle()
    assert of(talk.log, "notice") == []
    talk.receive(TOOL_USE)
    await task

    assert names(talk.log)[-2:] == ["tool_use", "notice"]


class Slow:
    """A policy that takes until it is told what to say."""

    def __init__(self) -> None:
        self.ruling: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def __call__(self, _name: str, _input: dict[str, Any]) -> Any:
        return self.ruling


@pytest.mark.parametrize("ruling", ["ask", "deny", "allow"])
async def test_request_that_is_being_decided_at_the_end_is_denied(ruling: str) -> None:
    """Nobody is left to answer, and nothing may be left open."""
    policy = Slow()
    talk = Conversation(
        "s-1", DEFAULT_DELTAS, Limits(), policy=policy, permission_s=60.0
    )
    talk.ready()
    talk.receive(TOOL_USE)
    task = asked(talk)
    await settle()

    talk.finish()
    policy.ruling.set_result(ruling)
    await settle()

    assert len(talk.router) == 0
    assert task.done()
    assert isinstance(task.result(), Deny)


async def test_request_taken_back_while_it_is_being_decided_leaves_no_trace() -> None:
    policy = Slow()
    talk = Conversation("s-1", DEFAULT_DELTAS, Limits(), policy=policy)
    talk.ready()
    talk.receive(TOOL_USE)
    before = talk.log.last_seq
    task = asked(talk)
    await settle()

    task.cancel()
    await settle()

    assert task.cancelled()
    assert talk.log.last_seq == before
    assert len(talk.router) == 0


# --- people who do not answer


def test_request_that_nobody_answers_expires() -> None:
    async def main() -> None:
        seen = Collecting()
        talk = Conversation(
            "s-1", DEFAULT_DELTAS, Limits(), seen.telemetry, permission_s=60.0
        )
        talk.ready()
        talk.prompted(PROMPT)
        talk.receive(TOOL_USE)

        decision = await talk.ask(BASH)

        assert now_s() == pytest.approx(60)
        assert isinstance(decision, Deny)
        assert not decision.interrupt
        assert of(talk.log, "permission_resolved") == [
            {"correlation_id": "toolu_1", "outcome": "expired"}
        ]
        assert state_of(talk) is State.RUNNING
        assert states(talk.log)[-2:] == ["waiting", "running"]
        waits = seen.times("agent_webkit.permissions.wait", "outcome")
        assert {outcome: count for outcome, (count, _) in waits.items()} == {
            "expired": 1
        }
        assert (
            seen.numbers("agent_webkit.permissions.first_reply_winner", "subscriber_id")
            == {}
        )
        assert attributes(seen.span("permission"))["outcome"] == "expired"
        assert talk.ask_ages_s == []

    run_in_no_time(main())


def test_conversation_of_an_embedder_waits_for_people_for_ever() -> None:
    async def main() -> None:
        talk = conversation()
        talk.receive(TOOL_USE)
        task = asyncio.ensure_future(talk.ask(BASH))
        await asyncio.sleep(10**6)
        assert talk.router.has_pending("toolu_1")
        task.cancel()

    run_in_no_time(main())


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), float("-inf")])
def test_cost_that_is_no_number_ends_its_turn_and_is_not_counted(cost: float) -> None:
    talk = conversation()
    talk.prompted(PROMPT)

    talk.receive(result(total_cost_usd=cost))
    talk.receive(result(total_cost_usd=0.25))

    assert state_of(talk) is State.IDLE
    assert talk.cost_usd == 0.25
    assert [each["total_cost_usd"] for each in of(talk.log, "result")] == [None, 0.25]
    assert of(talk.log, "error") == []
