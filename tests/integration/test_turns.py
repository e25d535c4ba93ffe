"""Whole turns: the real CLI, a real socket, a scripted model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from webkit_asgi.scripted_model import script

from .client import SessionClient, answer_text, complete_text, delta_text, new_session

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)


def bash(command: str) -> dict[str, Any]:
    return {"tool": "Bash", "input": {"command": command}}


async def test_plain_turn_streams_deltas_that_join_to_the_complete_text(
    session: SessionClient,
) -> None:
    async with session.stream() as stream:
        text = "Words, \u00fcml\u00e4uts and \U0001f600 emoji\nin two lines."
        result = await session.turn(stream, script([{"say": text}]))

    assert [seen.id for seen in stream.events] == list(range(1, stream.last_id + 1))
    first = stream.events[0]
    assert first.event == "session_ready"
    assert first.data == {"session_id": session.id, "protocol_version": "1.0"}
    (message_id,) = {seen.data["message_id"] for seen in stream.named("message_delta")}
    assert delta_text(stream, message_id) == complete_text(stream, message_id) == text
    last = stream.named("message_complete")[-1].data["message"]
    assert (last["id"], last["role"], last["stop_reason"]) == (
        message_id,
        "assistant",
        "end_turn",
    )
    assert len(stream.named("message_delta")) > 3
    assert result.data["session_id"] == session.id
    assert result.data["subtype"] == "success"
    assert result.data["total_cost_usd"] > 0


async def test_costs_of_turns_add_up_to_the_session_cost(
    session: SessionClient,
) -> None:
    async with session.stream() as stream:
        costs = [
            (await session.turn(stream, f"question {n}")).data["total_cost_usd"]
            for n in range(3)
        ]
        total = stream.named("result")[-1].data["session_cost_usd"]

    assert total == pytest.approx(sum(costs))
    assert (await session.info())["cost_usd"] == total


async def test_bash_allowed_runs_and_its_output_reaches_client_and_model(
    session: SessionClient, tmp_path: Path
) -> None:
    async with session.stream() as stream:
        await session.say(
            script(
                [{"say": "I write."}, bash("echo hi | tee made")],
                [{"say": "It said: {tool_results}"}],
            )
        )
        request = await stream.until("permission_request")
        assert (await session.info())["state"] == "waiting"
        await session.answer(request.data["correlation_id"], "allow")
        await stream.until("result")

    (use,) = stream.named("tool_use")
    assert request.data["correlation_id"] == use.data["tool_use_id"]
    assert request.data["tool_name"] == "Bash"
    assert request.data["input"]["command"] == "echo hi | tee made"
    assert use.id < request.id
    (resolved,) = stream.named("permission_resolved")
    assert resolved.data["outcome"] == "allow"
    (result,) = stream.named("tool_result")
    assert result.data["tool_use_id"] == use.data["tool_use_id"]
    assert (result.data["output"], result.data["is_error"]) == ("hi", False)
    assert answer_text(stream) == "It said: hi"
    assert (tmp_path / "made").read_text() == "hi\n"


async def test_bash_denied_with_a_message_tells_the_model_and_does_not_run(
    session: SessionClient, tmp_path: Path
) -> None:
    async with session.stream() as stream:
        await session.say(
            script([bash("touch made")], [{"say": "I was told: {tool_results}"}])
        )
        request = await stream.until("permission_request")
        await session.answer(
            request.data["correlation_id"], "deny", message="not on a Sunday"
        )
        result = await stream.until("result")

    assert not (tmp_path / "made").exists()
    assert stream.named("permission_resolved")[0].data["outcome"] == "deny"
    assert stream.named("tool_result")[0].data["is_error"] is True
    assert "not on a Sunday" in answer_text(stream)
    assert result.data["is_error"] is False


async def test_bash_denied_with_interrupt_ends_the_turn(session: SessionClient) -> None:
    async with session.stream() as stream:
        await session.say(script([bash("touch a")], [{"say": "never said"}]))
        request = await stream.until("permission_request")
        await session.answer(request.data["correlation_id"], "deny", interrupt=True)
        result = await stream.until("result")
        assert result.data["subtype"] == "error_during_execution"
        assert "never said" not in answer_text(stream)

        again = await session.turn(stream, script([{"say": "back"}]))

    assert again.data["subtype"] == "success"


async def test_allow_with_edited_input_runs_what_was_edited(
    session: SessionClient, tmp_path: Path
) -> None:
    async with session.stream() as stream:
        await session.say(script([bash("touch asked")], [{"say": "done"}]))
        request = await stream.until("permission_request")
        await session.answer(
            request.data["correlation_id"],
            "allow",
            updated_input={"command": "touch edited"},
        )
        await stream.until("result")

    assert (tmp_path / "edited").exists()
    assert not (tmp_path / "asked").exists()


async def test_suggestions_are_json_and_come_back_as_updated_permissions(
    session: SessionClient, tmp_path: Path
) -> None:
    """What the server suggests can be sent back as it is, and holds for the session."""
    async with session.stream() as stream:
        await session.say(script([bash("touch one")], [{"say": "ok"}]))
        request = await stream.until("permission_request")
        suggestions = request.data["context"]["suggestions"]
        assert {update["destination"] for update in suggestions} == {"session"}
        await session.answer(
            request.data["correlation_id"], "allow", updated_permissions=suggestions
        )
        await stream.until("result")
        await session.turn(stream, script([bash("touch two")], [{"say": "ok"}]))

    assert (tmp_path / "two").exists()
    assert len(stream.named("permission_request")) == 1
    assert not (tmp_path / ".claude" / "settings.local.json").exists()


async def test_two_tools_at_once_are_asked_in_parallel_and_joined_by_id(
    session: SessionClient,
) -> None:
    read = [
        {"tool": "Read", "input": {"file_path": path}}
        for path in ("/etc/hostname", "/etc/hosts")
    ]
    async with session.stream() as stream:
        await session.say(script(read, [{"say": "read"}]))
        await stream.until_true(lambda: len(stream.named("permission_request")) == 2)
        pending = (await session.info())["pending"]
        first, second = stream.named("permission_request")
        assert [entry["data"]["correlation_id"] for entry in pending] == [
            first.data["correlation_id"],
            second.data["correlation_id"],
        ]
        await session.answer(second.data["correlation_id"], "allow")
        await session.answer(first.data["correlation_id"], "deny", message="no")
        await stream.until("result")

    uses = {seen.data["tool_use_id"]: seen for seen in stream.named("tool_use")}
    results = {seen.data["tool_use_id"]: seen for seen in stream.named("tool_result")}
    assert uses.keys() == results.keys()
    assert results[first.data["correlation_id"]].data["is_error"] is True
    assert results[second.data["correlation_id"]].data["is_error"] is False
    message_id = stream.named("message_complete")[0].data["message_id"]
    whole = [
        seen.data["message"]
        for seen in stream.named("message_complete")
        if seen.data["message_id"] == message_id
    ][-1]
    assert [block["type"] for block in whole["content"]] == ["tool_use", "tool_use"]
    assert whole["stop_reason"] == "tool_use"


async def test_question_is_answered_with_labels_and_free_text(
    session: SessionClient,
) -> None:
    questions = [
        {
            "question": "Which colours?",
            "header": "Colour",
            "multiSelect": True,
            "options": [
                {"label": "Red", "description": "like blood"},
                {"label": "Blue", "description": "like the sea"},
            ],
        },
        {
            "question": "How big?",
            "header": "Size",
            "multiSelect": False,
            "options": [
                {"label": "S", "description": "small"},
                {"label": "L", "description": "large"},
            ],
        },
    ]
    async with session.stream() as stream:
        await session.say(
            script(
                [{"tool": "AskUserQuestion", "input": {"questions": questions}}],
                [{"say": "You said: {tool_results}"}],
            )
        )
        asked = await stream.until("ask_user_question")
        assert asked.data["questions"]["questions"] == questions
        await session.send(
            {
                "type": "question_response",
                "correlation_id": asked.data["correlation_id"],
                "answers": {
                    "Which colours?": ["Red", "Blue"],
                    "How big?": "as big as a house",
                },
            }
        )
        await stream.until("result")

    assert stream.named("permission_request") == []
    assert stream.named("permission_resolved")[0].data["outcome"] == "answered"
    for part in ("Red", "Blue", "as big as a house"):
        assert part in answer_text(stream)


LONG = script([{"say": "word " * 400, "delay_s": 0.05}])


async def test_interrupt_in_mid_stream_ends_the_turn_and_the_next_is_normal(
    session: SessionClient,
) -> None:
    async with session.stream() as stream:
        await session.say(LONG)
        await stream.until("message_delta")
        await session.interrupt()
        stopped = await stream.until("result")
        assert stopped.data["terminal_reason"] == "aborted_streaming"

        after = await session.turn(stream, script([{"say": "All well."}]))

    assert after.data["subtype"] == "success"
    assert answer_text(stream) == "All well."
    assert len(stream.named("result")) == 2


async def test_interrupt_right_after_a_message_stops_its_turn(
    session: SessionClient,
) -> None:
    """The CLI ignores an interrupt that comes before it has taken the prompt up."""
    async with session.stream() as stream:
        await session.say(LONG)
        await session.interrupt()
        stopped = await stream.until("result")

    assert stopped.data["subtype"] == "error_during_execution"


async def test_interrupt_when_idle_does_nothing(session: SessionClient) -> None:
    async with session.stream() as stream:
        await stream.until("session_ready")
        await session.interrupt()
        result = await session.turn(stream, "hello")

    assert result.data["subtype"] == "success"


async def test_interrupt_cancels_an_open_permission_and_late_answers_conflict(
    session: SessionClient,
) -> None:
    async with session.stream() as stream:
        await session.say(script([bash("touch made")], [{"say": "never"}]))
        request = await stream.until("permission_request")
        correlation_id = request.data["correlation_id"]
        await session.interrupt()
        resolved = await stream.until("permission_resolved")
        await stream.until("result")
        late = await session.post(
            {
                "type": "permission_response",
                "correlation_id": correlation_id,
                "behavior": "allow",
            }
        )

    assert resolved.data == {"correlation_id": correlation_id, "outcome": "cancelled"}
    assert late.status_code == 409
    assert len(stream.named("permission_resolved")) == 1


async def test_messages_sent_during_a_turn_get_turns_of_their_own_in_order(
    session: SessionClient,
) -> None:
    async with session.stream() as stream:
        for n in range(3):
            await session.say(script([{"say": f"answer {n}", "delay_s": 0.01}]))
        await stream.until_true(lambda: len(stream.named("result")) == 3)

    texts = [seen.data["result"] for seen in stream.named("result")]
    assert texts == ["answer 0", "answer 1", "answer 2"]


async def test_image_reaches_the_model(session: SessionClient) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    async with session.stream() as stream:
        await session.turn(
            stream,
            [
                {"type": "text", "text": script([{"say": "I see: {images}"}])},
                {"type": "image", "source": source},
            ],
        )

    assert answer_text(stream) == "I see: image/png"


async def test_set_model_takes_effect_with_the_next_turn_not_within_the_running_one(
    session: SessionClient,
) -> None:
    async with session.stream() as stream:
        await session.say(script([bash("touch made")], [{"say": "by {model}"}]))
        request = await stream.until("permission_request")
        await session.send({"type": "set_model", "model": "claude-sonnet-5"})
        await session.answer(request.data["correlation_id"], "allow")
        await stream.until("result")
        before = answer_text(stream)
        await session.turn(stream, script([{"say": "by {model}"}]))

    assert before != "by claude-sonnet-5"
    assert answer_text(stream) == "by claude-sonnet-5"


async def test_set_permission_mode_takes_effect_with_the_next_tool(
    session: SessionClient, tmp_path: Path
) -> None:
    async with session.stream() as stream:
        await session.send({"type": "set_permission_mode", "mode": "acceptEdits"})
        await session.turn(stream, script([bash("touch made")], [{"say": "ok"}]))

    assert (tmp_path / "made").exists()
    assert stream.named("permission_request") == []


async def test_permission_mode_given_at_creation_holds(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    session = await new_session(http, cwd=str(tmp_path), permission_mode="acceptEdits")
    async with session.stream() as stream:
        await session.turn(stream, script([bash("touch made")], [{"say": "ok"}]))

    assert (tmp_path / "made").exists()
    await http.delete(session.path)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (529, "overloaded_error")],
    ids=["bad request", "overloaded"],
)
async def test_model_error_ends_the_turn_with_a_result_and_the_session_goes_on(
    session: SessionClient, status: int, kind: str
) -> None:
    async with session.stream() as stream:
        failed = await session.turn(stream, script([{"fail": status, "type": kind}]))
        after = await session.turn(stream, script([{"say": "fine again"}]))

    assert failed.data["is_error"] is True
    assert str(status) in failed.data["result"]
    assert after.data["is_error"] is False
    if status == 529:
        assert stream.named("notice")[0].data["kind"] == "api_retry"


async def test_thinking_is_streamed_when_asked_for(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    session = await new_session(http, cwd=str(tmp_path), deltas=["thinking"])
    async with session.stream() as stream:
        await session.turn(
            stream, script([{"think": "let me think"}, {"say": "thought"}])
        )

    deltas = [seen.data["delta"] for seen in stream.named("message_delta")]
    assert {delta["type"] for delta in deltas} == {"thinking"}
    assert "".join(delta["thinking"] for delta in deltas) == "let me think"
    last = stream.named("message_complete")[-1].data["message"]
    assert [block["type"] for block in last["content"]] == ["thinking", "text"]
    await http.delete(session.path)


async def test_commands_and_file_mentions_in_a_message_stay_text(
    session: SessionClient,
) -> None:
    """``@path`` would read that file of the server, a slash would run a command."""
    prompt = script([{"say": "I got: {prompt}"}])
    async with session.stream() as stream:
        await session.turn(stream, f"@/etc/hostname {prompt}")
        assert answer_text(stream).startswith("I got: @/etc/hostname")
        await session.turn(stream, f"/clear {prompt}")
        assert answer_text(stream).startswith("I got: /clear")


async def test_sub_agent_is_marked_and_its_tools_ask_too(
    session: SessionClient,
) -> None:
    inner = script([{"say": "inner words"}, bash("touch made")], [{"say": "inner end"}])
    task = {
        "tool": "Task",
        "input": {
            "description": "a part",
            "prompt": inner,
            "subagent_type": "general-purpose",
        },
    }
    async with session.stream() as stream:
        await session.say(script([task], [{"say": "outer end"}]))
        request = await stream.until("permission_request")
        await session.answer(request.data["correlation_id"], "allow")
        parent = stream.named("tool_use")[0].data["tool_use_id"]
        await stream.until("tool_result", parent_tool_use_id=parent)
        await stream.until("task_status", status="completed")

    inner_uses = [
        seen
        for seen in stream.named("tool_use")
        if seen.data.get("parent_tool_use_id") == parent
    ]
    assert [u.data["tool_use_id"] for u in inner_uses] == [
        request.data["correlation_id"]
    ]
    outer = [
        seen
        for seen in stream.named("message_complete")
        if "parent_tool_use_id" not in seen.data
    ]
    assert outer


async def test_second_answer_conflicts_whoever_sends_it(
    session: SessionClient,
) -> None:
    async with session.stream() as stream:
        await session.say(script([bash("touch made")], [{"say": "ok"}]))
        request = await stream.until("permission_request")
        reply = {
            "type": "permission_response",
            "correlation_id": request.data["correlation_id"],
            "behavior": "allow",
        }
        answers = await asyncio.gather(
            *(session.post(reply, x_subscriber_id=f"tab-{n}") for n in range(8))
        )
        resolved = await stream.until("permission_resolved")
        await stream.until("result")
        unknown = await session.post({**reply, "correlation_id": "toolu_never"})

    codes = sorted(answer.status_code for answer in answers)
    assert codes == [204] + [409] * 7
    winner = next(n for n, answer in enumerate(answers) if answer.status_code == 204)
    assert resolved.data["subscriber_id"] == f"tab-{winner}"
    assert len(stream.named("permission_resolved")) == 1
    assert unknown.status_code == 409
