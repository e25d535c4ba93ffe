"""Conversation: what a session knows and says; it starts no task and holds no agent.

The heart of a session: its log, its state, its open requests, and the translation of
what the agent sends. :mod:`.owner` drives it; whoever waits for it uses
:meth:`Conversation.until`.

Rules: an ``error`` ends a turn or the session, and all else that goes wrong is a
``notice``; a change of state is announced in the step in which it happens.

Invariant: each permission ends in one ``permission_resolved``, and after
:meth:`Conversation.finish` the log ends with ``done``, once, whatever went before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any, Final

from opentelemetry.context import Context

from .activity import Activity
from .broadcast import Broadcast
from .errors import LogClosed
from .event_log import EventLog
from .lifecycle import ENDED, TURN_RUNS, Input, Lifecycle, State
from .limits import Limits
from .permissions import Decision, Deny, PermissionRouter, Request
from .protocol import (
    PROTOCOL_VERSION,
    Done,
    Error,
    Event,
    MessageDelta,
    Notice,
    SessionReady,
    SessionState,
    TaskStatus,
    ToolResult,
    ToolUse,
)
from .rules import Policy, rule_on
from .telemetry import Telemetry, telemetry_for
from .tracing import SessionTrace
from .translate import Translator, answers_prompt

logger = logging.getLogger(__name__)

ANNOUNCED_S: Final = 2.0
"""How long a permission request waits for the message that it is about."""


class Conversation:
    """See the module. Belongs to one event loop.

    Args:
        session_id: the wire session's id.
        deltas: which deltas the stream carries.
        limits: what the log may hold.
        telemetry: where turns and permissions are counted and traced.
        policy: what the server decides before people are asked.
        permission_s: how long people have to answer; None is for ever.
    """

    __slots__ = (
        "_activity",
        "_lifecycle",
        "_noted",
        "_outcome",
        "_permission_s",
        "_policy",
        "_prompt_context",
        "_prompt_uuid",
        "_trace",
        "_translator",
        "changed",
        "failure",
        "id",
        "log",
        "model",
        "permission_mode",
        "received",
        "router",
    )

    def __init__(
        self,
        session_id: str,
        deltas: Collection[str],
        limits: Limits,
        telemetry: Telemetry | None = None,
        *,
        policy: Policy | None = None,
        permission_s: float | None = None,
    ) -> None:
        self.id = session_id
        self.log = EventLog(
            limits.buffer_events, limits.buffer_bytes, limits.wake_interval_s
        )
        self._trace = SessionTrace(telemetry or telemetry_for(), session_id, self.log)
        self.router = PermissionRouter(self._asks_changed, self._trace)
        self.failure: Error | None = None
        self.model: str | None = None
        self.permission_mode: str | None = None
        self.changed = Broadcast()
        self.received = 0  # messages of the agent
        self._policy = policy
        self._permission_s = permission_s
        self._lifecycle = Lifecycle()
        self._translator = Translator(
            session_id, deltas=deltas, on_unknown=self._log_unknown
        )
        self._prompt_uuid: str | None = None
        self._prompt_context: Context | None = None
        self._outcome = ""
        self._noted = _NOTED
        self._activity = Activity()

    @property
    def state(self) -> State:
        """Where the session is."""
        return self._lifecycle.state

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self._lifecycle.state in ENDED

    @property
    def turn_runs(self) -> bool:
        """Whether a turn is under way."""
        return self._lifecycle.state in TURN_RUNS

    @property
    def tools_run(self) -> int:
        """How many tools are at work."""
        return self._activity.tools

    @property
    def busy(self) -> bool:
        """Whether ending now would lose a turn, a background task or a question."""
        if self.ended:
            return False
        return (
            self.state is State.STARTING
            or self.turn_runs
            or self._activity.in_background
            or len(self.router) > 0
        )

    @property
    def cost_usd(self) -> float:
        """What the session has cost so far."""
        return self._translator.session_cost_usd

    @property
    def extra(self) -> dict[str, str]:
        """What every log line about this session carries."""
        return {"session_id": self.id}

    @property
    def ask_ages_s(self) -> list[float]:
        """How long each open request has waited, in seconds."""
        return self._trace.ask_ages_s

    # --- what happens to it

    def ready(self) -> None:
        """Take note that the agent is up."""
        self._lifecycle.step(Input.CONNECTED)
        self.emit(SessionReady(self.id, PROTOCOL_VERSION))
        self.changed.publish()

    def prompted(self, prompt_uuid: str, context: Context | None = None) -> None:
        """Take note that a prompt is being handed over.

        Args:
            prompt_uuid: comes back with the turn's result.
            context: what the turn's span hangs below.
        """
        self._prompt_uuid = prompt_uuid
        self._prompt_context = context
        self._step(Input.PROMPTED)

    def interrupted(self) -> bool:
        """Take note that the turn shall stop; return whether there is one to stop."""
        self._step(Input.INTERRUPTED)
        return self.state is State.INTERRUPTING

    def fail(self, code: str, reason: str) -> None:
        """Give the agent up: one ``error``, once."""
        if self.failure is None and not self.ended:
            text = "session %s failed: %s: %s"
            logger.warning(text, self.id, code, reason, extra=self.extra)
            self.failure = Error(code, reason)
            self._outcome = code
            self.emit(self.failure)
            self._step(Input.FAILED)

    def refused(self, request: str, reason: str) -> None:
        """Tell that the agent did not do what somebody had asked for."""
        self.emit(Notice("refused", {"request": request, "reason": reason}))

    def finish(self, *, dropped: int = 0) -> None:
        """Bring every promise to its end: open requests, the turn, the log.

        Args:
            dropped: how many messages were accepted that nobody will hear any more.
        """
        self.router.cancel_all()
        if dropped and not self.log.closed:
            self.emit(Notice("messages_dropped", {"count": dropped}))
        if self.turn_runs:
            self._outcome = "turn_aborted"
            self.emit(Error("turn_aborted", "the session was closed in mid-turn"))
        self._step(Input.CLOSED)
        if not self.log.closed:
            self.emit(Done())
            self.log.close()

    def receive(self, message: object) -> None:
        """Take one message of the agent."""
        self.received += 1
        kind = type(message).__name__
        try:
            for event in self._translator.feed(message):
                self._append(event.EVENT, event)
                if type(event) in self._noted:
                    self._note(event)
        except Exception:
            # One odd message must not end the session.
            text = "session %s: cannot translate a %s"
            logger.exception(text, self.id, kind, extra=self.extra)
            if kind == "ResultMessage":
                self.emit(Error("unreadable_result", "the turn's result is odd"))
            else:
                self.emit(Notice("message_left_out", {"kind": kind}))
        if kind == "ResultMessage":
            self._turn_ended(message)
        elif kind == "UnparsedMessage" and getattr(message, "kind", "") == "result":
            self.emit(Error("unreadable_result", getattr(message, "reason", "")))
            self._turn_ended(message)
        elif kind == "SystemMessage":
            self._system(message)

    def _system(self, message: Any) -> None:
        data = message.data
        self.model = data.get("model", self.model)
        self.permission_mode = data.get("permissionMode", self.permission_mode)
        if message.subtype == "init":
            self._step(Input.TURN_BEGAN)

    def _note(self, event: Event) -> None:
        if isinstance(event, MessageDelta):
            self._noted = _NOTED
            self._trace.first_token()
        else:
            self._activity.note(event)
            self.changed.publish()

    def _turn_ended(self, result: Any) -> None:
        """Take a result as the end of our turn, unless it ended one of the agent's own.

        A background task that ends wakes the agent for a turn that nobody asked for;
        a prompt sent meanwhile gets its own result later.
        """
        prompt_uuid = self._prompt_uuid
        if prompt_uuid is not None and not answers_prompt(result, prompt_uuid):
            return
        self._prompt_uuid = None
        subtype = str(getattr(result, "subtype", "unreadable"))
        stopped = self.state is State.INTERRUPTING and subtype != "success"
        self._outcome = "interrupted" if stopped else subtype
        self._activity.turn_ended()
        self._step(Input.TURN_ENDED)
        if len(self.router):
            self._step(Input.ASKED)

    async def ask(self, request: Request) -> Decision:
        """Ask people. Cancelling takes the request back."""
        while self.state is State.STARTING:
            await self.changed.wait()
        # The message it is about may still be on its way through the pump.
        await self.until(
            lambda: self._activity.announced(request.correlation_id) or self.ended,
            ANNOUNCED_S,
        )
        decision = None
        if not self.ended:
            decision = await rule_on(request, self._policy)
        if self.ended:  # nobody is left to answer
            return Deny("the session has ended", interrupt=True)
        if decision is None:
            return await self.router.ask(request, self._append, self._permission_s)
        if isinstance(decision, Deny):
            denied = {"request": request.tool_name, "reason": decision.message}
            self.emit(Notice("refused", denied))
        return decision

    async def until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Suspend until ``condition`` holds, for so long at most; return if it does.

        It is looked at after every change.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self.changed.wait()
        except TimeoutError:
            pass
        return bool(condition())

    def emit(self, event: Event) -> None:
        """Log an event for clients."""
        self._append(event.EVENT, event)

    def _append(self, name: str, data: Any) -> None:
        try:
            self.log.write(name, data)
        except LogClosed:
            pass  # an agent's last words may come after the end; nobody waits for them

    def _step(self, given: Input) -> None:
        ran = self.turn_runs
        if self._lifecycle.step(given):
            if ran and not self.turn_runs:
                self._noted = _NOTED
                self._trace.turn_ended(self._outcome)
            elif self.turn_runs and not ran:
                self._noted = _NOTED_FIRST
                self._trace.turn_began(self._prompt_context)
                self._prompt_context = None
            self.emit(SessionState(self._lifecycle.state))
        self.changed.publish()

    def _asks_changed(self) -> None:
        self.received += 1  # a sign of life, too
        self._step(Input.ASKED if len(self.router) else Input.ANSWERED)

    def _log_unknown(self, kind: str) -> None:
        text = "session %s: unknown kind of SDK message: %s"
        logger.warning(text, self.id, kind, extra=self.extra)


_NOTED: Final[frozenset[type[Event]]] = frozenset({ToolUse, ToolResult, TaskStatus})
"""Events that the conversation itself remembers something of."""

_NOTED_FIRST: Final = _NOTED | {MessageDelta}
"""The same, while a turn's first delta is waited for."""
