"""Whenever messages come, tools run and people answer: a turn is stopped when it is
silent, in time, and never before.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from hypothesis import given, settings, strategies as st

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from tests.unit.core.test_conversation import of
from webkit_core import (
    CanUseTool,
    Deadlines,
    PermissionResponse,
    Session,
    SessionConfig,
    UserMessage,
)
from webkit_core.testing import (
    AssistantMessage,
    ResultMessage,
    ScriptedAgent,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage as AgentsUserMessage,
)

TURN_S: Final = 100.0
TOOL_S: Final = 400.0
PEOPLE_S: Final = 5000.0
SLACK_S: Final = 0.1
"""What steps of the loop and the pauses of the test add up to."""

DEADLINES: Final = Deadlines(
    turn_silence_s=TURN_S, tool_silence_s=TOOL_S, permission_s=2 * PEOPLE_S
)


class Agent(ScriptedAgent):
    """Ends its turn when it is interrupted, and remembers when that was."""

    def __init__(self, can_use_tool: CanUseTool) -> None:
        super().__init__(can_use_tool)
        self.stopped_at_s: list[float] = []

    async def interrupt(self) -> None:
        self.stopped_at_s.append(now_s())
        await super().interrupt()
        self.push(ResultMessage("error_during_execution", is_error=True))


class Turn:
    """One turn, and everything that may happen in it before it goes silent."""

    def __init__(self) -> None:
        self.session = Session(
            SessionConfig(session_id="s-1"), self.make_agent, deadlines=DEADLINES
        )
        self.made = 0

    async def make_agent(self, _config: SessionConfig, ask: CanUseTool) -> Agent:
        self.agent = Agent(ask)
        return self.agent

    async def speaks(self, share: float) -> None:
        await asyncio.sleep(share * (TURN_S - 1))
        self.agent.push(AssistantMessage([TextBlock("on it")], "msg_1"))

    async def uses_a_tool(self, share: float) -> None:
        self.made += 1
        block = ToolUseBlock(f"toolu_{self.made}", "Bash", {})
        self.agent.push(AssistantMessage([block], f"msg_of_{self.made}"))
        await asyncio.sleep(share * (TOOL_S - 1))
        await self.gives()

    async def asks(self, share: float) -> None:
        """People take their time, and so does the tool that they allow."""
        self.made += 1
        id_ = f"toolu_{self.made}"
        ask = asyncio.ensure_future(self.agent.ask(id_))
        await asyncio.sleep(0.01 + share * PEOPLE_S)
        await self.session.submit(PermissionResponse(id_, "allow"))
        await ask
        await asyncio.sleep((1 - share) * (TOOL_S - 1))
        await self.gives()

    async def gives(self) -> None:
        gave = ToolResultBlock(f"toolu_{self.made}", "out")
        self.agent.push(AgentsUserMessage([gave]))
        await asyncio.sleep(0.001)

    async def run(self, course: list[tuple[Any, float]]) -> None:
        await self.session.start()
        await self.session.submit(UserMessage("hello"))
        await self.agent.prompted()
        for step, share in course:
            await step(self, share)
            assert self.agent.stopped_at_s == []
        silent_from_s = now_s()
        await asyncio.sleep(2 * TURN_S + SLACK_S)
        (stopped_s,) = self.agent.stopped_at_s
        assert TURN_S - SLACK_S <= stopped_s - silent_from_s <= 2 * TURN_S + SLACK_S
        (notice,) = of(self.session.log, "notice")
        assert notice == {"kind": "turn_stalled", "details": {"silent_s": TURN_S}}
        await self.session.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}


steps: Final = st.tuples(
    st.sampled_from((Turn.speaks, Turn.uses_a_tool, Turn.asks)),
    st.floats(0, 1, exclude_max=True),
)


@given(course=st.lists(steps, max_size=6))
@settings(max_examples=60)
def test_turn_is_stopped_when_it_is_silent_and_never_before(
    course: list[tuple[Any, float]],
) -> None:
    run_in_no_time(Turn().run(course))
