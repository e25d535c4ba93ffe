"""Session: what the rest of the world sees of one conversation with one agent.

Rules: a session is made, started, used and closed on one event loop; requests talk to
it and never to its agent. Invariant: each turn ends in one ``result`` or one
``error``, each permission in one ``permission_resolved``, the log in one ``done``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from .agent import Agent, SdkFactory, SessionConfig
from .conversation import Conversation
from .errors import BackpressureError, SessionClosed, SessionFailed, Unavailable
from .event_log import EventLog
from .gauges import Traffic
from .lifecycle import State
from .limits import Deadlines, Limits
from .owner import Owner
from .permissions import Request
from .protocol import (
    Error,
    Inbound,
    Interrupt,
    PermissionResponse,
    QuestionResponse,
    SetModel,
    SetPermissionMode,
    StopTask,
    UserMessage,
)
from .rules import Policy
from .telemetry import Telemetry, telemetry_for


def _call_back(
    callback: Callable[[Session], None], session: Session, _: object
) -> None:
    callback(session)


class Session:
    """See the module.

    Args:
        config: what it is created with; ``session_id`` must be set.
        sdk_factory: makes the connected agent.
        limits: what the session may hold.
        deadlines: how long the agent may take.
        policy: what the server decides before people are asked.
        telemetry: where it is counted and traced; by default the process's own.
        traffic: what its streams count into.
        clock: monotonic seconds; tests give their own.
    """

    __slots__ = (
        "_clock",
        "_last_use_s",
        "_limits",
        "_owner",
        "_subscribers",
        "_talk",
        "config",
        "created_at_s",
        "id",
        "telemetry",
        "traffic",
    )

    def __init__(
        self,
        config: SessionConfig,
        sdk_factory: SdkFactory,
        *,
        limits: Limits | None = None,
        deadlines: Deadlines | None = None,
        policy: Policy | None = None,
        telemetry: Telemetry | None = None,
        traffic: Traffic | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = config.session_id
        self.config = config
        self.created_at_s = time.time()
        self._limits = limits or Limits()
        self._clock = clock
        self._last_use_s = clock()
        self._subscribers = 0
        self.telemetry = telemetry or telemetry_for()
        self.traffic = traffic or Traffic()
        deadlines = deadlines or Deadlines()
        self._talk = Conversation(
            self.id,
            config.deltas,
            self._limits,
            self.telemetry,
            policy=policy,
            permission_s=deadlines.permission_s,
        )
        self._talk.model = config.model
        self._talk.permission_mode = config.permission_mode
        self._owner = Owner(config, sdk_factory, self._talk, deadlines)

    # --- what others may know

    @property
    def log(self) -> EventLog:
        """The session's events."""
        return self._talk.log

    @property
    def state(self) -> State:
        """Where the session is."""
        return self._talk.state

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self._talk.ended

    @property
    def released(self) -> bool:
        """Whether its agent is gone too, with its process and its memory."""
        return self._owner.gone

    @property
    def failure(self) -> Error | None:
        """Why the session failed, if it did."""
        return self._talk.failure

    @property
    def subscribers(self) -> int:
        """How many streams are open."""
        return self._subscribers

    @property
    def queued(self) -> int:
        """How many inbound messages wait for their turn."""
        return len(self._owner.inbound)

    @property
    def pending(self) -> list[Request]:
        """The permissions and questions that wait for people."""
        return self._talk.router.requests

    @property
    def ask_ages_s(self) -> list[float]:
        """How long each of them has waited, in seconds."""
        return self._talk.ask_ages_s

    @property
    def agent_pid(self) -> int | None:
        """The process of the agent, where it has one."""
        pid = getattr(self._owner.agent, "pid", None)
        return pid if isinstance(pid, int) and not self.released else None

    @property
    def model(self) -> str | None:
        """The model in use, as far as the agent has told; None is its default."""
        return self._talk.model

    @property
    def permission_mode(self) -> str | None:
        """The permission mode in force, as far as the agent has told."""
        return self._talk.permission_mode

    @property
    def cost_usd(self) -> float:
        """What the session has cost so far."""
        return self._talk.cost_usd

    def idle_s(self) -> float:
        """Return for how long nobody has used the session; 0 while somebody does.

        In use is a session with a stream, a turn, a background task, an open question
        or a queued message; it counts from when this was last seen, or the last input.
        """
        now = self._clock()
        if self._subscribers or self._owner.inbound or self._talk.busy:
            self._last_use_s = now
        return now - self._last_use_s

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Count a subscriber while the block runs; it keeps the session warm."""
        self._subscribers += 1
        try:
            yield
        finally:
            self._subscribers -= 1
            self._last_use_s = self._clock()

    # --- start and end

    async def start(self) -> None:
        """Start the agent and return when it is up.

        Cancelling the caller closes the session: nobody would know its id.

        Raises:
            AgentStartError: it did not start; the session is over.
        """
        await self._owner.start()

    def stop(self) -> None:
        """Begin to end: nothing is accepted from now on. Idempotent."""
        self._owner.stop()

    async def close(self) -> None:
        """End the session: stop its turn, say ``done``, end the agent. Idempotent.

        Returns when the agent is gone; bounded by the deadlines. Cancelling the caller
        does not stop it.
        """
        self.stop()
        await self._owner.ended()

    async def wait_ended(self) -> None:
        """Return when the session is over and its agent is gone."""
        await self._owner.ended()

    def on_released(self, callback: Callable[[Session], None]) -> None:
        """Call back when the agent is gone; the session has been started."""
        self._owner.on_gone(partial(_call_back, callback, self))

    # --- what clients say

    async def submit(self, message: Inbound, subscriber_id: str | None = None) -> None:
        """Take an inbound message.

        Returns when it is queued (a user message, a model) or has taken effect.

        Raises:
            BackpressureError: the queue is full.
            ConflictError: the request was already answered.
            InvalidInput: the reply does not fit its request.
            AgentRefused: the agent said no.
            AgentTimeout: the agent did not answer; the request may still take effect.
            SessionFailed, SessionClosed: the session is over.
        """
        agent = self._live_agent()
        self._last_use_s = self._clock()
        match message:
            case UserMessage() | SetModel():
                self._check_room(message)
                self._owner.put(message)
            case Interrupt():
                self._owner.interrupt(agent)
            case PermissionResponse() | QuestionResponse():
                self._talk.router.reply(message, subscriber_id)
            case SetPermissionMode():
                await self._owner.control(agent.set_permission_mode(message.mode))
            case StopTask():
                await self._owner.control(agent.stop_task(message.task_id))

    def _check_room(self, message: UserMessage | SetModel) -> None:
        limits = self._limits
        if self.queued >= limits.queued_messages:
            raise BackpressureError(limits.queued_messages)
        if isinstance(message, UserMessage):
            inbound = self._owner.inbound
            held = [m.chars for m, _ in inbound if isinstance(m, UserMessage)]
            if held and sum(held) + message.chars > limits.queued_chars:
                raise BackpressureError(limits.queued_chars, "characters")

    def _live_agent(self) -> Agent:
        if self.failure is not None:
            raise SessionFailed(self.id, self.failure.message)
        agent = self._owner.agent
        if agent is None and not (self.ended or self._owner.stopping):
            raise Unavailable(f"session {self.id!r} is still starting")
        if agent is None or self.ended or self._owner.stopping:
            raise SessionClosed(self.id)
        return agent
