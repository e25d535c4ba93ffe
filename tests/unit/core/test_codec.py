from __future__ import annotations

import contextlib
import enum
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from tests.strategies import json_values, on_the_wire, texts, well_formed
from webkit_core import protocol
from webkit_core.codec import (
    decode_create,
    decode_inbound,
    encode_payload,
    replace_surrogates,
)
from webkit_core.errors import InvalidInput, MalformedJSON, UnknownType
from webkit_core.protocol import (
    INBOUND_TYPES,
    CreateSession,
    ImageContent,
    ImageSource,
    Interrupt,
    ModeUpdate,
    PermissionResponse,
    PermissionRule,
    QuestionResponse,
    RulesUpdate,
    SetModel,
    SetPermissionMode,
    StopTask,
    TextContent,
    UserMessage,
)


def inbound(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields}).encode()


def permission(**fields: Any) -> bytes:
    return inbound("permission_response", correlation_id="t", **fields)


def image(**fields: Any) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    return {"type": "image", "source": source | fields}


DEEP = b"[" * 100_000 + b"]" * 100_000

# --- in


VALID: list[tuple[bytes, object]] = [
    (inbound("user_message", content="hi"), UserMessage("hi")),
    (inbound("user_message", content=[{"type": "text", "text": "hi"}, image()]),
     UserMessage([TextContent("hi"),
                  ImageContent(ImageSource("base64", "image/png", "aGk="))])),
    (b'{"content":"type comes last","type":"user_message"}',
     UserMessage("type comes last")),
    (b'{"type":"user_message","content":"\\ud83d\\ude00\\n\\u0000"}',
     UserMessage("\U0001f600\n\0")),
    (b' \t\r\n{"type" : "interrupt"}\n', Interrupt()),
    (permission(behavior="allow"), PermissionResponse("t", "allow")),
    (permission(behavior="allow", updated_input={"a": [1, None]}),
     PermissionResponse("t", "allow", updated_input={"a": [1, None]})),
    (permission(behavior="allow", updated_input={"a": 10**30}),
     PermissionResponse("t", "allow", updated_input={"a": 10**30})),
    (permission(behavior="allow", message=None, interrupt=None),
     PermissionResponse("t", "allow")),
    (permission(behavior="allow", updated_permissions=[
        {"type": "addRules", "rules": [{"toolName": "Bash", "ruleContent": "ls"}],
         "behavior": "allow", "destination": "session"},
        {"type": "setMode", "mode": "plan"}]),
     PermissionResponse("t", "allow", updated_permissions=[
         RulesUpdate([PermissionRule("Bash", "ls")], "allow"), ModeUpdate("plan")])),
    (permission(behavior="deny"), PermissionResponse("t", "deny")),
    (permission(behavior="deny", message="no", interrupt=True),
     PermissionResponse("t", "deny", message="no", interrupt=True)),
    (inbound("question_response", correlation_id="t",
             answers={"A?": "x", "B?": ["y", "z"], "C?": "", "D?": []}),
     QuestionResponse("t", {"A?": "x", "B?": ["y", "z"], "C?": "", "D?": []})),
    (inbound("set_permission_mode", mode="acceptEdits"),
     SetPermissionMode("acceptEdits")),
    (inbound("set_model", model="claude-x"), SetModel("claude-x")),
    (inbound("set_model", model=None), SetModel(None)),
    (inbound("stop_task", task_id="t"), StopTask("t")),
]  # fmt: skip


@pytest.mark.parametrize("as_type", [bytes, bytearray])
@pytest.mark.parametrize(
    ("body", "message"), VALID, ids=[f"{n}-{type(m).__name__}" for n, (_, m) in
                                     enumerate(VALID)]
)  # fmt: skip
def test_decode_inbound_valid_body_gives_its_message(
    body: bytes, message: object, as_type: type[bytes | bytearray]
) -> None:
    assert decode_inbound(as_type(body)) == message


@pytest.mark.parametrize("mode", ["default", "acceptEdits", "plan", "dontAsk", "auto",
                                  "bypassPermissions"])  # fmt: skip
def test_decode_inbound_takes_every_permission_mode(mode: str) -> None:
    message = decode_inbound(inbound("set_permission_mode", mode=mode))

    assert isinstance(message, SetPermissionMode)
    assert message.mode == mode


NOT_JSON = [
    pytest.param(b"", id="empty"),
    pytest.param(b" ", id="blank"),
    pytest.param(b"{", id="truncated"),
    pytest.param(b'{"type":"interrupt"', id="truncated-later"),
    pytest.param(b"{'type':'interrupt'}", id="single-quotes"),
    pytest.param(b'{"type":"interrupt",}', id="trailing-comma"),
    pytest.param(b'{"type":"interrupt"} x', id="trailing-garbage"),
    pytest.param(b'{"type":"interrupt"}{"type":"interrupt"}', id="two-documents"),
    pytest.param(b"\xff", id="bad-utf8"),
    pytest.param(b'{"type":"user_message","content":"\xff"}', id="bad-utf8-in-text"),
    pytest.param(b'{"type":"\xff"}', id="bad-utf8-in-type"),
    pytest.param(b'{"type":"user_message","content":"\xed\xa0\xbd"}',
                 id="surrogate-as-utf8"),
    pytest.param(b'{"type":"user_message","content":"\\ud83d"}', id="lone-surrogate"),
    pytest.param(b'{"type":"user_message","content":"\\ud83d\\ud83d"}',
                 id="two-high-surrogates"),
    pytest.param(permission(behavior="allow", updated_input={"a": math.nan}), id="nan"),
    pytest.param(permission(behavior="allow", updated_input={"a": math.inf}),
                 id="infinity"),
    pytest.param(b"\xef\xbb\xbf" + inbound("interrupt"), id="byte-order-mark"),
    pytest.param(b'{"x":' + DEEP + b',"type":"interrupt"}', id="deep-before-type"),
    pytest.param(b'{"type":"permission_response","correlation_id":"t",'
                 b'"behavior":"allow","updated_input":{"a":' + DEEP + b"}}",
                 id="deep-input"),
]  # fmt: skip


@pytest.mark.parametrize("body", NOT_JSON)
def test_decode_inbound_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedJSON):
        decode_inbound(body)


# Here two things are wrong at once; which of them is named matters less than that it
# is the caller who hears of it.
DOUBLY_WRONG = [
    pytest.param(b'{"type":"user_message","content":' + b"[" * 100_000,
                 id="deep-content-unclosed"),
    pytest.param(b'{"type":"user_message","content":' + DEEP + b"}", id="deep-content"),
    pytest.param(b'{"type":"user_message","content":[{"type":"text","text":' + DEEP
                 + b"}]}", id="deep-text"),
    pytest.param(b'{"type":"nope","x":' + DEEP + b"}", id="deep-unknown-type"),
    pytest.param(b'{"type":"interrupt","x":' + DEEP + b"}", id="deep-unknown-field"),
    pytest.param(DEEP, id="deep-array"),
    pytest.param(b'{"type":"nope"', id="unknown-type-truncated"),
    pytest.param(b'{"type":"nope"} x', id="unknown-type-and-garbage"),
    pytest.param(b'{"type":"interrupt","x":1,', id="unknown-field-truncated"),
    pytest.param(b'{"type":"user_message","content":3,', id="wrong-field-truncated"),
    pytest.param(b'{"type":"nope","x":"\xff"}', id="unknown-type-and-bad-utf8"),
    pytest.param(b'{"\xff":1,"type":"nope"}', id="bad-utf8-key-and-unknown-type"),
]  # fmt: skip


@pytest.mark.parametrize("body", DOUBLY_WRONG)
def test_decode_inbound_two_mistakes_at_once_are_still_the_callers(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_inbound(body)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{}", "`type` is missing"),
        (b'{"content":"hi"}', "`type` is missing"),
        (inbound("nope"), "'nope'"),
        (inbound(""), "''"),
        (inbound("text"), "'text'"),
        (inbound("User_Message", content="hi"), "'User_Message'"),
        (inbound("x" * 10_000), "'xxx"),
    ],
)
def test_decode_inbound_unknown_type_names_it_and_lists_the_known(
    body: bytes, named: str
) -> None:
    with pytest.raises(UnknownType) as caught:
        decode_inbound(body)

    text = str(caught.value)
    assert named in text
    assert all(kind in text for kind in INBOUND_TYPES)
    assert len(text) < 400


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"[]", "object"),
        (b"null", "object"),
        (b'"interrupt"', "object"),
        (b'{"type":1}', "type"),
        (b'{"type":null}', "type"),
        (inbound("interrupt", x=1), "`x`"),
        (inbound("user_message"), "`content`"),
        (inbound("user_message", content="hi", contents="x"), "`contents`"),
        (inbound("user_message", content=""), "content"),
        (inbound("user_message", content=[]), "content"),
        (inbound("user_message", content=None), "content"),
        (inbound("user_message", content=3), "content"),
        (inbound("user_message", content={"type": "text", "text": "x"}), "content"),
        (inbound("user_message", content=["x"]), "content[0]"),
        (inbound("user_message", content=[{"type": "text", "text": "x"}] * 101),
         "content"),
        (inbound("user_message", content=[{"type": "video"}]), "content[0].type"),
        (inbound("user_message", content=[{"text": "x"}]), "content[0]"),
        (inbound("user_message", content=[{"type": "text", "text": 1}]),
         "content[0].text"),
        (inbound("user_message", content=[{"type": "text", "text": ""}]),
         "content[0].text"),
        (inbound("user_message", content=[{"type": "text", "text": "x", "y": 1}]),
         "`y`"),
        (inbound("user_message", content=[image(data="%%%")]), "base64"),
        (inbound("user_message", content=[image(data="aGk")]), "base64"),
        (inbound("user_message", content=[image(data="aG k=")]), "base64"),
        (inbound("user_message", content=[image(data="aGk=\n")]), "base64"),
        (inbound("user_message", content=[image(data="aGk=aGk=")]), "base64"),
        (inbound("user_message", content=[image(data="é")]), "base64"),
        (inbound("user_message", content=[image(data="")]), "data"),
        (inbound("user_message", content=[image(media_type="image/svg+xml")]),
         "media_type"),
        (inbound("user_message", content=[image(type="url")]), "type"),
        (inbound("user_message", content=[image(url="http://x")]), "`url`"),
        (permission(), "`behavior`"),
        (permission(behavior="maybe"), "behavior"),
        (inbound("permission_response", behavior="allow"), "`correlation_id`"),
        (inbound("permission_response", behavior="allow", correlation_id=""),
         "correlation_id"),
        (inbound("permission_response", behavior="allow", correlation_id="x" * 201),
         "correlation_id"),
        (permission(behavior="allow", interrupt=True), "`interrupt`"),
        (permission(behavior="allow", interrupt=False), "`interrupt`"),
        (permission(behavior="allow", message="x"), "`message`"),
        (permission(behavior="deny", updated_input={}), "`updated_input`"),
        (permission(behavior="deny", updated_permissions=[]), "`updated_permissions`"),
        (permission(behavior="deny", message="x" * 65_537), "message"),
        (permission(behavior="deny", interrupt="yes"), "interrupt"),
        (permission(behavior="allow", updated_input=[]), "updated_input"),
        (permission(behavior="allow", updated_input={"a": 7}).replace(b"7", b"1e400"),
         "updated_input"),
        (permission(behavior="allow", updated_input={"a": 7})
         .replace(b"7", b"9" * 5000), "updated_input"),
        (inbound("question_response", correlation_id="t"), "`answers`"),
        (inbound("question_response", correlation_id="t", answers={}), "answers"),
        (inbound("question_response", correlation_id="t", answers=[]), "answers"),
        (inbound("question_response", correlation_id="t", answers={"A?": 1}),
         "answers"),
        (inbound("question_response", correlation_id="t", answers={"A?": [1]}),
         "answers"),
        (inbound("set_permission_mode"), "`mode`"),
        (inbound("set_permission_mode", mode="root"), "mode"),
        (inbound("set_model"), "`model`"),
        (inbound("set_model", model=""), "model"),
        (inbound("set_model", model="x" * 201), "model"),
        (inbound("stop_task"), "`task_id`"),
        (inbound("stop_task", task_id=""), "task_id"),
    ],
)  # fmt: skip
def test_decode_inbound_wrong_field_is_named(body: bytes, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_inbound(body)

    assert type(caught.value) is InvalidInput
    assert named in str(caught.value)
    assert caught.value.code == "invalid_input"


@pytest.mark.parametrize(
    "destination", ["userSettings", "projectSettings", "localSettings", "", None]
)
@pytest.mark.parametrize(
    "update",
    [
        {"type": "addRules", "rules": [], "behavior": "allow"},
        {"type": "replaceRules", "rules": [], "behavior": "allow"},
        {"type": "removeRules", "rules": [], "behavior": "allow"},
        {"type": "setMode", "mode": "plan"},
        {"type": "addDirectories", "directories": []},
        {"type": "removeDirectories", "directories": []},
    ],
    ids=lambda update: update["type"],
)
def test_decode_inbound_update_beyond_the_session_is_refused(
    update: dict[str, Any], destination: str | None
) -> None:
    updates = [update | {"destination": destination}]

    with pytest.raises(InvalidInput, match=r"updated_permissions\[0\]\.destination"):
        decode_inbound(permission(behavior="allow", updated_permissions=updates))


@pytest.mark.parametrize(
    "update",
    [
        {"type": "addHooks"},
        {"rules": [], "behavior": "allow"},
        {"type": "addRules", "rules": [{"tool_name": "Bash"}], "behavior": "allow"},
        {"type": "addRules", "rules": [{"toolName": ""}], "behavior": "allow"},
        {"type": "addRules", "rules": []},
        {"type": "setMode", "mode": "root"},
        {"type": "addDirectories", "directories": [""]},
    ],
)
def test_decode_inbound_update_the_cli_would_not_take_is_refused(
    update: dict[str, Any],
) -> None:
    """The CLI ignores every update of an answer of which one is wrong."""
    with pytest.raises(InvalidInput, match=r"updated_permissions\[0\]"):
        decode_inbound(permission(behavior="allow", updated_permissions=[update]))


def test_decode_inbound_largest_message_of_blocks_is_taken() -> None:
    message = decode_inbound(
        inbound("user_message", content=[{"type": "text", "text": "x"}] * 100)
    )

    assert isinstance(message, UserMessage)
    assert len(message.content) == 100


@given(st.data())
def test_decode_inbound_any_damage_is_the_callers_mistake(data: st.DataObject) -> None:
    """A valid body, cut or overwritten anywhere, decodes or is ``InvalidInput``."""
    body = bytearray(data.draw(st.sampled_from([body for body, _ in VALID])))
    position = data.draw(st.integers(0, len(body)))
    if data.draw(st.booleans()):
        del body[position:]
    body[position : position + data.draw(st.integers(0, 3))] = data.draw(
        st.binary(max_size=3)
        | st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"\\u"])
    )

    # Any other exception is a bug, and fails the test.
    with contextlib.suppress(InvalidInput):
        decode_inbound(body)


@given(st.binary(max_size=64) | json_values().map(lambda v: json.dumps(v).encode()))
@example(b'{"type":"nope",')
@example(b'{"type":"nope"}')
def test_decode_any_bytes_raise_nothing_but_our_own(body: bytes) -> None:
    for decode in (decode_inbound, decode_create):
        with contextlib.suppress(InvalidInput):
            decode(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", CreateSession()),
        (b"{}", CreateSession()),
        (
            b'{"model":null,"permission_mode":null,"cwd":null,"deltas":null}',
            CreateSession(),
        ),
        (
            b'{"model":"m","permission_mode":"plan","cwd":"/x","deltas":["thinking"]}',
            CreateSession("m", "plan", "/x", ["thinking"]),
        ),
        (b'{"deltas":[]}', CreateSession(deltas=[])),
    ],
)
def test_decode_create_valid_body_gives_its_fields(
    body: bytes, message: CreateSession
) -> None:
    assert decode_create(body) == message


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"null", "object"),
        (b"[]", "object"),
        (b'{"Model":"m"}', "`Model`"),
        (b'{"model":3}', "model"),
        (b'{"model":""}', "model"),
        (b'{"permission_mode":"root"}', "permission_mode"),
        (b'{"cwd":""}', "cwd"),
        (b'{"cwd":"' + b"x" * 4097 + b'"}', "cwd"),
        (b'{"deltas":["text","sound"]}', "deltas[1]"),
        (b'{"cwd":' + DEEP + b"}", "cwd"),
    ],
)
def test_decode_create_wrong_field_is_named(body: bytes, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_create(body)

    assert type(caught.value) is InvalidInput
    assert named in str(caught.value)


@pytest.mark.parametrize("body", [b"{", b" ", b"\xff", b'{"cwd":"\xff"}', b"{} {}"])
def test_decode_create_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedJSON):
        decode_create(body)


# --- out


def sent(data: object) -> Any:
    """What a client's JSON parser, strict about NaN, gets."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(encode_payload(data), parse_constant=refuse)


@pytest.mark.parametrize(
    ("odd", "even"),
    [
        (protocol.MessageDelta("m", protocol.TextDelta("\ud83d")),
         protocol.MessageDelta("m", protocol.TextDelta("\ufffd"))),
        (protocol.MessageComplete("m", protocol.AssistantMessage(
            "m", [protocol.TextBlock("\ud83d"), {"type": "x", "y": None}], "x", None)),
         protocol.MessageComplete("m", protocol.AssistantMessage(
             "m", [protocol.TextBlock("\ufffd"), {"type": "x", "y": None}], "x",
             None))),
        (protocol.Result("s\ud83d", "success", True, None, 0.0, errors=["\ude00"]),
         protocol.Result("s\ufffd", "success", True, None, 0.0, errors=["\ufffd"])),
        (protocol.ToolResult("t", [{"text": "\ud83d\ude00\ud83d"}], False, "p"),
         protocol.ToolResult("t", [{"text": "\U0001f600\ufffd"}], False, "p")),
    ],
)  # fmt: skip
def test_odd_text_changes_nothing_else_in_an_event(
    odd: protocol.Event, even: protocol.Event
) -> None:
    assert sent(odd) == sent(even)


@given(json_values())
@example({"a": math.nan, "b": "\ud83d"})
@example({"\ud83d": {"\ude00": -math.inf}})
@example([10**30, "\r\n\0\u2028"])
def test_encode_payload_any_json_value_is_one_line_that_parses_back(value: Any) -> None:
    payload = encode_payload(value)

    assert b"\n" not in payload
    assert b"\r" not in payload
    assert sent(value) == on_the_wire(value)


@given(texts())
def test_replace_surrogates_touches_nothing_but_surrogates(text: str) -> None:
    assert replace_surrogates(text) == well_formed(text)


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (10**30, 10**30),
        ({"a": -(10**30), "b": [2**64]}, {"a": -(10**30), "b": [2**64]}),
        ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
        ({1: 10**30}, {"1": 10**30}),
        ({None: 1, (1, 2): 2}, {"None": 1, "(1, 2)": 2}),
        ([math.nan, math.inf, -math.inf], [None, None, None]),
        ([math.nan, math.inf, -math.inf, 1.5, 10**30], [None, None, None, 1.5, 10**30]),
        (["\ud83d", True, None, 3], ["\ufffd", True, None, 3]),
        (("\ud83d", {"\ude00"}, frozenset()), ["\ufffd", ["\ufffd"], []]),
        (object, "<class 'object'>"),
    ],
)
def test_encode_payload_odd_value_becomes_json(value: object, wire: object) -> None:
    assert sent(value) == wire


def test_encode_payload_integer_too_long_to_print_is_still_sent() -> None:
    """Python refuses to print more than 4300 digits."""
    assert encode_payload({"a": 10**5000, "b": 1})


@pytest.mark.parametrize("kind", [list, dict])
def test_encode_payload_nesting_without_end_is_cut(kind: type) -> None:
    value: Any = "innermost"
    for _ in range(100_000):
        value = [value] if kind is list else {"a": value}

    payload = encode_payload(value)

    assert "…" in payload.decode()
    assert 200 <= payload.count(b"[" if kind is list else b"{") < 300
    json.loads(payload)


def test_encode_payload_ordinary_nesting_is_kept_with_odd_text_in_it() -> None:
    value: Any = "\ud83d"
    for _ in range(100):
        value = {"a": [value]}

    expected: Any = "\ufffd"
    for _ in range(100):
        expected = {"a": [expected]}
    assert sent(value) == expected


def test_encode_payload_cycle_is_cut() -> None:
    value: list[Any] = []
    value.append(value)

    assert encode_payload(value).endswith(b"]")


class Colour(enum.StrEnum):
    RED = "red"


class Renamed(msgspec.Struct, rename="camel", tag_field="kind", tag="odd"):
    """A struct of an embedder's own."""

    some_text: str
    maybe: int | None = None


def test_encode_payload_struct_of_an_embedder_keeps_its_names_with_odd_text() -> None:
    assert sent(Renamed("\ud83d", 3)) == {
        "kind": "odd",
        "someText": "\ufffd",
        "maybe": 3,
    }


def test_encode_payload_enum_is_its_value_on_either_way() -> None:
    assert sent([Colour.RED]) == ["red"]
    assert sent([Colour.RED, "\ud83d"]) == ["red", "\ufffd"]
