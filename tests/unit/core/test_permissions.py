from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from claude_agent_sdk.types import PermissionUpdate

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.stepping import settle
from webkit_core.codec import decode_inbound, encode_payload
from webkit_core.errors import ConflictError, InvalidInput
from webkit_core.permissions import (
    MAX_REMEMBERED,
    Allow,
    Decision,
    Deny,
    PermissionRouter,
    Request,
    decide,
)
from webkit_core.protocol import (
    Outcome,
    PermissionResponse,
    QuestionResponse,
)

BASH = Request("toolu_1", "Bash", {"command": "ls"}, {"suggestions": []})
QUESTIONS = {
    "questions": [
        {"question": "Which colour?", "header": "Colour", "multiSelect": False,
         "options": [{"label": "Red", "description": "warm"}]},
        {"question": "Which sizes?", "header": "Size", "multiSelect": True,
         "options": [{"label": "S", "description": ""}]},
    ]
}  # fmt: skip
QUESTION = Request("toolu_2", "AskUserQuestion", QUESTIONS, {})


class Wire:
    """Collects what is emitted, as clients would see it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def emit(self, name: str, data: Any) -> None:
        self.events.append((name, msgspec.json.decode(encode_payload(data))))

    @property
    def resolved(self) -> list[dict[str, Any]]:
        return [data for name, data in self.events if name == "permission_resolved"]


def asked(router: PermissionRouter, wire: Wire, request: Request) -> asyncio.Task[Any]:
    return asyncio.ensure_future(router.ask(request, wire.emit))


def allow(correlation_id: str = "toolu_1", **fields: Any) -> PermissionResponse:
    return PermissionResponse(correlation_id, "allow", **fields)


def deny(correlation_id: str = "toolu_1", **fields: Any) -> PermissionResponse:
    return PermissionResponse(correlation_id, "deny", **fields)


def answer(correlation_id: str = "toolu_2", **answers: Any) -> QuestionResponse:
    return QuestionResponse(correlation_id, answers or {"Which colour?": "Red"})


# --- what a reply means


@pytest.mark.parametrize(
    ("reply", "decision", "outcome"),
    [
        (allow(), Allow(), "allow"),
        (allow(updated_input={"command": "pwd"}), Allow({"command": "pwd"}), "allow"),
        (allow(updated_input={}), Allow({}), "allow"),
        (allow(updated_permissions=[]), Allow(None, []), "allow"),
        (deny(), Deny("", interrupt=False), "deny"),
        (deny(message="no"), Deny("no", interrupt=False), "deny"),
        (deny(message="no", interrupt=True), Deny("no", interrupt=True), "deny"),
        (deny(interrupt=False), Deny("", interrupt=False), "deny"),
    ],
)
def test_decide_permission_reply_gives_its_decision(
    reply: PermissionResponse, decision: Decision, outcome: str
) -> None:
    assert decide(BASH, reply) == (decision, outcome)


@pytest.mark.parametrize(
    "update",
    [
        {"type": "addRules", "behavior": "allow",
         "rules": [{"toolName": "Bash", "ruleContent": "npm test:*"}]},
        {"type": "replaceRules", "behavior": "deny", "rules": [{"toolName": "Bash"}]},
        {"type": "removeRules", "behavior": "ask", "rules": []},
        {"type": "setMode", "mode": "acceptEdits"},
        {"type": "addDirectories", "directories": ["/tmp/x"]},
        {"type": "removeDirectories", "directories": ["/tmp/x"]},
    ],
    ids=lambda update: update["type"],
)  # fmt: skip
@pytest.mark.parametrize("named", [True, False])
def test_decide_permission_updates_reach_the_sdk_for_the_session_only(
    update: dict[str, Any], named: bool
) -> None:
    sent = update | ({"destination": "session"} if named else {})
    reply = decode_inbound(
        msgspec.json.encode(
            {
                "type": "permission_response",
                "correlation_id": "toolu_1",
                "behavior": "allow",
                "updated_permissions": [sent],
            }
        )
    )
    assert isinstance(reply, PermissionResponse)

    decision, _ = decide(BASH, reply)

    assert isinstance(decision, Allow)
    assert decision.updated_permissions is not None
    taken = [PermissionUpdate.from_dict(each) for each in decision.updated_permissions]
    assert [each.to_dict() for each in taken] == [update | {"destination": "session"}]


def test_decide_answers_go_into_the_input_beside_the_questions() -> None:
    answers: dict[str, str | list[str]] = {
        "Which colour?": "anything but red",
        "Which sizes?": ["S", "M"],
    }

    decision, outcome = decide(QUESTION, QuestionResponse("toolu_2", answers))

    assert decision == Allow({**QUESTIONS, "answers": answers})
    assert outcome == "answered"
    assert "answers" not in QUESTIONS


def test_decide_question_may_be_denied() -> None:
    assert decide(QUESTION, deny("toolu_2", message="later")) == (Deny("later"), "deny")


def test_decide_question_may_be_allowed_with_its_answers() -> None:
    full = {**QUESTIONS, "answers": {"Which colour?": "Red"}}

    reply = allow("toolu_2", updated_input=full)

    assert decide(QUESTION, reply) == (Allow(full), "allow")


def test_decide_bare_allow_of_a_question_is_refused() -> None:
    with pytest.raises(InvalidInput, match="question_response"):
        decide(QUESTION, allow("toolu_2"))


@pytest.mark.parametrize("given", [{}, {"answers": {}}, {"questions": []}])
def test_decide_allow_of_a_question_without_answers_is_refused(
    given: dict[str, Any],
) -> None:
    """The CLI would go on with empty answers, as after a bare allow."""
    with pytest.raises(InvalidInput, match="answers"):
        decide(QUESTION, allow("toolu_2", updated_input=given))


def test_decide_answers_to_a_permission_are_refused() -> None:
    with pytest.raises(InvalidInput, match="permission_response"):
        decide(BASH, answer("toolu_1"))


def test_decide_answer_to_a_question_never_asked_is_refused_and_named() -> None:
    with pytest.raises(InvalidInput, match=r"Which shape\?.*Which colour\?"):
        decide(QUESTION, QuestionResponse("toolu_2", {"Which shape?": "Round"}))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"questions": None},
        {"questions": "x"},
        {"questions": [None, "x", {}, {"question": 3}]},
    ],
)
def test_decide_answers_to_malformed_questions_are_refused(
    given: dict[str, Any],
) -> None:
    request = Request("toolu_2", "AskUserQuestion", given, {})

    with pytest.raises(InvalidInput, match="none of the questions"):
        decide(request, answer())


def test_request_shows_itself_to_clients_as_what_it_is() -> None:
    permission, question = BASH.event(), QUESTION.event()

    assert (permission.EVENT, msgspec.to_builtins(permission)) == (
        "permission_request",
        {
            "correlation_id": "toolu_1",
            "tool_name": "Bash",
            "input": {"command": "ls"},
            "context": {"suggestions": []},
        },
    )
    assert (question.EVENT, msgspec.to_builtins(question)) == (
        "ask_user_question",
        {"correlation_id": "toolu_2", "questions": QUESTIONS},
    )


# --- asking and replying


async def test_ask_shows_the_request_and_returns_the_first_answer() -> None:
    router, wire = PermissionRouter(), Wire()
    task = asked(router, wire, BASH)
    await settle()
    assert [name for name, _ in wire.events] == ["permission_request"]
    assert router.has_pending("toolu_1")
    assert router.requests == [BASH]

    router.reply(allow(), "tab-1")

    assert await task == Allow()
    assert wire.events[1:] == [
        (
            "permission_resolved",
            {"correlation_id": "toolu_1", "outcome": "allow", "subscriber_id": "tab-1"},
        )
    ]
    assert not router.has_pending("toolu_1")
    assert router.requests == []


async def test_reply_without_a_subscriber_names_none() -> None:
    router, wire = PermissionRouter(), Wire()
    task = asked(router, wire, QUESTION)
    await settle()

    router.reply(answer())

    assert await task == Allow({**QUESTIONS, "answers": {"Which colour?": "Red"}})
    assert wire.resolved == [{"correlation_id": "toolu_2", "outcome": "answered"}]


async def test_reply_after_the_first_conflicts_and_names_the_outcome() -> None:
    router, wire = PermissionRouter(), Wire()
    task = asked(router, wire, BASH)
    await settle()
    router.reply(deny(message="first"))

    with pytest.raises(ConflictError) as caught:
        router.reply(allow(), "tab-2")

    assert caught.value.outcome == "deny"
    assert await task == Deny("first")
    assert len(wire.resolved) == 1


async def test_reply_to_a_request_never_made_conflicts() -> None:
    with pytest.raises(ConflictError) as caught:
        PermissionRouter().reply(allow("toolu_9"))

    assert (caught.value.correlation_id, caught.value.outcome) == ("toolu_9", None)


@pytest.mark.parametrize(
    ("request_", "wrong", "right"),
    [
        (BASH, answer("toolu_1"), allow("toolu_1")),
        (QUESTION, allow("toolu_2"), answer("toolu_2")),
        (QUESTION, QuestionResponse("toolu_2", {"?": "x"}), answer("toolu_2")),
    ],
    ids=["answers-to-permission", "bare-allow-of-question", "unknown-question"],
)
async def test_reply_that_does_not_fit_leaves_the_request_open(
    request_: Request,
    wrong: PermissionResponse | QuestionResponse,
    right: PermissionResponse | QuestionResponse,
) -> None:
    router, wire = PermissionRouter(), Wire()
    task = asked(router, wire, request_)
    await settle()

    with pytest.raises(InvalidInput):
        router.reply(wrong)
    assert wire.resolved == []
    assert router.has_pending(request_.correlation_id)

    router.reply(right)
    await task
    assert len(wire.resolved) == 1


async def test_wrong_reply_after_the_answer_conflicts() -> None:
    router, wire = PermissionRouter(), Wire()
    task = asked(router, wire, BASH)
    await settle()
    router.reply(allow())

    with pytest.raises(ConflictError):
        router.reply(answer("toolu_1"))
    await task


async def test_parallel_requests_are_answered_in_any_order() -> None:
    router, wire = PermissionRouter(), Wire()
    requests = [Request(f"toolu_{n}", "Bash", {"n": n}, {}) for n in range(3)]
    tasks = [asked(router, wire, request) for request in requests]
    await settle()
    assert router.requests == requests
    assert len(router) == 3

    router.reply(deny("toolu_2"))
    router.reply(allow("toolu_0"))
    await settle()

    assert [task.done() for task in tasks] == [True, False, True]
    assert router.requests == [requests[1]]
    router.reply(allow("toolu_1", updated_input={"n": 10}))
    assert await asyncio.gather(*tasks) == [Allow(), Allow({"n": 10}), Deny()]
    assert [resolved["correlation_id"] for resolved in wire.resolved] == [
        "toolu_2",
        "toolu_0",
        "toolu_1",
    ]


# --- cancellation


async def test_cancelled_ask_is_resolved_once_as_cancelled() -> None:
    router, wire = PermissionRouter(), Wire()
    task = asked(router, wire, BASH)
    await settle()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert wire.resolved == [{"correlation_id": "toolu_1", "outcome": "cancelled"}]
    assert len(router) == 0


async def test_reply_after_the_cancellation_conflicts() -> None:
    router, wire = PermissionRouter(), Wire()
    task = asked(router, wire, BASH)
    await settle()
    task.cancel()
    await settle()

    with pytest.raises(ConflictError) as caught:
        router.reply(allow())

    assert caught.value.outcome == "cancelled"
    assert len(wire.resolved) == 1


async def test_reply_in_the_tick_of_the_cancellation_conflicts() -> None:
    """The agent took the request back: nobody may be told that it was allowed."""
    router, wire = PermissionRouter(), Wire()
    task = asked(router, wire, BASH)
    await settle()
    task.cancel()

    with pytest.raises(ConflictError) as caught:
        router.reply(allow())
    await settle()

    assert caught.value.outcome == "cancelled"
    assert wire.resolved == [{"correlation_id": "toolu_1", "outcome": "cancelled"}]
    assert task.cancelled()


async def test_cancellation_after_the_answer_does_not_resolve_again() -> None:
    router, wire = PermissionRouter(), Wire()
    task = asked(router, wire, BASH)
    await settle()

    router.reply(allow())
    task.cancel()
    await settle()

    assert task.cancelled()
    assert wire.resolved == [{"correlation_id": "toolu_1", "outcome": "allow"}]


async def test_cancel_all_denies_every_request_and_stops_the_turn() -> None:
    router, wire = PermissionRouter(), Wire()
    tasks = [asked(router, wire, BASH), asked(router, wire, QUESTION)]
    await settle()

    router.cancel_all()

    assert len(router) == 0
    for task in tasks:
        decision = await task
        assert isinstance(decision, Deny)
        assert decision.interrupt
        assert decision.message
    assert wire.resolved == [
        {"correlation_id": "toolu_1", "outcome": "cancelled"},
        {"correlation_id": "toolu_2", "outcome": "cancelled"},
    ]


async def test_cancel_all_with_nothing_open_says_nothing() -> None:
    changes: list[int] = []
    router = PermissionRouter(on_change=lambda: changes.append(1))

    router.cancel_all()

    assert changes == []


# --- ids


async def test_second_ask_of_an_open_id_gets_an_id_of_its_own() -> None:
    router, wire = PermissionRouter(), Wire()
    first = asked(router, wire, BASH)
    second = asked(router, wire, BASH)
    await settle()
    shown = [data["correlation_id"] for _, data in wire.events]
    assert shown == ["toolu_1", "toolu_1.2"]

    router.reply(deny("toolu_1.2"))
    router.reply(allow("toolu_1"))

    assert (await first, await second) == (Allow(), Deny())


async def test_ask_of_a_resolved_id_gets_the_next_free_id() -> None:
    router, wire = PermissionRouter(), Wire()
    for _ in range(3):
        task = asked(router, wire, BASH)
        await settle()
        router.cancel_all()
        await task

    shown = [data["correlation_id"] for name, data in wire.events if "request" in name]
    assert shown == ["toolu_1", "toolu_1.2", "toolu_1.3"]


# --- the lower layer: register and resolve


async def test_registered_future_gets_the_value_it_is_resolved_with() -> None:
    router = PermissionRouter()
    future = router.register("x")
    assert router.has_pending("x")
    assert not future.done()

    router.resolve("x", {"any": "value"})

    assert await future == {"any": "value"}
    assert not router.has_pending("x")


async def test_register_of_a_known_id_conflicts() -> None:
    router = PermissionRouter()
    router.register("x")
    with pytest.raises(ConflictError) as caught:
        router.register("x")
    assert caught.value.outcome is None

    router.resolve("x", 1, "expired")
    with pytest.raises(ConflictError) as caught:
        router.register("x")
    assert caught.value.outcome == "expired"


async def test_resolve_twice_conflicts_and_keeps_the_first_value() -> None:
    router = PermissionRouter()
    future = router.register("x")
    router.resolve("x", 1, "allow")

    with pytest.raises(ConflictError) as caught:
        router.resolve("x", 2)

    assert caught.value.outcome == "allow"
    assert await future == 1


async def test_resolve_of_a_future_given_up_by_its_waiter_is_quiet() -> None:
    router = PermissionRouter()
    router.register("x").cancel()

    router.resolve("x", 1)

    assert not router.has_pending("x")


async def test_registered_request_is_not_listed_and_takes_no_client_reply() -> None:
    router = PermissionRouter()
    router.register("x")

    with pytest.raises(ConflictError):
        router.reply(allow("x"))

    assert router.requests == []
    assert router.has_pending("x")


async def test_outcomes_are_forgotten_oldest_first_beyond_the_limit() -> None:
    router = PermissionRouter()
    for number in range(MAX_REMEMBERED + 1):
        router.register(str(number))
        router.resolve(str(number), None, "deny")

    outcomes = []
    for number in (0, 1, MAX_REMEMBERED):
        with pytest.raises(ConflictError) as caught:
            router.reply(allow(str(number)))
        outcomes.append(caught.value.outcome)

    assert outcomes == [None, "deny", "deny"]


async def test_on_change_hears_of_every_change_after_it_happened() -> None:
    counts: list[int] = []
    router = PermissionRouter(on_change=lambda: counts.append(len(router)))
    wire = Wire()

    tasks = [asked(router, wire, BASH), asked(router, wire, QUESTION)]
    await settle()
    router.reply(allow())
    tasks[1].cancel()
    await settle()

    assert counts == [1, 2, 1, 0]


# --- the watcher


class Notes:
    """A watcher that writes everything down, beside what clients see."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.told: list[tuple[Any, ...]] = []
        self.router = PermissionRouter(watcher=self)

    def asked(self, request: Request) -> None:
        assert self.wire.events[-1][1]["correlation_id"] == request.correlation_id
        assert not self.router.has_pending(request.correlation_id)
        self.told.append(("asked", request))

    def resolved(
        self, correlation_id: str, outcome: Outcome, subscriber_id: str | None
    ) -> None:
        assert self.wire.resolved[-1]["correlation_id"] == correlation_id
        assert not self.router.has_pending(correlation_id)
        self.told.append(("resolved", correlation_id, outcome, subscriber_id))

    async def ask(self, request: Request = BASH) -> asyncio.Task[Any]:
        task = asked(self.router, self.wire, request)
        await settle()
        return task


async def test_watcher_is_told_of_a_request_and_of_its_outcome() -> None:
    notes = Notes()
    task = await notes.ask()
    assert notes.told == [("asked", BASH)]

    notes.router.reply(allow(), "tab-1")
    await task

    assert notes.told[1:] == [("resolved", "toolu_1", "allow", "tab-1")]


async def test_watcher_is_told_the_id_that_clients_are_told() -> None:
    notes = Notes()
    tasks = [await notes.ask(), await notes.ask()]

    notes.router.reply(deny("toolu_1.2"))
    notes.router.reply(allow("toolu_1"))
    await asyncio.wait(tasks)

    assert [
        each[1].correlation_id if each[0] == "asked" else each[1] for each in notes.told
    ] == ["toolu_1", "toolu_1.2", "toolu_1.2", "toolu_1"]


async def test_watcher_is_told_when_a_request_is_taken_back() -> None:
    notes = Notes()
    tasks = [await notes.ask(), await notes.ask(QUESTION)]

    tasks[0].cancel()
    await settle()
    notes.router.cancel_all()
    await asyncio.wait(tasks)

    assert notes.told[2:] == [
        ("resolved", "toolu_1", "cancelled", None),
        ("resolved", "toolu_2", "cancelled", None),
    ]


async def test_watcher_is_not_told_of_replies_that_were_refused() -> None:
    notes = Notes()
    task = await notes.ask()
    with pytest.raises(InvalidInput):
        notes.router.reply(answer("toolu_1"), "tab-1")
    assert len(notes.told) == 1
    notes.router.reply(allow(), "tab-2")

    with pytest.raises(ConflictError):
        notes.router.reply(deny(), "tab-3")
    await task

    assert notes.told[1:] == [("resolved", "toolu_1", "allow", "tab-2")]


async def test_watcher_has_been_told_when_the_change_is() -> None:
    """Whoever looks then finds in the trace what is in the router."""
    notes = Notes()
    known: list[int] = []
    notes.router = PermissionRouter(lambda: known.append(len(notes.told)), notes)
    task = await notes.ask()

    notes.router.reply(allow())
    await task

    assert known == [1, 2]


# --- expiry

EXPIRED = [{"correlation_id": "toolu_1", "outcome": "expired"}]


def asked_for(
    router: PermissionRouter, wire: Wire, timeout_s: float | None = 60.0
) -> asyncio.Task[Any]:
    return asyncio.ensure_future(router.ask(BASH, wire.emit, timeout_s))


def test_request_that_nobody_answers_is_denied_when_its_time_is_over() -> None:
    async def main() -> None:
        router, wire = PermissionRouter(), Wire()
        decision = await asked_for(router, wire)

        assert now_s() == pytest.approx(60)
        assert isinstance(decision, Deny)
        assert decision.message
        assert not decision.interrupt
        assert wire.resolved == EXPIRED
        assert len(router) == 0

    run_in_no_time(main())


def test_answer_after_the_expiry_is_a_conflict_that_names_it() -> None:
    async def main() -> None:
        router, wire = PermissionRouter(), Wire()
        await asked_for(router, wire)

        with pytest.raises(ConflictError, match="expired") as caught:
            router.reply(allow())

        assert caught.value.outcome == "expired"
        assert wire.resolved == EXPIRED

    run_in_no_time(main())


def test_request_without_a_time_limit_waits() -> None:
    async def main() -> None:
        router, wire = PermissionRouter(), Wire()
        task = asked_for(router, wire, None)
        await asyncio.sleep(10**7)
        assert router.has_pending("toolu_1")
        router.reply(allow())
        assert await task == Allow()

    run_in_no_time(main())


def test_answer_shortly_before_the_expiry_wins() -> None:
    async def main() -> None:
        router, wire = PermissionRouter(), Wire()
        task = asked_for(router, wire)
        await asyncio.sleep(59.9)
        router.reply(allow())
        assert await task == Allow()
        await asyncio.sleep(60)
        assert [each["outcome"] for each in wire.resolved] == ["allow"]

    run_in_no_time(main())


@pytest.mark.parametrize("steps", range(5))
def test_answer_around_the_expiry_is_heard_by_the_agent_or_refused(steps: int) -> None:
    """What clients are told is what the agent is told, to the last step of the loop."""

    async def main() -> str:
        router, wire = PermissionRouter(), Wire()
        refused: list[str | None] = []

        async def answers() -> None:
            await asyncio.sleep(60)
            for _ in range(steps):
                await asyncio.sleep(0)
            try:
                router.reply(allow())
            except ConflictError as error:
                refused.append(error.outcome)

        answering = asyncio.ensure_future(answers())
        await settle()
        decision = await asked_for(router, wire)
        await answering

        (resolved,) = wire.resolved
        assert refused == ([] if resolved["outcome"] == "allow" else ["expired"])
        assert isinstance(decision, Allow) is (resolved["outcome"] == "allow")
        return str(resolved["outcome"])

    run_in_no_time(main())


def test_answer_in_the_moment_of_the_expiry_is_heard_by_the_agent() -> None:
    """Clients have been told that it was allowed."""

    async def main() -> None:
        router, wire = PermissionRouter(), Wire()
        asyncio.get_running_loop().call_at(60.0, router.reply, allow())

        decision = await asked_for(router, wire)

        assert [each["outcome"] for each in wire.resolved] == ["allow"]
        assert decision == Allow()

    run_in_no_time(main())


def test_answer_in_the_moment_after_the_expiry_is_told_that_it_has_expired() -> None:
    async def main() -> None:
        router, wire = PermissionRouter(), Wire()
        outcomes: list[str | None] = []

        def reply() -> None:
            with pytest.raises(ConflictError) as caught:
                router.reply(allow())
            outcomes.append(caught.value.outcome)

        task = asked_for(router, wire)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(60.0, reply)
        await task

        assert wire.resolved == EXPIRED
        assert outcomes == ["expired"]

    run_in_no_time(main())


@pytest.mark.parametrize("first", ["expiry", "cancellation"])
def test_cancellation_in_the_moment_of_the_expiry_gives_one_outcome(first: str) -> None:
    async def main() -> None:
        router, wire = PermissionRouter(), Wire()
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[Any]] = []

        def cancel() -> None:
            tasks[0].cancel()

        if first == "cancellation":
            loop.call_at(60.0, cancel)
        tasks.append(asked_for(router, wire))
        await asyncio.sleep(0)
        if first == "expiry":
            loop.call_at(60.0, cancel)
        await asyncio.wait(tasks)

        assert len(wire.resolved) == 1
        assert len(router) == 0

    run_in_no_time(main())


def test_cancellation_before_the_expiry_is_no_expiry() -> None:
    async def main() -> None:
        router, wire = PermissionRouter(), Wire()
        task = asked_for(router, wire)
        await asyncio.sleep(30)
        task.cancel()
        await asyncio.sleep(60)
        assert [each["outcome"] for each in wire.resolved] == ["cancelled"]

    run_in_no_time(main())


def test_each_request_has_its_own_time() -> None:
    async def main() -> None:
        router, wire = PermissionRouter(), Wire()
        first = asked_for(router, wire, 60.0)
        await asyncio.sleep(30)
        second = asked_for(router, wire, 60.0)
        await first
        assert router.has_pending("toolu_1.2")
        await second
        assert now_s() == pytest.approx(90)
        assert [each["correlation_id"] for each in wire.resolved] == [
            "toolu_1",
            "toolu_1.2",
        ]

    run_in_no_time(main())


def test_watcher_is_told_of_an_expiry_once() -> None:
    async def main() -> None:
        notes = Notes()
        await notes.router.ask(BASH, notes.wire.emit, 60.0)
        assert notes.told[1:] == [("resolved", "toolu_1", "expired", None)]

    run_in_no_time(main())
