"""Ending an agent: gracefully within a deadline, else by force.

Rules: a graceful end is never cancelled half-way, as that would leave its process
behind; it goes on in a task that somebody keeps, and what waits for it gives up first.
Invariant: afterwards the agent is gone, or it cannot be killed and has been told to go.
"""

from __future__ import annotations

import asyncio
import logging

from .agent import Agent, Killable
from .conversation import Conversation
from .tasks import OwnedTasks, error_of

logger = logging.getLogger(__name__)


async def end_agent(
    agent: Agent,
    talk: Conversation,
    leaving: OwnedTasks,
    *,
    pump: asyncio.Task[None] | None,
    timeout_s: float,
) -> None:
    """Disconnect an agent, or kill it.

    Args:
        agent: it is connected.
        talk: its conversation; an agent that has failed is killed at once.
        leaving: keeps the disconnecting task, which may take as long as it likes when
            the agent has no process that could be killed.
        pump: what receives the agent's messages; it ends with them.
        timeout_s: how long each step may take.
    """
    disconnecting = leaving.spawn(agent.disconnect())
    try:
        if talk.failure is not None:
            _kill(agent)
        await asyncio.wait({disconnecting}, timeout=timeout_s)
        if not disconnecting.done():
            killed = "; it is killed" if _kill(agent) else ""
            logger.warning(
                "session %s: its agent does not leave%s",
                talk.id,
                killed,
                extra=talk.extra,
            )
            await asyncio.wait({disconnecting}, timeout=timeout_s)
        elif (error := error_of(disconnecting)) is not None:
            logger.warning(
                "session %s: its agent: %s", talk.id, error, extra=talk.extra
            )
        if pump is not None:
            await asyncio.wait({pump}, timeout=timeout_s)
    finally:
        _kill(agent)


def _kill(agent: Agent) -> bool:
    """Kill an agent if it can be killed; return whether it can."""
    if killable := isinstance(agent, Killable):
        agent.kill()
    return killable
