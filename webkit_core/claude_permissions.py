"""The SDK's permission callback: what it says as a request, what we say as its result.

Imports ``claude_agent_sdk`` inside functions only, as :mod:`.claude` does.

Rules: a suggestion is aimed at the session and at nothing that outlives it; what the
SDK cannot write is left out, and the request stands.

Source: claude-agent-sdk 0.2.187, ``can_use_tool``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .agent import CanUseTool
from .permissions import Decision, Deny, PermissionRouter, Request
from .protocol import Emit

if TYPE_CHECKING:
    from claude_agent_sdk.types import PermissionResult, ToolPermissionContext

AskDecision = Callable[[Request], Awaitable[Decision]]


def request_from(
    tool_name: str, tool_input: dict[str, Any], context: ToolPermissionContext
) -> Request:
    """Return the request that one ``can_use_tool`` call makes."""
    details: dict[str, Any] = {
        name: value
        for name in (
            "tool_use_id",
            "agent_id",
            "blocked_path",
            "decision_reason",
            "title",
            "display_name",
            "description",
        )
        if (value := getattr(context, name, None)) is not None
    }
    suggestions = [
        suggestion
        for update in context.suggestions
        if (suggestion := _suggestion(update)) is not None
    ]
    if suggestions:
        details["suggestions"] = suggestions
    return Request(str(context.tool_use_id), tool_name, tool_input, details)


def _suggestion(update: Any) -> dict[str, Any] | None:
    """Return a suggested permission update as JSON, aimed at the session.

    The CLI often suggests ``localSettings``: a file in the working directory that
    would then hold for every session there. None for one that the SDK cannot write.
    """
    try:
        return {**update.to_dict(), "destination": "session"}
    except ValueError:
        return None


def permission_result(decision: Decision) -> PermissionResult:
    """Return a decision as the SDK wants it."""
    from claude_agent_sdk import PermissionResultAllow, PermissionResultDeny
    from claude_agent_sdk.types import PermissionUpdate

    if isinstance(decision, Deny):
        return PermissionResultDeny(
            message=decision.message or "The user said no.",
            interrupt=decision.interrupt,
        )
    updates = decision.updated_permissions
    return PermissionResultAllow(
        updated_input=decision.updated_input,
        updated_permissions=None
        if updates is None
        else [PermissionUpdate.from_dict(update) for update in updates],
    )


def can_use_tool_for(ask: AskDecision) -> CanUseTool:
    """Return the SDK's permission callback around ``ask``."""

    async def can_use_tool(
        tool_name: str, tool_input: dict[str, Any], context: Any
    ) -> PermissionResult:
        return permission_result(
            await ask(request_from(tool_name, tool_input, context))
        )

    return can_use_tool


def build_can_use_tool(emit: Emit, router: PermissionRouter) -> CanUseTool:
    """Return a ``can_use_tool`` that asks through ``router`` and shows by ``emit``.

    For embedders that run the SDK client themselves.
    """
    return can_use_tool_for(lambda request: router.ask(request, emit))
