from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.stepping import settle
from webkit_core import DEFAULT_DELTAS, Agent, Limits
from webkit_core.conversation import Conversation
from webkit_core.ending import end_agent
from webkit_core.tasks import OwnedTasks
from webkit_core.testing import ScriptedAgent

TIMEOUT_S = 2.0


class Leaving(ScriptedAgent):
    """Takes so long to leave; told to go at once, it goes at once or it does not."""

    def __init__(self, takes_s: float, mortal: bool = True) -> None:
        super().__init__()
        self.takes_s = takes_s
        self.mortal = mortal
        self.course: list[tuple[str, float]] = []
        self.gone = asyncio.Event()

    async def disconnect(self) -> None:
        self.note("disconnect")
        try:
            async with asyncio.timeout(self.takes_s):
                await self.gone.wait()
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            self.note("cancelled")
            raise
        self.note("left")
        self.disconnected = True

    def kill(self) -> None:
        self.killed = True
        self.note("kill")
        if self.mortal:
            self.gone.set()

    def note(self, name: str) -> None:
        self.course.append((name, now_s()))


class Plain:
    """An agent without a process of its own: it cannot be killed."""

    def __init__(self, agent: ScriptedAgent) -> None:
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        if name in {"kill", "last_words"}:
            raise AttributeError(name)
        return getattr(self._agent, name)


class End:
    """The end of one agent, and what is there for it."""

    def __init__(self) -> None:
        self.talk = Conversation("s-1", DEFAULT_DELTAS, Limits())
        self.talk.ready()
        self.leaving = OwnedTasks("s-1")

    async def of(
        self, agent: ScriptedAgent | Plain, pump: asyncio.Task[None] | None = None
    ) -> float:
        """End the agent; return how long it took."""
        began_s = now_s()
        await end_agent(
            cast("Agent", agent),
            self.talk,
            self.leaving,
            pump=pump,
            timeout_s=TIMEOUT_S,
        )
        return now_s() - began_s


def test_agent_that_leaves_in_time_is_asked_first_and_killed_only_then() -> None:
    """The kill is for what it may have left running."""

    async def main() -> None:
        agent = Leaving(1.5)

        assert await End().of(agent) == 1.5

        assert agent.course == [("disconnect", 0), ("left", 1.5), ("kill", 1.5)]

    run_in_no_time(main())


def test_agent_that_does_not_leave_in_time_is_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        agent = Leaving(60)

        assert await End().of(agent) == TIMEOUT_S

        assert agent.course[:3] == [("disconnect", 0), ("kill", 2.0), ("left", 2.0)]

    run_in_no_time(main())
    (record,) = caplog.records
    assert record.getMessage() == "session s-1: its agent does not leave; it is killed"
    assert (record.levelno, vars(record)["session_id"]) == (logging.WARNING, "s-1")


def test_agent_that_survives_being_killed_is_left_behind_in_time() -> None:
    async def main() -> None:
        agent = Leaving(60, mortal=False)

        assert await End().of(agent) == 2 * TIMEOUT_S

        assert [name for name, _ in agent.course] == ["disconnect", "kill", "kill"]

    run_in_no_time(main())


def test_failed_agent_is_killed_before_anything_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        agent = Leaving(60)
        end = End()
        end.talk.fail("agent_exited", "boom")
        caplog.clear()

        assert await end.of(agent) == 0

        assert agent.course[:1] == [("kill", 0)]
        assert agent.disconnected

    run_in_no_time(main())
    assert caplog.records == []


def test_agent_without_a_process_goes_on_leaving_when_nobody_waits_any_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Cancelled half-way it would leave its own process behind."""

    async def main() -> None:
        agent = Leaving(60)

        assert await End().of(Plain(agent)) == 2 * TIMEOUT_S
        assert agent.course == [("disconnect", 0)]
        await asyncio.sleep(60)

        assert agent.course == [("disconnect", 0), ("left", 60)]

    run_in_no_time(main())
    assert [record.getMessage() for record in caplog.records] == [
        "session s-1: its agent does not leave"
    ]


def test_agent_that_is_still_leaving_is_left_to_whoever_keeps_it() -> None:
    """The loop alone would forget its task."""

    async def main() -> None:
        agent, end = Leaving(60), End()
        await end.of(Plain(agent))
        before = list(agent.course)

        end.leaving.cancel_all()
        await settle()

        assert [before, agent.course[1:]] == [
            [("disconnect", 0)],
            [("cancelled", 2 * TIMEOUT_S)],
        ]

    run_in_no_time(main())


@pytest.mark.parametrize("killable", [True, False])
def test_agent_that_refuses_to_leave_is_told_of_and_ended(
    killable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        agent = ScriptedAgent()
        agent.refuses = {"disconnect"}

        assert await End().of(agent if killable else Plain(agent)) == 0

        assert agent.killed is killable

    run_in_no_time(main())
    (record,) = caplog.records
    assert record.getMessage() == "session s-1: its agent: disconnect is refused"
    assert vars(record)["session_id"] == "s-1"


def test_agent_that_left_well_is_not_worth_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        agent = ScriptedAgent()
        await End().of(agent)
        assert agent.disconnected

    run_in_no_time(main())
    assert caplog.records == []


# --- the pump: what the agent said last


def test_last_messages_are_waited_for() -> None:
    async def main() -> None:
        pump = asyncio.ensure_future(asyncio.sleep(1))

        assert await End().of(ScriptedAgent(), pump) == 1

        assert pump.done()

    run_in_no_time(main())


def test_messages_that_never_end_are_given_up_on_and_not_cancelled() -> None:
    """Who began the pump ends it."""

    async def main() -> None:
        pump = asyncio.ensure_future(asyncio.sleep(60))

        assert await End().of(ScriptedAgent(), pump) == TIMEOUT_S

        assert not pump.done()
        pump.cancel()

    run_in_no_time(main())


def test_end_is_bounded_by_three_times_its_timeout_whatever_hangs() -> None:
    async def main() -> None:
        pump = asyncio.ensure_future(asyncio.sleep(60))

        assert await End().of(Leaving(60, mortal=False), pump) == 3 * TIMEOUT_S

        pump.cancel()

    run_in_no_time(main())


# --- whoever waits for it


def test_end_that_is_cancelled_kills_the_agent_and_cancels_no_disconnecting() -> None:
    async def main() -> None:
        agent = Leaving(60)
        ending = asyncio.ensure_future(End().of(agent))
        await settle()
        assert agent.course == [("disconnect", 0)]

        ending.cancel()
        await asyncio.wait({ending})
        await settle()

        assert ending.cancelled()
        assert agent.course[1:] == [("kill", 0), ("left", 0)]

    run_in_no_time(main())
