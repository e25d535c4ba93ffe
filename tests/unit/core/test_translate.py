from __future__ import annotations

from collections.abc import AsyncIterator
from math import inf, isfinite, nan
from typing import Any

import pytest
from claude_agent_sdk import types as sdk
from hypothesis import given, strategies as st

from tests.unit.core.sdk_messages import (
    SDK_TEXT,
    SDK_THINKING,
    SDK_TOOL,
    THINKING,
    assistant,
    complete,
    fed,
    result,
    start,
    stream,
    text_delta,
)
from webkit_core.protocol import ToolResult
from webkit_core.translate import (
    NOTICES,
    TASK_ENDED,
    Translator,
    answers_prompt,
    translate_sdk_messages,
)

# --- tool results


@pytest.mark.parametrize(
    ("block", "output", "is_error"),
    [
        (sdk.ToolResultBlock("toolu_1", "out"), "out", False),
        (sdk.ToolResultBlock("toolu_1", "out", False), "out", False),
        (sdk.ToolResultBlock("toolu_1", "bad", True), "bad", True),
        (sdk.ToolResultBlock("toolu_1", None), "", False),
        (sdk.ToolResultBlock("toolu_1", []), [], False),
        (
            sdk.ToolResultBlock("toolu_1", [{"type": "text", "text": "x"}]),
            [{"type": "text", "text": "x"}],
            False,
        ),
        (
            sdk.ToolResultBlock(
                "toolu_1",
                [{"type": "image", "source": {"type": "base64", "data": "aGk="}}],
            ),
            [{"type": "image", "source": {"type": "base64", "data": "aGk="}}],
            False,
        ),
    ],
    ids=["text", "not-an-error", "error", "none", "no-blocks", "blocks", "image"],
)
def test_tool_result_is_handed_on(
    block: sdk.ToolResultBlock, output: object, is_error: bool
) -> None:
    assert fed(Translator("s"), sdk.UserMessage([block])) == [
        ("tool_result", {"tool_use_id": "toolu_1", "output": output,
                         "is_error": is_error})
    ]  # fmt: skip


def test_tool_results_of_one_message_all_arrive_with_their_parent() -> None:
    message = sdk.UserMessage(
        [
            sdk.ToolResultBlock("toolu_1", "a"),
            sdk.TextBlock("an echo"),
            sdk.ToolResultBlock("toolu_2", "b"),
        ],
        parent_tool_use_id="toolu_a",
    )

    events = list(Translator("s").feed(message))

    assert events == [
        ToolResult("toolu_1", "a", False, "toolu_a"),
        ToolResult("toolu_2", "b", False, "toolu_a"),
    ]


@pytest.mark.parametrize("content", ["hi", [sdk.TextBlock("hi")], []])
def test_user_message_that_is_an_echo_says_nothing(content: Any) -> None:
    assert fed(Translator("s"), sdk.UserMessage(content)) == []


# --- results and costs


def test_result_carries_the_wire_session_and_what_is_known() -> None:
    message = result(
        0.25,
        stop_reason="end_turn",
        terminal_reason="completed",
        result="done",
        structured_output={"x": 1},
        usage={"input_tokens": 3},
        model_usage={"claude-x": {"costUSD": 0.25}},
        permission_denials=[{"tool_name": "Bash"}],
        errors=["e"],
        api_error_status=529,
    )

    assert fed(Translator("wire-session"), message) == [
        ("result", {
            "session_id": "wire-session", "subtype": "success", "is_error": False,
            "total_cost_usd": 0.25, "session_cost_usd": 0.25, "duration_ms": 10,
            "duration_api_ms": 5, "num_turns": 1, "stop_reason": "end_turn",
            "terminal_reason": "completed", "result": "done",
            "structured_output": {"x": 1}, "usage": {"input_tokens": 3},
            "model_usage": {"claude-x": {"costUSD": 0.25}},
            "permission_denials": [{"tool_name": "Bash"}], "errors": ["e"],
            "api_error_status": 529,
        })
    ]  # fmt: skip


def test_result_leaves_out_what_is_not_known() -> None:
    assert fed(Translator("s"), result(permission_denials=[], errors=[])) == [
        ("result", {
            "session_id": "s", "subtype": "success", "is_error": False,
            "total_cost_usd": None, "session_cost_usd": 0.0, "duration_ms": 10,
            "duration_api_ms": 5, "num_turns": 1,
        })
    ]  # fmt: skip


def costs(translator: Translator, *totals: float | None) -> list[tuple[Any, Any]]:
    events = fed(translator, *map(result, totals))
    return [(data["total_cost_usd"], data["session_cost_usd"]) for _, data in events]


@pytest.mark.parametrize(
    ("running_totals", "expected"),
    [
        ([0.1, 0.3, 0.3], [(0.1, 0.1), (0.2, 0.3), (0.0, 0.3)]),
        ([0.0], [(0.0, 0.0)]),
        ([0.5, 0.2, 0.3], [(0.5, 0.5), (0.2, 0.7), (0.1, 0.8)]),
        ([0.5, None, 0.7], [(0.5, 0.5), (None, 0.5), (0.2, 0.7)]),
        ([0.5, 0.0, 0.5], [(0.5, 0.5), (0.0, 0.5), (0.5, 1.0)]),
        ([0.5, nan, 0.7], [(0.5, 0.5), (None, 0.5), (0.2, 0.7)]),
        ([0.5, inf, 0.7], [(0.5, 0.5), (None, 0.5), (0.2, 0.7)]),
        ([0.5, -inf, 0.7], [(0.5, 0.5), (None, 0.5), (0.2, 0.7)]),
        ([nan], [(None, 0.0)]),
    ],
    ids=[
        "rising",
        "free",
        "the-cli-began-anew",
        "unknown-in-between",
        "from-zero",
        "not-a-number-in-between",
        "infinite-in-between",
        "minus-infinite-in-between",
        "not-a-number-alone",
    ],
)
def test_cost_of_a_turn_is_the_rise_of_the_running_total(
    running_totals: list[float | None], expected: list[tuple[float, float]]
) -> None:
    translator = Translator("s")

    assert costs(translator, *running_totals) == expected
    assert translator.session_cost_usd == expected[-1][1]


def test_cost_after_a_conversation_reset_counts_from_zero() -> None:
    """The CLI zeroes its total then, even if the next one ends up higher."""
    translator = Translator("s")

    before = costs(translator, 0.5)
    fed(translator, sdk.ConversationResetMessage("new", "uuid", "s"))
    after = costs(translator, 0.75)

    assert before == [(0.5, 0.5)]
    assert after == [(0.75, 1.25)]


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_costs_of_all_turns_add_up_to_the_sessions(micros: list[int]) -> None:
    translator = Translator("s")
    total = 0
    turns = []
    for cost in micros:
        total += cost
        turns += costs(translator, total / 10**6)

    assert sum(turn for turn, _ in turns) == pytest.approx(total / 10**6)
    assert turns[-1][1] == pytest.approx(total / 10**6)
    assert all(turn >= 0 for turn, _ in turns)


# --- what the agent tells about itself


@given(
    st.lists(
        st.none() | st.sampled_from([nan, inf, -inf]) | st.floats(-1e9, 1e9),
        max_size=20,
    )
)
def test_cost_of_a_session_is_a_number_whatever_its_turns_cost(
    totals: list[float | None],
) -> None:
    translator = Translator("s")

    for turn, session in costs(translator, *totals):
        assert turn is None or isfinite(turn)
        assert isfinite(session)


# --- whose result it is

HUMAN = {"kind": "human"}
NOTIFICATION = {"kind": "task-notification"}


@pytest.mark.parametrize("origin", [None, HUMAN, NOTIFICATION, {}, "human"], ids=repr)
@pytest.mark.parametrize(
    ("taken", "ours"),
    [(["ours"], True), (["x", "ours"], True), (["x"], False), ([None, 3], False)],
    ids=repr,
)
def test_result_that_names_its_prompts_is_of_those_alone(
    origin: Any, taken: list[Any], ours: bool
) -> None:
    given_result = result(origin=origin, user_message_uuids=taken)

    assert answers_prompt(given_result, "ours") is ours


@pytest.mark.parametrize(
    "taken", [None, [], 7, "ours", "x", {"ours": 1}, ("ours",), True], ids=repr
)
@pytest.mark.parametrize(
    ("origin", "ours"),
    [
        (None, True),
        (HUMAN, True),
        ("task-notification", True),
        (NOTIFICATION, False),
        ({}, False),
        ({"kind": None}, False),
    ],
    ids=repr,
)
def test_result_that_names_no_prompt_is_ours_unless_the_agent_began_it(
    taken: Any, origin: Any, ours: bool
) -> None:
    given_result = result(origin=origin, user_message_uuids=taken)

    assert answers_prompt(given_result, "ours") is ours


def test_result_without_such_fields_is_ours() -> None:
    """As of an older SDK, and of a result that it could not parse."""
    assert answers_prompt(object(), "ours")


def init(**servers: str) -> sdk.SystemMessage:
    listed = [{"name": name, "status": status} for name, status in servers.items()]
    return sdk.SystemMessage("init", {"mcp_servers": listed})


def test_mcp_status_is_told_when_it_changes() -> None:
    translator = Translator("s")

    first = fed(translator, init(git="pending", db="connected"))
    second = fed(translator, init(git="connected", db="connected"))
    third = fed(translator, init(git="connected", db="connected"))

    assert first == [
        ("mcp_status_change", {"server_name": "git", "status": "pending"}),
        ("mcp_status_change", {"server_name": "db", "status": "connected"}),
    ]
    assert second == [
        ("mcp_status_change", {"server_name": "git", "status": "connected"})
    ]
    assert third == []


@pytest.mark.parametrize("data", [{}, {"mcp_servers": None}, {"mcp_servers": []}])
def test_init_without_mcp_servers_says_nothing(data: dict[str, Any]) -> None:
    assert fed(Translator("s"), sdk.SystemMessage("init", data)) == []


@pytest.mark.parametrize("subtype", sorted(NOTICES))
def test_notice_carries_what_is_not_envelope(subtype: str) -> None:
    data = {
        "type": "system",
        "subtype": subtype,
        "session_id": "s",
        "uuid": "u",
        "attempt": 2,
    }

    assert fed(Translator("s"), sdk.SystemMessage(subtype, data)) == [
        ("notice", {"kind": subtype, "details": {"attempt": 2}})
    ]


def test_system_message_of_the_clis_own_says_nothing_and_is_not_unknown() -> None:
    unknown: list[str] = []
    translator = Translator("s", on_unknown=unknown.append)

    assert fed(translator, sdk.SystemMessage("bookkeeping", {"x": 1})) == []
    assert unknown == []


USAGE: sdk.TaskUsage = {"total_tokens": 1, "tool_uses": 1, "duration_ms": 1}


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (
            sdk.TaskStartedMessage("task_started", {}, "t", "build", "u", "s", "toolu"),
            {"status": "running", "description": "build", "tool_use_id": "toolu"},
        ),
        (
            sdk.TaskProgressMessage("task_progress", {}, "t", "half", USAGE, "u", "s"),
            {"status": "running", "description": "half"},
        ),
        (
            sdk.TaskUpdatedMessage("task_updated", {}, "t", {}, "killed"),
            {"status": "killed"},
        ),
        (sdk.TaskUpdatedMessage("task_updated", {}, "t", {"end_time": 1}), {}),
        (
            sdk.TaskNotificationMessage(
                "task_notification", {}, "t", "completed", "/f", "done", "u", "s"
            ),
            {"status": "completed", "summary": "done"},
        ),
    ],
    ids=["started", "progress", "updated", "updated-without-status", "notification"],
)
def test_task_message_tells_the_tasks_status(
    message: object, data: dict[str, Any]
) -> None:
    assert fed(Translator("s"), message) == [("task_status", {"task_id": "t", **data})]


def test_task_end_statuses_are_the_sdks() -> None:
    assert TASK_ENDED == sdk.TERMINAL_TASK_STATUSES


def test_conversation_reset_forgets_the_messages_under_way() -> None:
    translator = Translator("s")
    fed(translator, start(), assistant(SDK_TEXT))

    events = fed(translator, sdk.ConversationResetMessage("new", "uuid", "s"))

    assert events == [("notice", {"kind": "conversation_reset", "details": {}})]
    assert fed(translator, text_delta("x")) == []
    assert fed(translator, assistant(SDK_THINKING)) == [complete(THINKING)]


def test_rate_limit_is_told_as_the_cli_says_it() -> None:
    raw = {"status": "rejected", "resetsAt": 7}
    message = sdk.RateLimitEvent(sdk.RateLimitInfo("rejected", raw=raw), "u", "s")

    assert fed(Translator("s"), message) == [
        ("notice", {"kind": "rate_limit", "details": raw})
    ]


class UnparsedMessage:
    """What :mod:`webkit_core.claude` makes of a message that the SDK cannot parse."""

    reason = "Missing required field: 'signature'"


def test_unparsed_message_is_a_notice() -> None:
    """It ends nothing, so it is no error."""
    assert fed(Translator("s"), UnparsedMessage()) == [
        ("notice", {"kind": "message_left_out",
                    "details": {"reason": "Missing required field: 'signature'"}})
    ]  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        sdk.HookEventMessage("hook_started", {}),
        sdk.MirrorErrorMessage("mirror_error", {}),
    ],
)
def test_message_that_is_no_clients_business_says_nothing(message: object) -> None:
    unknown: list[str] = []

    assert fed(Translator("s", on_unknown=unknown.append), message) == []
    assert unknown == []


def test_unknown_message_kind_is_reported_once_each() -> None:
    class One:
        pass

    class Two:
        pass

    unknown: list[str] = []
    translator = Translator("s", on_unknown=unknown.append)

    assert fed(translator, One(), Two(), One(), None, One(), None) == []
    assert unknown == ["One", "Two", "NoneType"]


def test_unknown_message_kind_without_anybody_to_tell_is_dropped() -> None:
    assert fed(Translator("s"), object()) == []


@pytest.mark.parametrize(
    "event",
    [
        {"type": "ping"},
        {"type": "error", "error": {"type": "overloaded_error"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "something_new"},
    ],
)
def test_stream_event_without_meaning_here_says_nothing(event: dict[str, Any]) -> None:
    assert fed(Translator("s"), start(), stream(event)) == []


# --- for embedders


async def played(*messages: object) -> AsyncIterator[object]:
    for message in messages:
        yield message


async def test_translate_sdk_messages_calls_emit_in_order() -> None:
    emitted: list[tuple[str, Any]] = []

    await translate_sdk_messages(
        played(assistant(SDK_TOOL), result(0.5)),
        lambda name, data: emitted.append((name, data)),
        session_id="wire",
    )

    assert [name for name, _ in emitted] == ["message_complete", "tool_use", "result"]
    assert emitted[-1][1].session_id == "wire"
