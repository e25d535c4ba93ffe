from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from claude_agent_sdk import (
    PermissionResultAllow,
    PermissionResultDeny,
)
from claude_agent_sdk.types import (
    PermissionRuleValue,
    PermissionUpdate,
    ToolPermissionContext,
)

from tests.unit.core.stepping import settle
from tests.unit.core.test_conversation import seen
from webkit_core import (
    Allow,
    Deny,
    EventLog,
    PermissionResponse,
    PermissionRouter,
    build_can_use_tool,
    encode_payload,
)
from webkit_core.claude_permissions import permission_result, request_from

# --- permissions: what the SDK says


def test_request_carries_what_the_sdk_tells_about_the_call() -> None:
    context = ToolPermissionContext(
        tool_use_id="toolu_1",
        agent_id="agent-7",
        blocked_path="/etc",
        decision_reason="a hook wants to know",
        title="Claude wants to run ls",
        display_name="Run ls",
        description="lists files",
    )

    request = request_from("Bash", {"command": "ls"}, context)

    assert (request.correlation_id, request.tool_name) == ("toolu_1", "Bash")
    assert request.input == {"command": "ls"}
    assert request.context == {
        "tool_use_id": "toolu_1",
        "agent_id": "agent-7",
        "blocked_path": "/etc",
        "decision_reason": "a hook wants to know",
        "title": "Claude wants to run ls",
        "display_name": "Run ls",
        "description": "lists files",
    }


def test_request_leaves_out_what_the_sdk_does_not_tell() -> None:
    request = request_from("Bash", {}, ToolPermissionContext(tool_use_id="toolu_1"))

    assert request.context == {"tool_use_id": "toolu_1"}


@pytest.mark.parametrize(
    ("update", "shown"),
    [
        (
            PermissionUpdate(
                "addRules",
                rules=[
                    PermissionRuleValue("Bash", "npm test:*"),
                    PermissionRuleValue("Read"),
                ],
                behavior="allow",
                destination="localSettings",
            ),
            {
                "type": "addRules",
                "rules": [
                    {"toolName": "Bash", "ruleContent": "npm test:*"},
                    {"toolName": "Read"},
                ],
                "behavior": "allow",
            },
        ),
        (
            PermissionUpdate(
                "setMode", mode="acceptEdits", destination="projectSettings"
            ),
            {"type": "setMode", "mode": "acceptEdits"},
        ),
        (
            PermissionUpdate("addDirectories", directories=["/tmp"]),
            {"type": "addDirectories", "directories": ["/tmp"]},
        ),
    ],
    ids=lambda value: value.type if isinstance(value, PermissionUpdate) else "",
)
def test_suggestion_is_shown_as_json_for_this_session_only(
    update: PermissionUpdate, shown: dict[str, Any]
) -> None:
    """``localSettings`` would be a file on the server, for every session there."""
    context = ToolPermissionContext(tool_use_id="toolu_1", suggestions=[update])

    request = request_from("Bash", {}, context)

    assert request.context["suggestions"] == [shown | {"destination": "session"}]
    assert json.loads(encode_payload(request.event()))["context"] == request.context


def test_suggestion_nobody_knows_is_left_out_and_the_request_stands() -> None:
    """A newer CLI may suggest what this SDK cannot write; the tool must not fail."""
    unknown = PermissionUpdate(cast("Any", "addHooks"))
    incomplete = PermissionUpdate("setMode")
    good = PermissionUpdate("setMode", mode="plan")
    context = ToolPermissionContext(
        tool_use_id="toolu_1", suggestions=[unknown, incomplete, good]
    )

    request = request_from("Bash", {}, context)

    assert [each["mode"] for each in request.context["suggestions"]] == ["plan"]


# --- permissions: what the SDK is told


def test_allow_is_told_with_its_input_and_updates() -> None:
    updates = [
        {
            "type": "addRules",
            "rules": [{"toolName": "Bash", "ruleContent": "ls"}],
            "behavior": "allow",
            "destination": "session",
        }
    ]

    told = permission_result(Allow({"command": "pwd"}, updates))

    assert isinstance(told, PermissionResultAllow)
    assert told.updated_input == {"command": "pwd"}
    assert told.updated_permissions is not None
    assert [each.to_dict() for each in told.updated_permissions] == updates


def test_bare_allow_is_told_without_anything() -> None:
    assert permission_result(Allow()) == PermissionResultAllow()


@pytest.mark.parametrize(
    ("decision", "message", "interrupt"),
    [
        (Deny("not there", interrupt=True), "not there", True),
        (Deny("not there"), "not there", False),
        (Deny(), "The user said no.", False),
    ],
)
def test_deny_is_told_with_words_for_the_model(
    decision: Deny, message: str, interrupt: bool
) -> None:
    assert permission_result(decision) == PermissionResultDeny(
        message=message, interrupt=interrupt
    )


async def test_built_callback_asks_through_the_log_and_answers_the_sdk() -> None:
    log, router = EventLog(), PermissionRouter()
    can_use_tool = build_can_use_tool(log.append, router)
    context = ToolPermissionContext(tool_use_id="toolu_1")
    task = asyncio.ensure_future(
        cast("Any", can_use_tool("Bash", {"command": "ls"}, context))
    )
    await settle()
    assert [name for name, _ in seen(log)] == ["permission_request"]

    router.reply(PermissionResponse("toolu_1", "allow"), "tab-1")

    assert await task == PermissionResultAllow()
    assert seen(log)[1:] == [
        (
            "permission_resolved",
            {"correlation_id": "toolu_1", "outcome": "allow", "subscriber_id": "tab-1"},
        )
    ]
