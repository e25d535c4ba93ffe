"""Each request ends in one outcome, told once, whatever happens in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.core.stepping import SteppedLoop
from webkit_core.errors import ConflictError, InvalidInput
from webkit_core.permissions import (
    QUESTION_TOOL,
    Allow,
    Decision,
    Deny,
    PermissionRouter,
    Request,
)
from webkit_core.protocol import (
    Outcome,
    PermissionResolved,
    PermissionResponse,
    QuestionResponse,
)

TIME_S = 60.0
"""How long people have, where it is limited."""

QUESTIONS = {"questions": [{"question": "Which?", "options": []}]}

Reply = PermissionResponse | QuestionResponse


class Case:
    """One request: what was done to it, and what came of it."""

    def __init__(
        self,
        request: Request,
        task: asyncio.Task[Decision],
        timeout_s: float | None,
    ) -> None:
        self.request = request
        self.timeout_s = timeout_s
        self.task = task
        self.shown_as: str | None = None
        self.accepted: tuple[str, Decision] | None = None
        self.taken_back = False
        self.due_s: float | None = None
        self.told: list[str] = []
        self.traced: list[str] = []

    @property
    def open(self) -> bool:
        return self.accepted is None and not (self.taken_back or self.expired)

    @property
    def expired(self) -> bool:
        return self.told == ["expired"]


class PermissionsModel(RuleBasedStateMachine):
    """Drives a loop of its own by hand, one turn at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.cases: list[Case] = []
        self.by_id: dict[str, Case] = {}
        self.router = PermissionRouter(watcher=self)

    # What a watcher is told has to be what clients are told.

    def asked(self, request: Request) -> None:
        self.by_id[request.correlation_id].traced.append("asked")

    def resolved(
        self, correlation_id: str, outcome: Outcome, subscriber_id: str | None
    ) -> None:
        case = self.by_id[correlation_id]
        case.traced.append(outcome)
        assert (subscriber_id == "tab") is (outcome not in ("cancelled", "expired"))

    def turn(self) -> None:
        """One iteration of the loop."""
        self.loop.turn()

    def emit_for(self, position: int) -> Any:
        def emit(name: str, data: Any) -> None:
            case = self.cases[position]
            if isinstance(data, PermissionResolved):
                assert data.correlation_id == case.shown_as
                case.told.append(data.outcome)
            else:
                assert case.shown_as is None
                assert data.correlation_id not in self.by_id
                case.shown_as = data.correlation_id
                if case.timeout_s is not None:
                    case.due_s = self.loop.now_s + case.timeout_s
                self.by_id[data.correlation_id] = case

        return emit

    def shown(self) -> list[Case]:
        return [case for case in self.cases if case.shown_as is not None]

    def some_case(self, data: st.DataObject) -> Case:
        """Any request that was shown; open ones are more interesting."""
        shown = self.shown()
        fresh = [case for case in shown if case.open]
        return data.draw(st.sampled_from(fresh or shown) | st.sampled_from(shown))

    @rule(
        name=st.sampled_from("abc"),
        question=st.booleans(),
        begun=st.booleans(),
        timeout_s=st.sampled_from([None, TIME_S, 2 * TIME_S]),
    )
    def ask(
        self, name: str, question: bool, begun: bool, timeout_s: float | None
    ) -> None:
        request = (
            Request(name, QUESTION_TOOL, QUESTIONS, {})
            if question
            else Request(name, "Bash", {}, {})
        )
        ask = self.router.ask(request, self.emit_for(len(self.cases)), timeout_s)
        self.cases.append(Case(request, self.loop.create_task(ask), timeout_s))
        if begun:
            self.turn()

    @rule()
    def go_on(self) -> None:
        self.turn()

    @precondition(lambda self: self.shown())
    @rule(data=st.data(), kind=st.sampled_from(["allow", "deny", "answer"]))
    def reply(self, data: st.DataObject, kind: str) -> None:
        self.reply_to(self.some_case(data), kind)

    def reply_to(self, case: Case, kind: str) -> None:
        reply, outcome, decision = replied(case, kind)

        if not case.open:
            before = list(case.told)
            with pytest.raises(ConflictError):
                self.router.reply(reply)
            assert case.told == before
        elif decision is None:
            with pytest.raises(InvalidInput):
                self.router.reply(reply)
            assert case.told == []
        else:
            self.router.reply(reply, "tab")
            case.accepted = (outcome, decision)
            assert case.told == [outcome]

    @rule(name=st.sampled_from(["z", "a.9"]))
    def reply_to_nobody(self, name: str) -> None:
        if name not in self.by_id:
            with pytest.raises(ConflictError):
                self.router.reply(PermissionResponse(name, "deny"))

    @precondition(lambda self: self.cases)
    @rule(data=st.data(), then=st.sampled_from(["", "turn", "allow", "deny", "answer"]))
    def cancel(self, data: st.DataObject, then: str) -> None:
        """The agent takes a request back; a reply may come in the same tick."""
        live = [case for case in self.cases if not case.task.done()]
        case = data.draw(st.sampled_from(live or self.cases))
        if case.task.cancel() and case.accepted is None:
            case.taken_back = True
        if then == "turn":
            self.turn()
        elif then and case.shown_as is not None:
            self.reply_to(case, then)

    @rule()
    def cancel_all(self) -> None:
        open_ = [case for case in self.shown() if case.open]
        self.router.cancel_all()
        for case in open_:
            case.taken_back = True
        assert len(self.router) == 0

    @rule(
        data=st.data(),
        passed_s=st.sampled_from([TIME_S / 2, TIME_S]),
        kind=st.sampled_from(["", "", "allow", "deny", "answer"]),
    )
    def time_passes(self, data: st.DataObject, passed_s: float, kind: str) -> None:
        """A reply may come in the very moment in which the time is over."""
        for _ in range(4):
            self.turn()
        self.loop.now_s += passed_s
        if kind and self.shown():
            self.loop.call_soon(self.reply_to, self.some_case(data), kind)
        for _ in range(4):
            self.turn()
        assert self.loop.errors == []
        for case in self.shown():
            if case.due_s is not None and case.due_s <= self.loop.now_s:
                assert case.told

    @invariant()
    def nothing_is_told_twice_nor_against_what_was_accepted(self) -> None:
        for case in self.cases:
            assert case.traced == ["asked"] * (case.shown_as is not None) + case.told
            assert len(case.told) <= 1
            if case.accepted is not None:
                assert case.told == [case.accepted[0]]
            elif case.expired:
                assert case.due_s is not None
                assert case.due_s <= self.loop.now_s
            elif case.told:
                assert case.told == ["cancelled"]
                assert case.taken_back

    @invariant()
    def what_is_open_is_what_the_router_lists(self) -> None:
        listed = [request.correlation_id for request in self.router.requests]
        waiting = [case.shown_as for case in self.shown() if not case.told]
        assert sorted(listed) == sorted(str(name) for name in waiting)
        assert len(self.router) == len(listed)

    def teardown(self) -> None:
        try:
            for _ in range(4):
                self.turn()
            for case in self.cases:
                if not case.task.done():
                    case.taken_back = True
                    case.task.cancel()
            for _ in range(4):
                self.turn()
            for case in self.cases:
                check_end(case)
            assert len(self.router) == 0
        finally:
            self.loop.close()


def replied(case: Case, kind: str) -> tuple[Reply, str, Decision | None]:
    """A reply, its outcome, and the decision if the reply fits the request."""
    name = str(case.shown_as)
    if kind == "deny":
        deny = PermissionResponse(name, "deny", message="no", interrupt=True)
        return deny, "deny", Deny("no", interrupt=True)
    if kind == "answer":
        answers: dict[str, str | list[str]] = {"Which?": "this"}
        fits = Allow({**QUESTIONS, "answers": answers})
        reply = QuestionResponse(name, answers)
        return reply, "answered", fits if case.request.is_question else None
    decision = None if case.request.is_question else Allow({"x": 1})
    updated = None if case.request.is_question else {"x": 1}
    return PermissionResponse(name, "allow", updated), "allow", decision


def check_end(case: Case) -> None:
    """Everything is over: one outcome, and the agent heard the same."""
    assert case.task.done()
    if case.shown_as is None:
        assert case.task.cancelled()
        assert case.told == []
        return
    assert len(case.told) == 1
    if case.task.cancelled():
        return
    decision = case.task.result()
    if case.accepted is not None:
        assert decision == case.accepted[1]
    else:
        assert isinstance(decision, Deny)
        assert decision.interrupt is not case.expired
        assert case.told == (["expired"] if case.expired else ["cancelled"])


PermissionsModel.TestCase.settings = settings(stateful_step_count=30)
TestPermissionsModel = PermissionsModel.TestCase
