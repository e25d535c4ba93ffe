from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from claude_agent_sdk import types as sdk
from hypothesis import example, given, strategies as st

from tests.strategies import texts, well_formed
from tests.unit.core.sdk_messages import (
    SDK_TEXT,
    SDK_THINKING,
    SDK_TOOL,
    TEXT,
    THINKING,
    TOOL,
    Wire,
    assistant,
    block_start,
    complete,
    delta,
    fed,
    start,
    stop,
    text_delta,
)
from webkit_core.assembly import MAX_CONVERSATIONS
from webkit_core.codec import encode_payload
from webkit_core.translate import Translator

# --- one message, block by block


def test_blocks_of_one_message_add_up_under_the_same_id() -> None:
    translator = Translator("s")

    events = fed(
        translator,
        start(),
        assistant(SDK_THINKING),
        assistant(SDK_TEXT),
        assistant(SDK_TOOL),
        *stop("tool_use"),
    )

    assert events == [
        complete(THINKING),
        complete(THINKING, TEXT),
        complete(THINKING, TEXT, TOOL),
        ("tool_use", {"message_id": "msg_1", "tool_use_id": "toolu_1",
                      "tool_name": "Bash", "input": {"command": "ls"}}),
        complete(THINKING, TEXT, TOOL, stop_reason="tool_use"),
    ]  # fmt: skip


def test_complete_kept_by_an_embedder_does_not_grow() -> None:
    translator = Translator("s")

    (first,) = translator.feed(assistant(SDK_TEXT))
    before = encode_payload(first)
    list(translator.feed(assistant(SDK_TEXT)))

    assert encode_payload(first) == before


def test_next_message_starts_without_blocks() -> None:
    translator = Translator("s")
    fed(translator, start(), assistant(SDK_TEXT), *stop())

    events = fed(translator, start("msg_2"), assistant(SDK_TOOL, message_id="msg_2"))

    assert events[0] == complete(TOOL, message_id="msg_2")


def test_message_without_stream_events_carries_its_own_stop_reason() -> None:
    events = fed(Translator("s"), assistant(SDK_TEXT, stop_reason="end_turn"))

    assert events == [complete(TEXT, stop_reason="end_turn")]


def test_blocks_in_one_piece_keep_their_order_and_tool_uses_follow() -> None:
    second = sdk.ToolUseBlock("toolu_2", "Read", {})

    events = fed(Translator("s"), assistant(SDK_TOOL, SDK_TEXT, second))

    assert [name for name, _ in events] == ["message_complete", "tool_use", "tool_use"]
    assert [data["tool_use_id"] for _, data in events[1:]] == ["toolu_1", "toolu_2"]
    assert events[0][1]["message"]["content"][:2] == [TOOL, TEXT]


def test_message_stop_without_a_stop_reason_says_nothing() -> None:
    """An aborted stream: nothing became final."""
    events = fed(Translator("s"), start(), assistant(SDK_TEXT), *stop(None))

    assert events == [complete(TEXT)]


def test_assistant_message_without_an_id_is_named_by_its_uuid() -> None:
    events = fed(Translator("s"), assistant(SDK_TEXT, message_id=None, uuid="uuid-1"))

    assert events == [complete(TEXT, message_id="uuid-1")]


def test_api_error_message_says_what_went_wrong() -> None:
    events = fed(
        Translator("s"), assistant(SDK_TEXT, error="rate_limit", message_id="e1")
    )

    (name, data), *rest = events
    assert (name, rest) == ("message_complete", [])
    assert data["message"]["error"] == "rate_limit"
    assert data["message"]["content"] == [TEXT]


def test_api_error_does_not_stick_to_the_message_behind_it() -> None:
    translator = Translator("s")
    fed(translator, assistant(SDK_TEXT, error="rate_limit", message_id="e1"))

    assert fed(translator, assistant(SDK_TEXT)) == [complete(TEXT)]


# --- deltas


def text_of(events: Wire) -> str:
    deltas = [data["delta"] for name, data in events if name == "message_delta"]
    return "".join(delta["text"] for delta in deltas if delta["type"] == "text")


def test_text_delta_names_its_message() -> None:
    assert fed(Translator("s"), start(), text_delta("He")) == [
        ("message_delta", {"message_id": "msg_1",
                           "delta": {"type": "text", "text": "He"}})
    ]  # fmt: skip


def test_tool_input_delta_names_its_tool_use() -> None:
    translator = Translator("s")
    tools = [
        {"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": {}}
        for n, name in enumerate(["Bash", "Read"])
    ]

    events = fed(
        translator,
        start(),
        block_start(tools[0], 1),
        block_start(tools[1], 2),
        delta("input_json_delta", 2, partial_json='{"a'),
        delta("input_json_delta", 1, partial_json=""),
    )

    assert [data["delta"] for _, data in events] == [
        {"type": "input_json_delta", "tool_use_id": "toolu_1", "name": "Read",
         "partial_json": '{"a'},
        {"type": "input_json_delta", "tool_use_id": "toolu_0", "name": "Bash",
         "partial_json": ""},
    ]  # fmt: skip


def test_tool_input_delta_of_an_unknown_block_is_dropped() -> None:
    messages = [start(), delta("input_json_delta", 5, partial_json="{")]

    assert fed(Translator("s"), *messages) == []


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        (None, ["text", "input_json_delta"]),
        ([], []),
        (["text"], ["text"]),
        (["tool_input"], ["input_json_delta"]),
        (["thinking"], ["thinking"]),
        (["thinking", "text", "tool_input"], ["thinking", "text", "input_json_delta"]),
    ],
)
def test_deltas_are_those_the_client_chose(
    wanted: list[str] | None, kinds: list[str]
) -> None:
    translator = Translator("s") if wanted is None else Translator("s", deltas=wanted)

    events = fed(
        translator,
        start(),
        delta("thinking_delta", thinking="hm"),
        delta("signature_delta", signature="sig"),
        text_delta("He"),
        delta("citations_delta", citation={}),
        block_start({"type": "tool_use", "id": "t", "name": "Bash", "input": {}}, 1),
        delta("input_json_delta", 1, partial_json="{}"),
        delta("unheard_of_delta"),
    )

    assert [data["delta"]["type"] for _, data in events] == kinds


def test_delta_choice_leaves_complete_messages_alone() -> None:
    translator = Translator("s", deltas=[])

    events = fed(translator, start(), text_delta("Hello"), assistant(SDK_TEXT), *stop())

    assert events == [complete(TEXT), complete(TEXT, stop_reason="end_turn")]


def test_delta_before_any_message_is_dropped() -> None:
    translator = Translator("s")
    block = {"type": "tool_use", "id": "t", "name": "Bash"}

    assert fed(translator, text_delta("x"), block_start(block), *stop()) == []


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["a\ud83d", "\ude00b"], ["a", "\U0001f600b"]),
        (["\ud83d", "\ude00"], ["\U0001f600"]),
        (["\ud83d", "x"], ["\ufffdx"]),
        (["\ud83d", "\ud83d", "\ude00"], ["\ufffd", "\U0001f600"]),
        (["\ude00"], ["\ufffd"]),
        (["\ud83d", "", "\ude00"], ["\U0001f600"]),
        (["", "a"], ["a"]),
    ],
)
def test_text_delta_cut_in_a_character_waits_for_the_other_half(
    pieces: list[str], shown: list[str]
) -> None:
    events = fed(Translator("s"), start(), *map(text_delta, pieces))

    assert [data["delta"]["text"] for _, data in events] == shown


def test_half_a_character_that_stays_alone_comes_before_the_complete() -> None:
    cut = "a\ud83d"

    events = fed(
        Translator("s"), start(), text_delta(cut), assistant(sdk.TextBlock(cut))
    )

    assert [name for name, _ in events] == ["message_delta"] * 2 + ["message_complete"]
    assert text_of(events) == "a\ufffd"
    assert events[-1] == complete({"type": "text", "text": "a\ufffd"})


def utf16_pieces(text: str, cuts: list[int]) -> list[str]:
    """``text`` cut between UTF-16 units, as the CLI (JavaScript) can cut it."""
    units = text.encode("utf-16-le", "surrogatepass")
    edges = [0, *sorted(min(2 * cut, len(units)) for cut in cuts), len(units)]
    return [
        units[begin:end].decode("utf-16-le", "surrogatepass")
        for begin, end in pairwise(edges)
    ]


@given(
    st.lists(st.tuples(texts(), st.lists(st.integers(0, 60), max_size=6)), max_size=4)
)
@example([("\U0001f600", [1])])
@example([("\ud83d", []), ("\ude00", [])])
@example([("a\ud83d", [1]), ("b", [])])
def test_text_deltas_joined_are_the_complete_text(
    blocks: list[tuple[str, list[int]]],
) -> None:
    translator = Translator("s")

    events = fed(translator, start())
    for index, (text, cuts) in enumerate(blocks):
        events += fed(translator, block_start({"type": "text", "text": ""}, index))
        for piece in utf16_pieces(text, cuts):
            events += fed(translator, delta("text_delta", index, text=piece))
        events += fed(translator, assistant(sdk.TextBlock(text)))
    events += fed(translator, *stop())

    name, data = events[-1]
    assert name == "message_complete"
    content = data["message"]["content"]
    assert [block["text"] for block in content] == [well_formed(t) for t, _ in blocks]
    assert text_of(events) == "".join(block["text"] for block in content)


# --- block types


@pytest.mark.parametrize(
    ("block", "written"),
    [
        (SDK_TEXT, TEXT),
        (SDK_THINKING, THINKING),
        (SDK_TOOL, TOOL),
        (
            sdk.ServerToolUseBlock("srv_1", "web_search", {"query": "x"}),
            {"type": "server_tool_use", "id": "srv_1", "name": "web_search",
             "input": {"query": "x"}},
        ),
        (
            # The SDK makes this class of nothing but ``advisor_tool_result``.
            sdk.ServerToolResultBlock("srv_1", {"type": "advice"}),
            {"type": "advisor_tool_result", "tool_use_id": "srv_1",
             "content": {"type": "advice"}},
        ),
        (
            sdk.ToolResultBlock("toolu_1", "out"),
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "out",
             "is_error": False},
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else "",
)  # fmt: skip
def test_block_is_written_as_the_messages_api_has_it(
    block: sdk.ContentBlock, written: dict[str, Any]
) -> None:
    assert fed(Translator("s"), assistant(block))[0] == complete(written)


def test_block_of_an_unknown_class_keeps_its_place() -> None:
    class NewBlock:
        pass

    message = assistant(SDK_TEXT)
    message.content.append(NewBlock())  # type: ignore[arg-type]

    assert fed(Translator("s"), message) == [complete(TEXT, {"type": "NewBlock"})]


def test_block_type_the_sdk_drops_is_taken_from_the_stream() -> None:
    search = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [1]}
    translator = Translator("s")

    events = fed(
        translator,
        start(),
        block_start({"type": "text", "text": ""}, 0),
        assistant(SDK_TEXT),
        block_start(search, 1),
        assistant(),
        *stop(),
    )

    assert events == [
        complete(TEXT),
        complete(TEXT, search),
        complete(TEXT, search, stop_reason="end_turn"),
    ]


@pytest.mark.parametrize(
    ("kind", "block"),
    [
        ("text", SDK_TEXT),
        ("thinking", SDK_THINKING),
        ("tool_use", SDK_TOOL),
        ("server_tool_use", sdk.ServerToolUseBlock("srv_1", "web_search", {})),
        ("advisor_tool_result", sdk.ServerToolResultBlock("srv_1", {})),
        ("tool_result", sdk.ToolResultBlock("toolu_1", "out")),
    ],
)
def test_block_type_the_sdk_hands_over_is_not_taken_twice(
    kind: str, block: sdk.ContentBlock
) -> None:
    started = {"type": kind, "id": "toolu_1", "name": "x", "tool_use_id": "toolu_1"}

    *_, (_, last) = fed(
        Translator("s"), start(), block_start(started), assistant(block), *stop()
    )

    assert len(last["message"]["content"]) == 1


# --- sub-agents


def test_sub_agents_interleaved_keep_their_messages_apart() -> None:
    translator = Translator("s")

    events = fed(
        translator,
        start("msg_1"),
        start("msg_2", "toolu_a"),
        text_delta("main"),
        text_delta("a", "toolu_a"),
        assistant(SDK_TEXT, message_id="msg_3", parent="toolu_b"),
        assistant(SDK_TEXT, message_id="msg_2", parent="toolu_a"),
        assistant(SDK_THINKING, message_id="msg_1"),
        assistant(SDK_TOOL, message_id="msg_2", parent="toolu_a"),
        *stop("end_turn", "toolu_a"),
        assistant(SDK_TEXT, message_id="msg_1"),
    )

    a, b = {"parent_tool_use_id": "toolu_a"}, {"parent_tool_use_id": "toolu_b"}
    assert events == [
        ("message_delta", {"message_id": "msg_1",
                           "delta": {"type": "text", "text": "main"}}),
        ("message_delta", {"message_id": "msg_2", **a,
                           "delta": {"type": "text", "text": "a"}}),
        complete(TEXT, message_id="msg_3", **b),
        complete(TEXT, message_id="msg_2", **a),
        complete(THINKING, message_id="msg_1"),
        complete(TEXT, TOOL, message_id="msg_2", **a),
        ("tool_use", {"message_id": "msg_2", "tool_use_id": "toolu_1",
                      "tool_name": "Bash", "input": {"command": "ls"}, **a}),
        complete(TEXT, TOOL, message_id="msg_2", stop_reason="end_turn", **a),
        complete(THINKING, TEXT, message_id="msg_1"),
    ]  # fmt: skip


def test_halves_of_characters_of_two_conversations_do_not_meet() -> None:
    events = fed(
        Translator("s"),
        start("msg_1"),
        start("msg_2", "toolu_a"),
        text_delta("\ud83d"),
        text_delta("\ude00", "toolu_a"),
        text_delta("\ude01"),
    )

    assert [data["delta"]["text"] for _, data in events] == ["\ufffd", "\U0001f601"]


def test_conversations_beyond_the_limit_are_forgotten_oldest_first() -> None:
    translator = Translator("s")
    for number in range(MAX_CONVERSATIONS + 1):
        fed(translator, start(f"msg_{number}", f"toolu_{number}"))

    forgotten = fed(translator, text_delta("x", "toolu_0"))
    known = fed(translator, text_delta("x", "toolu_1"))

    assert (len(forgotten), len(known)) == (0, 1)


def test_conversation_that_goes_on_is_not_forgotten() -> None:
    """The oldest is the one whose message began longest ago."""
    translator = Translator("s")
    fed(translator, start("msg_0", "toolu_0"))
    for number in range(1, MAX_CONVERSATIONS):
        fed(translator, start(f"msg_{number}", f"toolu_{number}"))
    fed(translator, start("msg_again", "toolu_0"), start("msg_main"))

    assert fed(translator, text_delta("x", "toolu_0"))
    assert not fed(translator, text_delta("x", "toolu_1"))
