from __future__ import annotations

import json
from typing import Any

import pytest

from webkit_core import protocol
from webkit_core.codec import encode_payload
from webkit_core.protocol import INBOUND_TYPES


def test_inbound_types_are_those_of_the_protocol() -> None:
    assert INBOUND_TYPES == (
        "user_message",
        "interrupt",
        "permission_response",
        "question_response",
        "set_permission_mode",
        "set_model",
        "stop_task",
    )


EVENTS: list[tuple[protocol.Event, str, dict[str, Any]]] = [
    (protocol.SessionReady("s", "1.0"), "session_ready",
     {"session_id": "s", "protocol_version": "1.0"}),
    (protocol.MessageDelta("m", protocol.TextDelta("hi")), "message_delta",
     {"message_id": "m", "delta": {"type": "text", "text": "hi"}}),
    (protocol.MessageDelta("m", protocol.InputJsonDelta("t", "Bash", '{"a'), "p"),
     "message_delta",
     {"message_id": "m", "parent_tool_use_id": "p",
      "delta": {"type": "input_json_delta", "tool_use_id": "t", "name": "Bash",
                "partial_json": '{"a'}}),
    (protocol.MessageDelta("m", protocol.ThinkingDelta("hm")), "message_delta",
     {"message_id": "m", "delta": {"type": "thinking", "thinking": "hm"}}),
    (protocol.MessageComplete("m", protocol.AssistantMessage(
        "m", [protocol.TextBlock("hi"), protocol.ThinkingBlock("hm", "sig"),
              protocol.ToolUseBlock("t", "Bash", {"a": 1})], "model", None)),
     "message_complete",
     {"message_id": "m", "message": {
         "id": "m", "role": "assistant", "model": "model", "stop_reason": None,
         "content": [{"type": "text", "text": "hi"},
                     {"type": "thinking", "thinking": "hm", "signature": "sig"},
                     {"type": "tool_use", "id": "t", "name": "Bash",
                      "input": {"a": 1}}]}}),
    (protocol.ToolUse("m", "t", "Bash", {"a": 1}), "tool_use",
     {"message_id": "m", "tool_use_id": "t", "tool_name": "Bash", "input": {"a": 1}}),
    (protocol.ToolResult("t", "out", False), "tool_result",
     {"tool_use_id": "t", "output": "out", "is_error": False}),
    (protocol.PermissionRequest("t", "Bash", {}, {"x": 1}), "permission_request",
     {"correlation_id": "t", "tool_name": "Bash", "input": {}, "context": {"x": 1}}),
    (protocol.AskUserQuestion("t", {"questions": []}), "ask_user_question",
     {"correlation_id": "t", "questions": {"questions": []}}),
    (protocol.PermissionResolved("t", "allow", "tab"), "permission_resolved",
     {"correlation_id": "t", "outcome": "allow", "subscriber_id": "tab"}),
    (protocol.PermissionResolved("t", "expired"), "permission_resolved",
     {"correlation_id": "t", "outcome": "expired"}),
    (protocol.Result("s", "success", False, None, 1.5), "result",
     {"session_id": "s", "subtype": "success", "is_error": False,
      "total_cost_usd": None, "session_cost_usd": 1.5}),
    (protocol.Error("code", "text"), "error", {"code": "code", "message": "text"}),
    (protocol.McpStatusChange("git", "connected"), "mcp_status_change",
     {"server_name": "git", "status": "connected"}),
    (protocol.SessionState("idle"), "session_state", {"state": "idle"}),
    (protocol.TaskStatus("t", "running"), "task_status",
     {"task_id": "t", "status": "running"}),
    (protocol.Notice("api_retry", {"a": 1}), "notice",
     {"kind": "api_retry", "details": {"a": 1}}),
    (protocol.Done(), "done", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "name", "data"),
    EVENTS,
    ids=[f"{n}-{name}" for n, (_, name, _) in enumerate(EVENTS)],
)
def test_event_goes_on_the_wire_as_the_protocol_says(
    event: protocol.Event, name: str, data: dict[str, Any]
) -> None:
    assert (event.EVENT, json.loads(encode_payload(event))) == (name, data)


def test_every_event_has_a_name_of_its_own() -> None:
    names = [kind.EVENT for kind in protocol.Event.__subclasses__()]

    assert len(names) == len(set(names))
    assert set(names) == {name for _, name, _ in EVENTS}


def image(data: str) -> protocol.ImageContent:
    return protocol.ImageContent(protocol.ImageSource("base64", "image/png", data))


@pytest.mark.parametrize(
    ("content", "chars"),
    [
        ("", 0),
        ("hello", 5),
        ("h\u00e9llo \U0001f600", 7),
        ([protocol.TextContent("hello")], 5),
        ([image("aGVsbG8=")], 8),
        ([protocol.TextContent("see"), image("aGk="), image("aGk=")], 11),
    ],
    ids=["nothing", "text", "beyond-ascii", "block", "image", "mixed"],
)
def test_user_message_is_as_long_as_its_texts_and_images(
    content: Any, chars: int
) -> None:
    assert protocol.UserMessage(content).chars == chars
