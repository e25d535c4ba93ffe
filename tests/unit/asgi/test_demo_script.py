"""The demo's script: which words play which scene, and how each scene ends."""

from __future__ import annotations

from typing import Any

import pytest

from webkit_asgi.demo_script import COMMAND, QUESTIONS, demo_steps
from webkit_asgi.scripted_model import Action, Request, plan


def request(prompt: str, **rest: Any) -> Request:
    values: dict[str, Any] = {
        "model": "claude-x",
        "streaming": True,
        "tokens": 10,
        "prompts": [prompt],
        "answered": 0,
        "images": [],
        "tool_results": [],
        "refused": False,
    }
    return Request(**values | rest)


def played(prompt: str, **rest: Any) -> list[Action]:
    return plan(request(prompt, **rest), demo_steps)


def said(prompt: str, **rest: Any) -> str:
    return "".join(action.say or "" for action in played(prompt, **rest))


@pytest.mark.parametrize(
    "prompt", ["hello, what can you show me?", "Brunch at the outskirts of Asking?", ""]
)
def test_plain_words_get_an_answer_that_says_what_else_to_try(prompt: str) -> None:
    answer = said(prompt)
    assert prompt in answer
    assert "claude-x" in answer
    assert "run a command" in answer


def test_without_a_prompt_there_is_an_answer_all_the_same() -> None:
    assert "Try one" in said("", prompts=[])


def test_an_image_is_noticed() -> None:
    assert "image/png" in said("look", images=["image/png"])
    assert "attached" not in said("look")


@pytest.mark.parametrize(
    "prompt", ["Run a command", "list files", "use BASH please", "show me a tool"]
)
def test_a_command_is_announced_and_asked_for(prompt: str) -> None:
    words, use = played(prompt)
    assert words.say
    assert use.tool == "Bash"
    assert use.input["command"] == COMMAND


def test_what_a_command_printed_is_quoted() -> None:
    told = said("run it", answered=1, tool_results=["hello from the agent"])
    assert "hello from the agent" in told
    assert "has run" in told


def test_a_refusal_is_taken_with_grace() -> None:
    told = said("run it", answered=1, tool_results=["not today"], refused=True)
    assert "not today" in told
    assert "has run" not in told


def test_questions_are_asked_one_of_them_with_many_answers() -> None:
    _, use = played("ask me something")
    assert use.tool == "AskUserQuestion"
    assert [q["multiSelect"] for q in use.input["questions"]] == [False, True]
    assert all(2 <= len(q["options"]) <= 4 for q in QUESTIONS)
    assert all(len(q["header"]) <= 12 for q in QUESTIONS)


def test_answers_are_repeated_back() -> None:
    """The CLI hands them over in one sentence, with nothing escaped."""
    first, second = (question["question"] for question in QUESTIONS)
    told = (
        f'The user answered: "{first}"="some "odd" tea, green", '
        f'"{second}"="Streaming,Interrupts". Read the answers carefully'
    )
    assert said("a question", answered=1, tool_results=[told]) == (
        'Thank you. You answered:\n\n- Topic: some "odd" tea, green\n'
        "- Seen: Streaming,Interrupts"
    )


def test_no_answer_is_an_answer() -> None:
    told = said("ask me", answered=1, tool_results=["declined"], refused=True)
    assert "declined" in told


def test_a_failure_is_one_that_the_cli_does_not_wait_for() -> None:
    (failure,) = played("please fail")
    assert (failure.fail, failure.type) == (400, "invalid_request_error")


def test_the_count_takes_about_a_minute() -> None:
    seconds = sum(
        len((action.say or "").split()) * action.delay_s
        for action in played("count long")
    )
    assert 55 < seconds < 70


@pytest.mark.parametrize("prompt", ["hi", "run", "ask", "fail", "count"])
def test_every_scene_comes_to_an_end(prompt: str) -> None:
    for tool_results in ([], ["done"]):
        steps = demo_steps(request(prompt, answered=1, tool_results=tool_results))
        assert not any(action.tool for action in steps[-1])
