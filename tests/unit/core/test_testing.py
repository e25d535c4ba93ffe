from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import claude_agent_sdk
import claude_agent_sdk.types
import pytest

from tests.unit.core.stepping import settle
from webkit_core import (
    Agent,
    Killable,
    SessionConfig,
    SessionRegistry,
    UserMessage,
    testing,
    translate_sdk_messages,
)
from webkit_core.testing import (
    AssistantMessage,
    FakeClock,
    ResultMessage,
    ScriptedAgent,
    ScriptedFactory,
    SystemMessage,
    ToolPermissionContext,
    streamed_text,
)

DOUBLES = [
    double
    for double in vars(testing).values()
    if dataclasses.is_dataclass(double) and isinstance(double, type)
]


async def prompts(*texts: str) -> AsyncIterator[dict[str, Any]]:
    for text in texts:
        yield {"type": "user", "message": {"role": "user", "content": text}}


@pytest.mark.parametrize("double", DOUBLES, ids=lambda double: double.__name__)
def test_double_has_only_fields_that_the_sdks_class_has(double: Any) -> None:
    real = getattr(claude_agent_sdk.types, double.__name__)

    fields = {field.name for field in dataclasses.fields(double)}
    assert fields
    assert fields <= {field.name for field in dataclasses.fields(real)}


async def test_example_in_the_docstring_works() -> None:
    factory = ScriptedFactory()
    registry = SessionRegistry(factory)
    session = await registry.create()
    agent = factory.agents[0]
    await session.submit(UserMessage("hello"))

    prompt = await agent.prompted()
    agent.say("hi there")

    assert prompt["message"] == {"role": "user", "content": "hello"}
    async with asyncio.timeout(5):
        async for event in session.log.subscribe():
            if event.event == "result":
                assert event.data["result"] == "hi there"
                break
    await registry.shutdown()


async def test_streamed_text_translates_to_deltas_that_make_up_the_message() -> None:
    shown: list[tuple[str, Any]] = []

    async def messages() -> AsyncIterator[Any]:
        for message in streamed_text("msg_1", "Hel", "lo"):
            yield message

    await translate_sdk_messages(messages(), lambda *event: shown.append(event))

    deltas = [data.delta.text for name, data in shown if name == "message_delta"]
    completes = [data.message for name, data in shown if name == "message_complete"]
    assert deltas == ["Hel", "lo"]
    assert [block.text for block in completes[-1].content] == ["Hello"]
    assert completes[-1].stop_reason == "end_turn"


async def received(agent: ScriptedAgent) -> list[Any]:
    return [message async for message in agent.receive_messages()]


async def test_agent_yields_what_was_pushed_before_and_while_it_is_read() -> None:
    agent = ScriptedAgent()
    agent.push("one")
    reading = asyncio.ensure_future(received(agent))
    await settle()
    agent.push("two", "three")
    await settle()
    assert not reading.done()

    agent.end()

    async with asyncio.timeout(5):
        assert await reading == ["one", "two", "three"]


async def test_agent_that_ends_with_an_error_raises_it_after_its_last_words() -> None:
    agent = ScriptedAgent()
    agent.push("last words")
    agent.end(RuntimeError("boom"))
    messages = agent.receive_messages()

    assert await anext(messages) == "last words"
    with pytest.raises(RuntimeError, match="boom"):
        await anext(messages)


async def test_agent_says_a_whole_turn_with_ids_of_its_own() -> None:
    agent = ScriptedAgent()
    agent.say("one two", cost_usd=0.5)
    agent.say("three")
    agent.end()

    got = await received(agent)

    results = [each for each in got if isinstance(each, ResultMessage)]
    assert [(each.result, each.total_cost_usd) for each in results] == [
        ("one two", 0.5),
        ("three", 0.0),
    ]
    ids = [each.message_id for each in got if isinstance(each, AssistantMessage)]
    assert len(ids) == len(set(ids)) == 2


async def test_agent_records_prompts_and_tells_when_they_came() -> None:
    agent = ScriptedAgent()
    second = asyncio.ensure_future(agent.prompted(2))
    await agent.query(prompts("one"))
    await settle()
    assert not second.done()

    await agent.query(prompts("two"))

    assert (await second)["message"]["content"] == "two"
    assert (await agent.prompted())["message"]["content"] == "one"
    assert agent.prompts == [await agent.prompted(1), await second]


async def test_agent_records_calls_and_tells_when_they_came() -> None:
    agent = ScriptedAgent()
    called = asyncio.ensure_future(agent.called("stop_task"))
    await settle()
    await agent.set_permission_mode("plan")
    await agent.set_model("m")
    await agent.interrupt()
    await settle()
    assert not called.done()

    await agent.stop_task("t-1")

    assert await called == "t-1"
    assert agent.calls == [
        ("set_permission_mode", "plan"),
        ("set_model", "m"),
        ("interrupt", None),
        ("stop_task", "t-1"),
    ]


@pytest.mark.parametrize("name", ["interrupt", "disconnect"])
async def test_agent_refuses_the_calls_it_is_told_to(name: str) -> None:
    agent = ScriptedAgent()
    agent.refuses.add(name)

    with pytest.raises(RuntimeError, match=f"{name} is refused"):
        await getattr(agent, name)()

    assert not agent.disconnected


async def test_agent_hangs_in_the_calls_it_is_told_to() -> None:
    agent = ScriptedAgent()
    agent.hangs.add("query")
    handing_over = asyncio.ensure_future(agent.query(prompts("hello")))

    assert await agent.called("query") is None
    await settle()

    assert not handing_over.done()
    assert agent.prompts == []
    handing_over.cancel()


async def test_agent_asks_with_its_tool_use_before_its_callback() -> None:
    pushed: list[Any] = []

    async def can_use_tool(name: str, given: dict[str, Any], context: Any) -> Any:
        agent.end()
        pushed.extend(await received(agent))
        assert isinstance(context, ToolPermissionContext)
        return (name, given, context.tool_use_id)

    agent = ScriptedAgent(can_use_tool)

    assert await agent.ask("toolu_1", "Read", path="/tmp") == (
        "Read",
        {"path": "/tmp"},
        "toolu_1",
    )
    (message,) = pushed
    (block,) = message.content
    assert (block.id, block.name, block.input) == ("toolu_1", "Read", {"path": "/tmp"})


@pytest.mark.parametrize("killed", [True, False])
async def test_agent_that_is_ended_falls_silent(killed: bool) -> None:
    agent = ScriptedAgent()
    agent.stderr = "bye"
    reading = asyncio.ensure_future(received(agent))
    await settle()

    if killed:
        agent.kill()
    else:
        await agent.disconnect()

    async with asyncio.timeout(5):
        assert await reading == []
    assert (agent.killed, agent.disconnected) == (killed, not killed)
    assert agent.last_words() == "bye"


def test_agent_is_what_a_session_needs() -> None:
    agent: Agent = ScriptedAgent()

    assert isinstance(agent, Killable)


async def test_factory_records_what_each_agent_was_made_with() -> None:
    factory = ScriptedFactory()
    configs = [SessionConfig(session_id=each) for each in ("s-1", "s-2")]

    async def can_use_tool(*_: Any) -> str:
        return "yes"

    agents = [await factory(config, can_use_tool) for config in configs]

    assert (factory.agents, factory.configs) == (agents, configs)
    assert await agents[0].ask("toolu_1") == "yes"


async def test_factory_at_its_gate_waits_until_it_is_opened() -> None:
    async def can_use_tool(*_: Any) -> None: ...

    factory = ScriptedFactory()
    factory.gate = asyncio.Event()
    making = asyncio.ensure_future(factory(SessionConfig(), can_use_tool))
    await settle()
    assert (factory.configs, factory.agents) == ([SessionConfig()], [])

    factory.gate.set()

    assert await making is factory.agents[0]


async def test_factory_told_to_fail_makes_nothing() -> None:
    async def can_use_tool(*_: Any) -> None: ...

    factory = ScriptedFactory()
    factory.error = OSError("no such CLI")

    with pytest.raises(OSError, match="no such CLI"):
        await factory(SessionConfig(), can_use_tool)

    assert factory.agents == []


def test_clock_moves_only_when_told_to() -> None:
    clock = FakeClock(5)
    assert (clock(), clock()) == (5, 5)

    clock.advance(2.5)

    assert clock() == 7.5


def test_system_messages_of_two_kinds_do_not_share_their_data() -> None:
    one, two = SystemMessage("init"), SystemMessage("status")
    one.data["x"] = 1

    assert two.data == {}
