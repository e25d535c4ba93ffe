"""Permissions and questions: what is open, who answered first, what it means.

The agent's ``can_use_tool`` callback waits on a future here; clients answer by
``correlation_id``. A question to the user is a permission too: answering it means
allowing the tool with the answers in its input.

Rules: the first reply that is right for its request wins, every later one is a
conflict, whoever sends it and also after the request was cancelled; a reply that does
not fit its request is refused without using the request up.

Invariant: each request ends in exactly one outcome, and ``permission_resolved`` says
which, exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from .errors import ConflictError, InvalidInput
from .protocol import (
    AskUserQuestion,
    Emit,
    Outcome,
    PermissionRequest,
    PermissionResolved,
    PermissionResponse,
    QuestionResponse,
)

QUESTION_TOOL: Final = "AskUserQuestion"
"""The tool of Claude Code whose input is a list of questions."""

MAX_REMEMBERED: Final = 512
"""Resolved requests remembered, so that a late answer hears what became of it."""


class Allow(Struct, frozen=True):
    """Let the tool run, with this input instead of the asked one if given."""

    updated_input: dict[str, Any] | None = None
    updated_permissions: list[dict[str, Any]] | None = None


class Deny(Struct, frozen=True):
    """Do not let it run; ``interrupt`` also ends the turn."""

    message: str = ""
    interrupt: bool = False


Decision = Allow | Deny


class Request(Struct, frozen=True):
    """A tool call that waits for people."""

    correlation_id: str
    tool_name: str
    input: dict[str, Any]
    context: dict[str, Any]

    @property
    def is_question(self) -> bool:
        """Whether it is a question to the user rather than a permission."""
        return self.tool_name == QUESTION_TOOL

    def event(self) -> AskUserQuestion | PermissionRequest:
        """Return the event that shows this request to clients."""
        if self.is_question:
            return AskUserQuestion(self.correlation_id, self.input)
        return PermissionRequest(
            self.correlation_id, self.tool_name, self.input, self.context
        )


def decide(
    request: Request, reply: PermissionResponse | QuestionResponse
) -> tuple[Decision, Outcome]:
    """Return what ``reply`` means for ``request``: the decision and its outcome.

    Raises:
        InvalidInput: the reply does not fit the request; the text says why.
    """
    if isinstance(reply, QuestionResponse):
        return _answer(request, reply), "answered"
    if reply.behavior == "deny":
        return Deny(reply.message or "", bool(reply.interrupt)), "deny"
    if request.is_question and not (reply.updated_input or {}).get("answers"):
        raise InvalidInput(
            "a question is answered with question_response (or with `updated_input`"
            " that holds `answers`), not with a bare allow"
        )
    updates = reply.updated_permissions
    updated_input = reply.updated_input
    if request.is_question and updated_input is not None:
        updated_input = {**request.input, **updated_input}
    return Allow(
        updated_input, None if updates is None else msgspec.to_builtins(updates)
    ), "allow"


def _answer(request: Request, reply: QuestionResponse) -> Allow:
    if not request.is_question:
        raise InvalidInput(
            f"request {reply.correlation_id!r} asks for a permission;"
            " answer it with permission_response"
        )
    questions = request.input.get("questions")
    asked = [
        question["question"]
        for question in (questions if isinstance(questions, list) else [])
        if isinstance(question, dict) and isinstance(question.get("question"), str)
    ]
    for text in reply.answers:
        if text not in asked:
            raise InvalidInput(
                f"`answers` has the key {text[:80]!r}, which is none of the questions"
                f" asked: {', '.join(repr(question[:80]) for question in asked)}"
            )
    return Allow({**request.input, "answers": reply.answers})


class _Open(Struct):
    """A request nobody has answered yet."""

    future: asyncio.Future[Any]
    request: Request | None = None
    emit: Emit | None = None


class Watcher(Protocol):
    """Who wants to know when requests come and go."""

    def asked(self, request: Request) -> None:
        """Take note of a request that has just been shown."""

    def resolved(
        self, correlation_id: str, outcome: Outcome, subscriber_id: str | None
    ) -> None:
        """Take note of a request's outcome, and of who brought it about."""


class PermissionRouter:
    """Open requests and their futures. Belongs to one event loop.

    Args:
        on_change: called after the number of open requests changed.
        watcher: told of every request and its outcome.
    """

    __slots__ = ("_on_change", "_open", "_outcomes", "_watcher")

    def __init__(
        self,
        on_change: Callable[[], None] | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._on_change = on_change
        self._watcher = watcher
        self._open: dict[str, _Open] = {}
        self._outcomes: dict[str, Outcome] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def requests(self) -> list[Request]:
        """The open requests that were asked through :meth:`ask`, oldest first."""
        return [entry.request for entry in self._open.values() if entry.request]

    def has_pending(self, correlation_id: str) -> bool:
        """Return whether the request is open."""
        return correlation_id in self._open

    def register(self, correlation_id: str) -> asyncio.Future[Any]:
        """Open a request and return the future that :meth:`resolve` gives a value.

        Raises:
            ConflictError: a request of that id is open or was resolved before.
        """
        return self._register(correlation_id, None, None)

    def resolve(
        self,
        correlation_id: str,
        value: object,
        outcome: Outcome = "answered",
        subscriber_id: str | None = None,
    ) -> None:
        """Answer a request; its waiter gets ``value``.

        Raises:
            ConflictError: somebody already answered, or it never existed.
        """
        entry = self._open.pop(correlation_id, None)
        if entry is None:
            raise ConflictError(correlation_id, self._outcomes.get(correlation_id))
        self._outcomes[correlation_id] = outcome
        if len(self._outcomes) > MAX_REMEMBERED:
            del self._outcomes[next(iter(self._outcomes))]
        if not entry.future.done():
            entry.future.set_result(value)
        if entry.emit is not None:
            resolved = PermissionResolved(correlation_id, outcome, subscriber_id)
            entry.emit(resolved.EVENT, resolved)
        if self._watcher is not None:
            self._watcher.resolved(correlation_id, outcome, subscriber_id)
        self._changed()

    def reply(
        self,
        reply: PermissionResponse | QuestionResponse,
        subscriber_id: str | None = None,
    ) -> None:
        """Take a client's reply. The first right one wins.

        Raises:
            ConflictError: already answered, cancelled, expired or never asked.
            InvalidInput: it does not fit the request, which stays open.
        """
        correlation_id = reply.correlation_id
        entry = self._open.get(correlation_id)
        if entry is None or entry.request is None:
            raise ConflictError(correlation_id, self._outcomes.get(correlation_id))
        if entry.future.cancelled():  # its asker is about to notice
            raise ConflictError(correlation_id, "cancelled")
        decision, outcome = decide(entry.request, reply)
        self.resolve(correlation_id, decision, outcome, subscriber_id)

    def cancel_all(self) -> None:
        """Take back every open request: its tool is denied and its turn stopped."""
        for correlation_id in tuple(self._open):
            self.resolve(correlation_id, Deny("cancelled", interrupt=True), "cancelled")

    async def ask(
        self, request: Request, emit: Emit, timeout_s: float | None = None
    ) -> Decision:
        """Show ``request`` to clients, wait for the first answer, return it.

        Cancelling this coroutine is how the agent takes the request back; a late
        answer is then a conflict.

        Args:
            request: what is asked.
            emit: shows it.
            timeout_s: how long people have; when nobody answers, it is denied.
        """
        request = self._renamed(request)
        shown = request.event()
        emit(shown.EVENT, shown)
        if self._watcher is not None:
            self._watcher.asked(request)
        future = self._register(request.correlation_id, request, emit)
        timer = None
        if timeout_s is not None:
            # Not a time-out around the wait: an answer in the same moment would be
            # told as the outcome, and the agent would hear that there was none.
            timer = asyncio.get_running_loop().call_later(
                timeout_s, self._expire, request.correlation_id, future
            )
        try:
            decision: Decision = await future
            return decision
        finally:
            if timer is not None:
                timer.cancel()
            if request.correlation_id in self._open:
                self.resolve(request.correlation_id, None, "cancelled")

    def _expire(self, correlation_id: str, future: asyncio.Future[Any]) -> None:
        if not future.done():
            self.resolve(correlation_id, Deny("Nobody answered in time."), "expired")

    def _register(
        self, correlation_id: str, request: Request | None, emit: Emit | None
    ) -> asyncio.Future[Any]:
        if correlation_id in self._open or correlation_id in self._outcomes:
            raise ConflictError(correlation_id, self._outcomes.get(correlation_id))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[correlation_id] = _Open(future, request, emit)
        self._changed()
        return future

    def _renamed(self, request: Request) -> Request:
        """Give a tool call that asks a second time an id of its own.

        Ids are the SDK's; only where it uses one twice is a number added.
        """
        name, attempt = request.correlation_id, 1
        while name in self._open or name in self._outcomes:
            attempt += 1
            name = f"{request.correlation_id}.{attempt}"
        return msgspec.structs.replace(request, correlation_id=name)

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()
