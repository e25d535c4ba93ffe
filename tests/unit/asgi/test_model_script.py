"""The scripted model: what it reads in a request, plans and streams."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from webkit_asgi.model_script import (
    MAX_INPUT_TOKENS,
    Action,
    Request,
    plan,
    read,
    script,
    stream,
    whole,
)

from .model_calls import ERROR, IMAGE, assistant, body, result, text, user


def request(*messages: dict[str, Any]) -> Request:
    return read(body(*messages))


def events(*actions: Action) -> list[Any]:
    return list(stream(actions, request(user(text("hi")))))


def deltas(*actions: Action) -> list[dict[str, str]]:
    return [
        event["delta"]
        for event in events(*actions)
        if isinstance(event, dict) and event["type"] == "content_block_delta"
    ]


class TestRead:
    def test_prompts_are_the_texts_a_person_wrote(self) -> None:
        seen = request(
            user(text("<system-reminder>\nrules"), text("first")),
            {"role": "system", "content": [text("# Environment")]},
            assistant(),
            user(text("[Request interrupted by user]\n"), text("second")),
        )
        assert seen.prompts == ["first", "second"]

    def test_content_may_be_a_plain_string(self) -> None:
        assert request({"role": "user", "content": "hello"}).prompts == ["hello"]

    def test_answers_are_counted_from_the_last_prompt_on(self) -> None:
        first = user(text("first")), assistant(), user(result("ok")), assistant()
        assert request(*first).answered == 2
        assert request(*first, user(text("second"))).answered == 0

    @pytest.mark.parametrize(
        "words",
        [
            "<system-reminder>\n[SYSTEM NOTIFICATION - NOT USER INPUT]",
            "<local-command-stdout>Set model</local-command-stdout>",
            "[Image: source: /tmp/1.png]",
            "Your response above was cut off mid-stream. Resume directly",
        ],
    )
    def test_what_the_cli_writes_is_no_prompt(self, words: str) -> None:
        seen = request(user(text("do")), assistant(), user(text(words)))
        assert (seen.prompts, seen.answered) == (["do"], 1)

    def test_a_picture_without_words_is_a_prompt_too(self) -> None:
        seen = request(user(text("do")), assistant(), user(IMAGE, text("[Image: 1]")))
        assert (seen.prompts, seen.answered) == (["do", ""], 0)

    def test_results_and_images_are_those_since_the_last_answer(self) -> None:
        seen = request(
            user(text("look"), IMAGE),
            assistant(),
            user(result("old", is_error=True), IMAGE),
            assistant(),
            user(result([text("a"), text("b"), IMAGE]), result("c"), result(None)),
        )
        assert seen.tool_results == ["ab", "c", ""]
        assert seen.images == ["image/png"]
        assert not seen.refused

    def test_a_failed_tool_is_a_refusal(self) -> None:
        assert request(user(result("no"), result("not today", is_error=True))).refused

    def test_the_input_is_never_said_to_be_so_large_that_it_is_compacted(self) -> None:
        assert 0 < request(user(text("hi"))).tokens < 100
        assert request(user(text("x" * 10**6))).tokens == MAX_INPUT_TOKENS

    @pytest.mark.parametrize("wrong", [b"", b"{}", b"[1", b'{"model":1,"messages":[]}'])
    def test_what_is_no_call_is_a_value_error(self, wrong: bytes) -> None:
        with pytest.raises(ValueError, match=r"."):
            read(wrong)


class TestScript:
    def test_actions_and_plain_dicts_make_the_same_short_prompt(self) -> None:
        assert script([Action(say="hi")], [Action(tool="Bash", input={"a": 1})]) == (
            script([{"say": "hi"}], [{"tool": "Bash", "input": {"a": 1}}])
        )
        assert script([Action(say="hi")]) == 'script:[[{"say":"hi"}]]'

    @pytest.mark.parametrize(
        "wrong", [{}, {"say": "a", "tool": "b"}, {"sya": "a"}, {"say": 1}]
    )
    def test_an_action_is_one_thing_and_well_spelled(
        self, wrong: dict[str, Any]
    ) -> None:
        with pytest.raises(msgspec.ValidationError):
            script([wrong])


class TestPlan:
    def test_step_i_answers_the_ith_call(self) -> None:
        prompt = user(text(script([Action(say="one")], [Action(say="two")])))
        assert plan(request(prompt)) == [Action(say="one")]
        assert plan(request(prompt, assistant(), user(result("")))) == [
            Action(say="two")
        ]

    def test_after_the_last_step_the_turn_ends(self) -> None:
        prompt = user(text(script([Action(tool="Bash")])))
        assert plan(request(prompt, assistant(), user(result("")))) == [
            Action(say="(no step left)")
        ]

    def test_the_last_prompt_governs_though_an_older_script_has_steps_left(
        self,
    ) -> None:
        older = user(text(script([Action(say="one")], [Action(say="two")])))
        assert plan(request(older, assistant(), user(text("hello")))) == [
            Action(say="You said: hello")
        ]

    def test_of_prompts_merged_into_one_message_the_last_governs(self) -> None:
        """The CLI merges them when the call for the first one failed."""
        failed, retold = script([Action(fail=529)]), script([Action(say="fine")])
        merged = user(text(failed + "\n"), text(retold))
        assert plan(request(merged)) == [Action(say="fine")]

    def test_a_script_may_stand_within_words_and_hold_the_script_of_a_subagent(
        self,
    ) -> None:
        inner = script([Action(say="inner")])
        outer = script([Action(tool="Task", input={"prompt": inner})])
        assert plan(request(user(text(f"please {outer} thanks")))) == [
            Action(tool="Task", input={"prompt": inner})
        ]

    def test_the_word_alone_is_no_script(self) -> None:
        assert plan(request(user(text("my script: go")))) == [
            Action(say="You said: my script: go")
        ]

    def test_without_any_prompt_the_fallback_is_asked(self) -> None:
        answer = [Action(say="from the fallback")]
        assert plan(request(), lambda _: [answer]) == answer

    def test_braces_are_filled_from_the_request_and_unknown_ones_stay(self) -> None:
        say = "{model} {turns} {images} {tool_results} {other} {}"
        messages = (
            user(text("x")),
            assistant(),
            user(text(script([Action(say=say)])), IMAGE),
        )
        assert plan(request(*messages))[0].say == "claude-x 2 image/png  {other} {}"
        later = user(text(script([], [Action(say=say)]))), assistant()
        results = user(result("a {model}"), result("b"))
        assert plan(request(*later, results))[0].say == (
            "claude-x 1  a {model}\nb {other} {}"
        )

    def test_a_repeated_say_is_one_block_anything_else_several(self) -> None:
        prompt = script([Action(say="ha ", repeat=3), Action(pause=1, repeat=2)])
        planned = plan(request(user(text(prompt))))
        assert [action.say for action in planned] == ["ha ha ha ", None, None]

    @pytest.mark.parametrize(
        "wrong", ["script:[[", 'script:[[{"sya":1}]]', "script:[1]"]
    )
    def test_a_broken_script_is_a_value_error(self, wrong: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            plan(request(user(text(wrong))))


class TestStream:
    def test_a_text_is_framed_as_the_api_frames_it(self) -> None:
        start, *middle, delta, stop = events(Action(say="hi you"))
        assert start["message"]["model"] == "claude-x"
        assert start["message"]["usage"]["input_tokens"] > 0
        assert middle == [
            {"type": "content_block_start", "index": 0, "content_block": text("")},
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "hi"},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": " you"},
            },
            {"type": "content_block_stop", "index": 0},
        ]
        assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
        assert delta["usage"] == {"output_tokens": 3}
        assert stop == {"type": "message_stop"}

    @pytest.mark.parametrize("chunks", [None, 1, 3, 1000])
    @pytest.mark.parametrize("words", ["", " ", "a", " a\n\n- b  ", "é {x} \U0001f40d"])
    def test_deltas_join_to_the_text(self, words: str, chunks: int | None) -> None:
        found = deltas(Action(say=words, chunks=chunks))
        assert "".join(delta["text"] for delta in found) == words
        assert len(found) <= max(chunks or 1000, 1)

    def test_a_thinking_block_ends_with_its_signature(self) -> None:
        *thoughts, signature = deltas(Action(think="let me see"))
        assert "".join(delta["thinking"] for delta in thoughts) == "let me see"
        assert signature["type"] == "signature_delta"
        assert signature["signature"]

    def test_a_tools_input_comes_in_pieces_and_is_the_reason_to_stop(self) -> None:
        found = events(Action(say="x"), Action(tool="Bash", input={"command": "ls"}))
        pieces = [
            event["delta"]["partial_json"]
            for event in found[5:]
            if event.get("index") == 1 and event["type"] == "content_block_delta"
        ]
        assert len(pieces) > 1
        assert json.loads("".join(pieces)) == {"command": "ls"}
        assert found[-2]["delta"]["stop_reason"] == "tool_use"

    def test_tool_ids_are_fresh_unless_given(self) -> None:
        found = events(Action(tool="A"), Action(tool="B"), Action(tool="C", id="mine"))
        blocks = [event["content_block"] for event in found if "content_block" in event]
        ids = [block["id"] for block in blocks]
        assert len(set(ids)) == 3
        assert ids[2] == "mine"
        assert all(block["input"] == {} for block in blocks)

    def test_silence_stands_where_the_script_puts_it(self) -> None:
        found = events(Action(pause=5), Action(say="a b", delay_s=0.5))
        waits = [event for event in found if isinstance(event, float | int)]
        assert waits == [5, 0.5, 0.5]
        assert found[1] == 5

    def test_raw_events_pass_as_they_stand(self) -> None:
        assert events(Action(raw={"type": "ping"}))[1] == {"type": "ping"}

    def test_a_failure_in_mid_stream_is_the_last_event(self) -> None:
        failure = Action(fail_mid_stream="overloaded_error", message="busy")
        assert events(Action(say="a"), failure, Action(say="b"))[-2:] == [
            {"type": "content_block_stop", "index": 0},
            ERROR,
        ]

    def test_the_whole_answer_is_what_the_stream_adds_up_to(self) -> None:
        actions = [
            Action(pause=9),
            Action(think="hm"),
            Action(say="a b"),
            Action(tool="Bash", id="t", input={"a": 1}),
        ]
        answer = whole(actions, request(user(text("hi"))))
        assert [block["type"] for block in answer["content"]] == [
            "thinking",
            "text",
            "tool_use",
        ]
        assert answer["content"][2]["input"] == {"a": 1}
        assert answer["stop_reason"] == "tool_use"
