"""The CLI's output is odd: what can be left out is, and the rest ends the session."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from webkit_core import AgentStartError, EvictedError, claude

from .sessions import (
    WAIT_S,
    Fakes,
    assert_answers,
    assert_failed,
    ended,
    history,
    named,
    reading,
    say,
    until,
)

UNPARSABLE = '{"type": "assistant", "message": {"content": [{"type": "thinking"}]}}'
UNKNOWN = '{"type": "of_next_year", "uuid": "x", "session_id": "fake"}'
END = [["say", "all the same"], ["result"]]


@pytest.mark.parametrize(
    "step",
    [
        ["line", "[Sandbox] started"],
        ["line", ""],
        ["line", "[1, 2]"],
        ["line", UNKNOWN],
        ["line", '{"type": "control_response", "response": {"request_id": "no"}}'],
        ["line", '{"type": "control_cancel_request", "request_id": "no"}'],
    ],
    ids=["text", "empty", "a list", "unknown type", "unasked answer", "unasked cancel"],
)
async def test_line_that_is_no_message_is_left_out_silently(
    fakes: Fakes, step: list[Any]
) -> None:
    """What is lost: the line. The turn and the session go on."""
    session = await fakes.session()

    before = await say(session, step, *END)

    await until(session, "result", before, subtype="success")
    assert not await named(session, "error", "notice")
    await assert_answers(session)


async def test_message_the_sdk_cannot_parse_becomes_a_notice_and_the_turn_goes_on(
    fakes: Fakes,
) -> None:
    """What clients see: ``notice`` of kind ``message_left_out``, with the reason."""
    session = await fakes.session()

    before = await say(session, ["line", UNPARSABLE], *END)

    notice = await until(session, "notice", before, kind="message_left_out")
    assert "signature" in str(notice.data) or "thinking" in str(notice.data)
    await until(session, "result", notice.seq, subtype="success")
    await assert_answers(session)


async def test_hundred_unparsable_messages_are_left_out_and_one_more_ends_the_session(
    fakes: Fakes,
) -> None:
    """What clients see: ``error`` with ``agent_exited``, and ``done``."""
    session = await fakes.session()
    before = await say(session, ["lines", 100, UNPARSABLE], *END)
    await until(session, "result", before, subtype="success")

    await say(session, ["lines", 101, UNPARSABLE], ["wait"])

    assert "more than 100" in await assert_failed(session, "agent_exited")
    await fakes.until_processes(0)


@pytest.mark.parametrize("how", ["in the turn", "while it starts"])
async def test_broken_json_ends_the_session_and_is_quoted_nowhere(
    fakes: Fakes, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """It may have been anything: what clients see is ``agent_exited``."""
    step = ["line", '{"type": "assistant", "text": "hunter2']
    caplog.set_level("INFO")
    if how == "in the turn":
        session = await fakes.session()
        await say(session, step, ["wait"])
        why = await assert_failed(session, "agent_exited")
    else:
        with pytest.raises(AgentStartError) as caught:
            await fakes.session(init=[step])
        why = str(caught.value)

    assert "no JSON" in why
    assert "hunter2" not in why + caplog.text
    await fakes.until_processes(0)


ODD = [
    '{"type": "assistant", "message": {"model": "m", "content": 1}}',
    '{"type": "assistant", "message": {"model": "m", "content": [1]}}',
    '{"type": "system", "subtype": "init", "data": 1, "session_id": 1, "x": []}',
    '{"type": "user", "message": 1}',
]


@pytest.mark.parametrize("line", ODD)
async def test_message_the_sdk_stumbles_over_is_left_out_and_the_turn_goes_on(
    fakes: Fakes, line: str
) -> None:
    session = await fakes.session()

    before = await say(session, ["line", line], *END)

    await until(session, "result", before, subtype="success")
    assert not await named(session, "error")
    await assert_answers(session)


async def test_line_beyond_the_limit_ends_the_session_and_its_process(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK stops reading, the process would live on: it is killed."""
    monkeypatch.setattr(claude, "MAX_LINE_BYTES", 100_000)
    session = await fakes.session()
    before = await say(session, ["begin"], ["long_line", 90_000], ["result"])
    await until(session, "result", before)

    await say(session, ["begin"], ["long_line", 110_000], ["wait"])

    assert "too long" in await assert_failed(session, "agent_exited")
    await fakes.until_processes(0)


async def test_invalid_utf8_ends_the_session(fakes: Fakes) -> None:
    session = await fakes.session()

    await say(session, ["line", '{"type": "x", "text": "\udcff"}'], ["wait"])

    assert "no UTF-8" in await assert_failed(session, "agent_exited")
    await fakes.until_processes(0)


async def test_lone_surrogate_is_replaced_and_the_turn_goes_on(fakes: Fakes) -> None:
    """What is lost: half a character, which becomes U+FFFD."""
    session = await fakes.session()

    before = await say(session, ["say", "cut \ud83d here", 1], ["result"])

    complete = await until(session, "message_complete", before)
    assert complete.data["message"]["content"][0]["text"] == "cut \ufffd here"
    delta = await until(session, "message_delta", before)
    assert delta.data["delta"]["text"] == "cut \ufffd here"
    await until(session, "result", before)
    await assert_answers(session)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
async def test_number_that_is_none_becomes_null(fakes: Fakes, number: float) -> None:
    """NaN is no JSON; the CLI's ``duration_ms`` is left off the wire."""
    session = await fakes.session()

    before = await say(session, ["result_with", {"duration_ms": number}])

    result = await until(session, "result", before)
    assert result.data["duration_ms"] is None
    await assert_answers(session)


@pytest.mark.parametrize(
    "field", ["duration_ms", "is_error", "num_turns", "session_id", "subtype"]
)
async def test_result_that_cannot_be_read_ends_its_turn_with_an_error(
    fakes: Fakes, field: str
) -> None:
    """What clients see: ``unreadable_result``. What is lost: the turn's cost."""
    session = await fakes.session()
    whole = {
        "type": "result",
        "subtype": "success",
        "duration_ms": 1,
        "duration_api_ms": 1,
        "is_error": False,
        "num_turns": 1,
        "session_id": "fake",
    }
    del whole[field]

    before = await say(session, ["message", whole])

    error = await until(session, "error", before, code="unreadable_result")
    assert field in error.data["message"]
    await until(session, "session_state", error.seq, state="idle")
    assert not await named(session, "result")
    await assert_answers(session)


async def test_control_request_of_an_unknown_kind_is_refused_by_the_sdk(
    fakes: Fakes,
) -> None:
    session = await fakes.session()
    odd = {"type": "control_request", "request_id": "ask-1"}

    before = await say(
        session,
        ["message", {**odd, "request": {"subtype": "of_next_year"}}],
        ["answers", 1],
        *END,
    )

    await until(session, "result", before, subtype="success")
    await assert_answers(session)


async def test_flood_of_deltas_reaches_a_fast_reader_whole_and_tells_a_slow_one(
    fakes: Fakes,
) -> None:
    """What is lost: the slow one's place; it is told, by ``evicted``."""
    session = await fakes.session()
    async with (
        asyncio.timeout(WAIT_S),
        reading(session) as slow,
        reading(session) as fast,
    ):
        assert (await anext(slow)).event == "session_ready"
        await say(session, ["flood", 10_000, "x"], ["result"])

        deltas = 0
        async for seen in fast:
            deltas += seen.event == "message_delta"
            if seen.event == "result":
                break
        with pytest.raises(EvictedError) as caught:
            await anext(slow)

    assert deltas == 10_000
    assert caught.value.after_seq == 1
    assert len(await history(session)) == 1000
    await assert_answers(session)


async def test_stderr_that_is_no_utf8_is_read_on(fakes: Fakes) -> None:
    """More than a pipe holds comes after it: the CLI must not hang."""
    session = await fakes.session()

    before = await say(
        session, ["stderr", "\udcff\n"], ["stderr", "x" * 999 + "\n", 1000], *END
    )

    await until(session, "result", before)
    await say(session, ["stderr", "caf\udce9\n"], ["exit", 1])
    assert (await assert_failed(session, "agent_exited")).endswith("caf\ufffd")


async def test_line_on_stderr_without_an_end_is_bounded(fakes: Fakes) -> None:
    session = await fakes.session()

    before = await say(session, ["stderr", "x" * 100_000, 500], *END)
    await until(session, "result", before)
    await say(session, ["exit", 1])

    assert len(await assert_failed(session, "agent_exited")) < 700


async def test_flood_on_stderr_is_read_and_its_end_kept(fakes: Fakes) -> None:
    """20 MB do not block the CLI; what is kept are the last lines."""
    session = await fakes.session()

    line = "x" * 1999 + "\n"
    before = await say(session, ["stderr", line, 10_000], ["say", "ok"], ["result"])
    await until(session, "result", before)
    await say(session, ["stderr", "the end\n"], ["exit", 1])

    message = await assert_failed(session, "agent_exited")
    assert message.endswith("the end")
    assert len(message) < 40 * 501 + 100
    assert (await ended(session))[-1].event == "done"
