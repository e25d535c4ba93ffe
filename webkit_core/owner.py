"""Owner: one agent's whole life, from connect to disconnect, in one task.

The task runs in an empty context, and nothing cancels it half-way. A second task, the
pump, does nothing but receive, translate and append: it never waits for a subscriber,
a request or the disk, because when it stops reading, the SDK stops hearing permission
requests and acknowledgements.

Rules:

1. Whatever is started on the agent runs in a task of the owner, and goes on when
   whoever asked for it is gone.
2. Every await has a deadline set from outside; past it the agent is killed by the pid
   remembered at its start.
3. The next prompt is handed over when the table in :mod:`.lifecycle` says so.

Invariant: once started, the owner ends with the conversation finished and the agent
disconnected or killed, whatever either of them did.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Final

from opentelemetry.context import Context, attach, get_current

from .agent import Agent, Killable, SdkFactory, SessionConfig, prompt_of
from .claude_permissions import can_use_tool_for
from .conversation import Conversation
from .ending import end_agent
from .errors import AgentError, AgentRefused, AgentStartError, AgentTimeout
from .lifecycle import ACCEPTS_PROMPT
from .limits import Deadlines
from .protocol import SetModel, UserMessage
from .tasks import OwnedTasks, error_of, is_being_cancelled, text_of
from .turn_control import TurnControl, done_by

logger = logging.getLogger(__name__)

_NO_CONTEXT: Final = contextvars.Context()


class Owner:
    """See the module. Belongs to one event loop.

    Args:
        config: what the agent is made with.
        factory: makes the connected agent.
        talk: the conversation that the agent's messages go into.
        deadlines: how long the agent may take.
    """

    __slots__ = (
        "_config",
        "_deadlines",
        "_factory",
        "_leaving",
        "_life",
        "_pump",
        "_said",
        "_talk",
        "_tasks",
        "_turns",
        "agent",
        "inbound",
        "stopping",
    )

    def __init__(
        self,
        config: SessionConfig,
        factory: SdkFactory,
        talk: Conversation,
        deadlines: Deadlines,
    ) -> None:
        self.agent: Agent | None = None
        # A list: it is short, and an empty deque takes 760 bytes of every session.
        self.inbound: list[tuple[UserMessage | SetModel, Context]] = []
        self.stopping = False
        self._config = config
        self._factory = factory
        self._talk = talk
        self._deadlines = deadlines
        self._life: asyncio.Task[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._said = ""
        self._tasks = OwnedTasks(f"session {talk.id}")
        self._leaving = OwnedTasks(f"session {talk.id}")
        self._turns = TurnControl(talk, self._tasks, deadlines)

    async def start(self) -> None:
        """Start the agent and return when it is up. Cancelling stops it again.

        Raises:
            AgentStartError: it did not start.
        """
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        self._life = loop.create_task(
            self._live(started, get_current()),
            name=f"session {self._talk.id}",
            # The SDK's reader would keep the request's variables otherwise.
            context=contextvars.Context(),
        )
        try:
            await started
        except asyncio.CancelledError:
            self.stop()
            raise

    def put(self, message: UserMessage | SetModel) -> None:
        """Queue a message for its turn, which belongs to the caller's trace."""
        self.inbound.append((message, get_current()))
        self._talk.changed.publish()

    def stop(self) -> None:
        """Ask the owner to end; :meth:`ended` tells when it has."""
        self.stopping = True
        self._talk.changed.publish()

    @property
    def gone(self) -> bool:
        """Whether the agent is gone: its process and its memory."""
        return self._life is not None and self._life.done()

    def on_gone(self, callback: Callable[[asyncio.Task[None]], None]) -> None:
        """Call back when the agent is gone; it has been started."""
        assert self._life is not None
        # In the caller's context, it would keep that for as long as the session.
        self._life.add_done_callback(callback, context=_NO_CONTEXT)

    async def ended(self) -> None:
        """Return when the agent is gone. Cancelling the caller changes nothing."""
        if self._life is not None:
            await asyncio.wait({self._life})

    def interrupt(self, agent: Agent) -> None:
        """Stop the running turn, if one runs."""
        self._turns.stop(agent)

    async def control(self, request: Coroutine[Any, Any, None]) -> None:
        """Run a control request of the agent, within the deadline and its life.

        Raises:
            AgentRefused: the agent answered with an error, or has left.
            AgentTimeout: no answer yet; it may still take effect.
        """
        task = self._tasks.spawn(request)
        if not await done_by(
            self._talk, task, self._deadlines.control_s, lambda: self._talk.ended
        ):
            if self._talk.ended:
                raise AgentRefused("the session ended before the agent answered")
            raise AgentTimeout(
                f"the agent did not answer within {self._deadlines.control_s:g} s"
            )
        if (error := error_of(task)) is not None:
            raise AgentRefused(text_of(error)) from error

    # --- the agent's life

    async def _live(self, started: asyncio.Future[None], context: Context) -> None:
        # All that is kept of the caller's context: the SDK hands the trace on.
        if context:
            attach(context)
        del context  # else it lives as long as the session
        try:
            agent = await self._connect()
        except AgentStartError as error:
            self._talk.fail(error.code, str(error))
            self._talk.finish()
            if not started.done():
                started.set_exception(error)
            return
        self.agent = agent
        self._talk.ready()
        self._pump = self._tasks.spawn(self._receive(agent))
        self._pump.add_done_callback(lambda _: self._talk.changed.publish())
        if not started.done():
            started.set_result(None)
        try:
            await self._serve(agent)
            await self._settle_turn(agent)
        except Exception:
            logger.exception(
                "session %s: internal error", self._talk.id, extra=self._talk.extra
            )
            self._talk.fail("internal_error", "the server made a mistake")
        finally:
            self._talk.finish(dropped=len(self.inbound))
            self.inbound.clear()
            await self._end(agent)

    async def _connect(self) -> Agent:
        """Make the agent within the deadline; a start is cancelled at most once."""
        task = self._tasks.spawn(self._make())
        if not await done_by(self._talk, task, self._deadlines.connect_s, self._over):
            task.cancel()
            await asyncio.wait({task}, timeout=self._deadlines.connect_cancel_s)
            if not task.done():
                task.add_done_callback(self._dismiss)
            elif error_of(task) is None:  # it came up all the same
                await self._end(task.result())
            if self.stopping:
                raise AgentStartError("the session was closed while it started")
            raise AgentStartError(
                f"the agent did not start within {self._deadlines.connect_s:g} s"
                + (self._said and f"; it said: {self._said}")
            )
        error = error_of(task)
        if error is None:
            return task.result()
        if isinstance(error, AgentStartError):
            raise error
        raise AgentStartError(text_of(error)) from error

    async def _make(self) -> Agent:
        try:
            return await self._factory(self._config, can_use_tool_for(self._talk.ask))
        except asyncio.CancelledError as cancelled:
            self._said = "\n".join(getattr(cancelled, "__notes__", ()))
            raise

    def _dismiss(self, made: asyncio.Task[Agent]) -> None:
        """End an agent that came up long after its start was given up."""
        if error_of(made) is None:
            self._leaving.spawn(self._end(made.result()))

    async def _serve(self, agent: Agent) -> None:
        """Hand over what is queued, one turn at a time, until the end."""
        while not self._over():
            if (
                self.inbound
                and self._talk.state in ACCEPTS_PROMPT
                and not self._turns.stopping
            ):
                await self._hand_over(agent, *self.inbound.pop(0))
            else:
                await self._talk.changed.wait()
            if self._talk.turn_runs:
                self._turns.watch(agent)

    def _over(self) -> bool:
        return self.stopping or self._talk.failure is not None or self._pump_ended()

    def _pump_ended(self) -> bool:
        return self._pump is not None and self._pump.done()

    async def _hand_over(
        self, agent: Agent, message: UserMessage | SetModel, context: Context
    ) -> None:
        if isinstance(message, SetModel):
            task = self._tasks.spawn(agent.set_model(message.model))
        else:
            prompt_uuid = str(uuid.uuid4())
            self._talk.prompted(prompt_uuid, context)
            task = self._tasks.spawn(agent.query(prompt_of(message, prompt_uuid)))
        if not await done_by(self._talk, task, self._deadlines.control_s, self._over):
            if not self._over():
                self._talk.fail("agent_timeout", "the agent takes no input")
        elif (error := error_of(task)) is not None:
            if isinstance(message, SetModel):
                self._talk.refused("set_model", text_of(error))
            else:
                self._talk.fail("agent_unreachable", text_of(error))

    async def _settle_turn(self, agent: Agent) -> None:
        """Stop a running turn before the end, so that it has its result.

        The CLI ignores the end of its input while a turn runs, and what it has not
        written to its transcript by then is lost to a later resume.
        """
        if self._talk.failure is None and self._talk.turn_runs:
            self.interrupt(agent)
            await self._talk.until(
                lambda: not self._talk.turn_runs or self._pump_ended(),
                self._deadlines.close_turn_s,
            )

    async def _end(self, agent: Agent) -> None:
        """End the agent, and then everything that still waits for it."""
        try:
            await end_agent(
                agent,
                self._talk,
                self._leaving,
                pump=self._pump,
                timeout_s=self._deadlines.disconnect_s,
            )
        finally:
            # What still waits for the agent waits for ever.
            self._tasks.cancel_all()

    # --- the pump

    async def _receive(self, agent: Agent) -> None:
        """Take the agent's messages until it is gone."""
        reason = "the agent ended by itself"
        receive = self._talk.receive
        try:
            async for message in agent.receive_messages():
                receive(message)
        except AgentError as error:
            reason = str(error)
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            reason = "the agent's stream was cancelled"
        except Exception as error:
            logger.exception(
                "session %s: the agent's stream broke",
                self._talk.id,
                extra=self._talk.extra,
            )
            reason = text_of(error)
        if not self.stopping:
            words = agent.last_words() if isinstance(agent, Killable) else ""
            self._talk.fail(
                "agent_exited", f"{reason}; it said: {words}" if words else reason
            )
