"""TurnControl: stop a running turn, because somebody wants it or nothing happens.

An interrupt that reaches the CLI before it took the prompt up is acknowledged and has
no effect (measured), so it is sent again until the turn has ended, for so long.

A turn in which nothing arrives any more is stopped too: the model's connection is half
open, a hook hangs, the CLI has forgotten to say that it is done. While a permission or
question is open, people take as long as they may; while a tool runs, nothing need
arrive for longer than otherwise.

Invariant: a turn that was to be stopped ends, by its result or with its session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from .agent import Agent
from .conversation import Conversation
from .lifecycle import State
from .limits import Deadlines
from .protocol import Notice
from .tasks import OwnedTasks, error_of, text_of


async def done_by(
    talk: Conversation,
    task: asyncio.Task[Any],
    timeout_s: float,
    given_up: Callable[[], bool],
) -> bool:
    """Wait for ``task`` for so long, and no longer than it is of use."""
    task.add_done_callback(lambda _: talk.changed.publish())
    await talk.until(lambda: task.done() or given_up(), timeout_s)
    return task.done()


class TurnControl:
    """See the module. Belongs to one event loop.

    Args:
        talk: the conversation whose turns they are.
        tasks: where the work is kept that goes on when nobody waits for it.
        deadlines: how long the agent may take, and be silent.
    """

    __slots__ = ("_deadlines", "_stopping", "_talk", "_tasks", "_watching")

    def __init__(
        self, talk: Conversation, tasks: OwnedTasks, deadlines: Deadlines
    ) -> None:
        self._talk = talk
        self._tasks = tasks
        self._deadlines = deadlines
        self._stopping = False
        self._watching = False

    @property
    def stopping(self) -> bool:
        """Whether a turn is being stopped: an interrupt may be under way."""
        return self._stopping

    def stop(self, agent: Agent) -> None:
        """Stop the running turn, if one runs. Idempotent."""
        if self._talk.interrupted() and not self._stopping:
            self._stopping = True
            self._tasks.spawn(self._interrupt_until_ended(agent))

    def watch(self, agent: Agent) -> None:
        """See to it that the running turn does not go silent for good. Idempotent."""
        if not self._watching:
            self._watching = True
            self._tasks.spawn(self._stop_when_silent(agent))

    async def _interrupt_until_ended(self, agent: Agent) -> None:
        talk, deadlines = self._talk, self._deadlines
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + deadlines.interrupt_s
        answer_s = min(deadlines.interrupt_s, deadlines.control_s)
        try:
            while not self._stopped():
                if loop.time() >= give_up_at:
                    talk.fail("interrupt_ignored", "the turn did not stop")
                    return
                # Waited for even when the turn has ended by itself: an interrupt that
                # is still under way would hit the next one.
                task = self._tasks.spawn(agent.interrupt())
                if not await done_by(talk, task, answer_s, lambda: talk.ended):
                    talk.fail("interrupt_failed", "the agent does not answer")
                elif (error := error_of(task)) is not None and not self._stopped():
                    talk.fail("interrupt_failed", text_of(error))
                await talk.until(self._stopped, deadlines.interrupt_again_s)
        finally:
            self._stopping = False
            talk.changed.publish()

    def _stopped(self) -> bool:
        return self._talk.state is not State.INTERRUPTING

    async def _stop_when_silent(self, agent: Agent) -> None:
        """Look now and then: so nothing has to be done for a message that arrives.

        It takes up to twice the deadline for that.
        """
        talk, deadlines = self._talk, self._deadlines
        try:
            while not self._ended():
                received, tools = talk.received, talk.tools_run
                quiet_s = (
                    deadlines.tool_silence_s if tools else deadlines.turn_silence_s
                )
                await talk.until(partial(self._is_otherwise, bool(tools)), quiet_s)
                if self._ended():
                    return
                heard = (received, tools) != (talk.received, talk.tools_run)
                if not heard and not len(talk.router):
                    talk.emit(Notice("turn_stalled", {"silent_s": quiet_s}))
                    self.stop(agent)
                    return
        finally:
            self._watching = False

    def _is_otherwise(self, tools_ran: bool) -> bool:
        """Return whether another deadline holds than when tools ran, or did not."""
        return self._ended() or bool(self._talk.tools_run) != tools_ran

    def _ended(self) -> bool:
        return not self._talk.turn_runs
