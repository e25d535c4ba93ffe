"""Rules: what the server decides about a tool before people are asked.

An embedder gives a policy: ``(tool_name, input) -> "allow", "deny" or "ask"``, plain or
asynchronous. What it allows runs, what it denies does not, and the rest is asked.

Rule: a policy that raises, takes too long or says something else denies.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from .permissions import Allow, Decision, Deny, Request
from .tasks import is_being_cancelled

logger = logging.getLogger(__name__)

Ruling = Literal["allow", "deny", "ask"]

Policy = Callable[[str, dict[str, Any]], Ruling | Awaitable[Ruling]]
"""``(tool_name, input) -> ruling``."""

POLICY_TIMEOUT_S: Final = 10.0

DENIED: Final = Deny("The rules of this server do not allow it.")


async def rule_on(request: Request, policy: Policy | None) -> Decision | None:
    """Return what the policy decides about a request; None is to be asked.

    Questions to the user are always asked: nobody else can answer them.
    """
    if policy is None or request.is_question:
        return None
    try:
        async with asyncio.timeout(POLICY_TIMEOUT_S):
            ruling: object = policy(request.tool_name, request.input)
            if inspect.isawaitable(ruling):
                ruling = await ruling
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise
        logger.exception("the policy broke off on %s; it is denied", request.tool_name)
        return DENIED
    except Exception:
        logger.exception("the policy failed on %s; it is denied", request.tool_name)
        return DENIED
    if ruling == "allow":
        return Allow()
    if ruling == "ask":
        return None
    if ruling != "deny":
        logger.error("the policy said %r; say allow, deny or ask; denied", ruling)
    return DENIED
