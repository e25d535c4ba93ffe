from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.stepping import settle
from webkit_core.permissions import Allow, Decision, Deny, Request
from webkit_core.rules import DENIED, POLICY_TIMEOUT_S, Policy, rule_on

BASH = Request("toolu_1", "Bash", {"command": "ls"}, {})
QUESTION = Request("toolu_2", "AskUserQuestion", {"questions": []}, {})


def at_once(ruling: Any) -> Policy:
    def policy(_name: str, _input: dict[str, Any]) -> Any:
        return ruling

    return policy


def later(ruling: Any) -> Policy:
    async def policy(_name: str, _input: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        return ruling

    return policy


def in_a_future(ruling: Any) -> Policy:
    def policy(_name: str, _input: dict[str, Any]) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_result(ruling)
        return future

    return policy


def fails_at_once(_name: str, _input: dict[str, Any]) -> Any:
    raise RuntimeError("no rules today")


async def fails_later(_name: str, _input: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    raise TimeoutError("no rules today")


async def hangs(_name: str, _input: dict[str, Any]) -> Any:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("policy_of", [at_once, later, in_a_future])
@pytest.mark.parametrize(
    ("ruling", "decision"), [("allow", Allow()), ("deny", DENIED), ("ask", None)]
)
async def test_ruling_is_what_the_policy_says(
    policy_of: Any,
    ruling: str,
    decision: Decision | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert await rule_on(BASH, policy_of(ruling)) == decision
    assert caplog.records == []


async def test_without_a_policy_everything_is_asked() -> None:
    assert await rule_on(BASH, None) is None


async def test_policy_hears_the_tool_and_its_input() -> None:
    heard: list[Any] = []

    def policy(name: str, tool_input: dict[str, Any]) -> Any:
        heard.append((name, tool_input))
        return "ask"

    await rule_on(BASH, policy)

    assert heard == [("Bash", {"command": "ls"})]


@pytest.mark.parametrize(
    "policy",
    [at_once("allow"), at_once("deny"), at_once(1), fails_at_once, hangs],
    ids=["allow", "deny", "odd", "fails", "hangs"],
)
async def test_question_is_asked_whatever_the_policy(
    policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's answers are nothing that a rule could give."""
    assert await rule_on(QUESTION, policy) is None
    assert caplog.records == []


def test_denial_leaves_the_turn_running_and_says_why() -> None:
    assert isinstance(DENIED, Deny)
    assert not DENIED.interrupt
    assert "rules" in DENIED.message


@pytest.mark.parametrize("policy", [fails_at_once, fails_later])
async def test_policy_that_raises_denies_and_the_operator_hears_why(
    policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    assert await rule_on(BASH, policy) == DENIED

    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "Bash" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no rules today"


async def test_policy_that_cannot_be_called_so_denies(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy: Any = lambda: "allow"  # noqa: E731

    assert await rule_on(BASH, policy) == DENIED
    assert len(caplog.records) == 1


@pytest.mark.parametrize("policy_of", [at_once, later])
@pytest.mark.parametrize(
    "odd",
    [None, True, 1, "", "Allow", "allow ", "yes", b"allow", ["allow"], {"allow": 1}],
    ids=repr,
)
async def test_policy_that_says_something_else_denies_and_the_operator_hears_what(
    policy_of: Any, odd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert await rule_on(BASH, policy_of(odd)) == DENIED

    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert repr(odd) in record.getMessage()


def test_policy_that_hangs_denies_in_time(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> float:
        assert await rule_on(BASH, hangs) == DENIED
        return now_s()

    assert run_in_no_time(main()) == pytest.approx(POLICY_TIMEOUT_S)
    (record,) = caplog.records
    assert "Bash" in record.getMessage()


def test_policy_that_hangs_is_cancelled() -> None:
    cancelled: list[bool] = []

    async def policy(_name: str, _input: dict[str, Any]) -> Any:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    run_in_no_time(rule_on(BASH, policy))

    assert cancelled == [True]


def test_policy_may_take_its_time_within_the_deadline() -> None:
    async def policy(_name: str, _input: dict[str, Any]) -> Any:
        await asyncio.sleep(POLICY_TIMEOUT_S - 0.1)
        return "allow"

    assert run_in_no_time(rule_on(BASH, policy)) == Allow()


async def test_request_taken_back_ends_the_policy_and_decides_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = asyncio.ensure_future(rule_on(BASH, hangs))
    await settle()

    task.cancel()
    await settle()

    assert task.cancelled()
    assert caplog.records == []


async def test_policy_that_breaks_off_denies(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody cancelled what it waited for; nobody took the request back."""

    async def policy(_name: str, _input: dict[str, Any]) -> Any:
        lookup = asyncio.get_running_loop().create_future()
        lookup.cancel()
        await lookup

    assert await rule_on(BASH, policy) == DENIED
    assert len(caplog.records) == 1
