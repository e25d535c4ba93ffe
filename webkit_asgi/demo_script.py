"""What the demo's model says: plain words in, steps of a script out.

Rules: the first entry of ``SCENES`` with a word of the prompt in it plays; nothing is
remembered, a step that follows a tool reads what became of it from the request.

Invariant: every scene is a pure function of the request and ends in a step that asks
for no tool, so that a turn always ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from .scripted_model import Action, Request, Script

WORD_S: Final = 0.03
"""A pace at which the words of an answer can be seen coming."""

COMMAND: Final = 'echo "hello from the agent" > hello.txt && cat hello.txt'
"""It writes, so the CLI asks for permission."""

QUESTIONS: Final[list[dict[str, Any]]] = [
    {
        "question": "What should the next demo be about?",
        "header": "Topic",
        "multiSelect": False,
        "options": [
            {"label": "Lighthouses", "description": "Tall, and they blink"},
            {"label": "Tea", "description": "Warm, and it steams"},
        ],
    },
    {
        "question": "Which of these have you seen work?",
        "header": "Seen",
        "multiSelect": True,
        "options": [
            {"label": "Streaming", "description": "Words that arrive one by one"},
            {"label": "Permissions", "description": "A tool that waits for your yes"},
            {"label": "Interrupts", "description": "An answer cut short by you"},
        ],
    },
]

TOUR: Final = """\
Try one of these next:

- "run a command": I ask for permission, then use the Bash tool
- "ask me something": I put two questions to you and repeat your answers
- "count for a long time": a minute of text, there to be interrupted
- "fail": the model's API answers with an error
"""


def demo_steps(request: Request) -> Script:
    """Return the steps of the scene that the person's last words ask for."""
    prompt = request.prompts[-1].lower() if request.prompts else ""
    for words, scene in SCENES:
        if re.search(rf"\b({words})\b", prompt):
            return scene(request)
    return _answer(request)


def _say(text: str) -> Action:
    return Action(say=text, delay_s=WORD_S)


def _answer(request: Request) -> Script:
    seen = "I also see what you attached: {images}.\n\n" if request.images else ""
    return [
        [
            _say(
                'You wrote: "{prompt}"\n\n' + seen + "I am no language model, only a "
                "script that plays one, in the place of {model}. All the rest is real: "
                "the Claude Code process that called me, its tools, its permissions, "
                "and the server that brings you these words one by one. This was "
                "prompt number {turns} of the conversation.\n\n" + TOUR
            )
        ]
    ]


def _run(request: Request) -> Script:
    if request.refused:
        ending = "That did not work out. I was told:\n\n{tool_results}\n\nNo harm done."
    else:
        ending = "The command has run, and this is what it printed:\n\n{tool_results}"
    use = Action(tool="Bash", input={"command": COMMAND, "description": "Say hello"})
    return [
        [_say("I will write a small file and read it back, if you let me."), use],
        [_say(ending)],
    ]


def _ask(request: Request) -> Script:
    told = "\n".join(request.tool_results)
    answers = [
        f"- {question['header']}: {found[1]}"
        for question in QUESTIONS
        # As the CLI words it: "question"="answer", and what follows the last one.
        if (
            found := re.search(
                rf'"{re.escape(question["question"])}"="(.*?)"[,.]', told
            )
        )
    ]
    ending = "Thank you. You answered:\n\n" + "\n".join(answers)
    if not answers:
        ending = "You would rather not say. I was told:\n\n{tool_results}"
    ask = Action(tool="AskUserQuestion", input={"questions": QUESTIONS})
    return [[_say("Two short questions for you."), ask], [_say(ending)]]


def _fail(request: Request) -> Script:
    # Of all errors the one the CLI does not wait and try again for.
    message = "this failure was asked for, say anything else to go on"
    return [[Action(fail=400, type="invalid_request_error", message=message)]]


def _count(request: Request) -> Script:
    numbers = " ".join(f"{number}," for number in range(1, 120))
    opening = _say(
        "I count to 120, twice a second. Interrupt me whenever you like.\n\n"
    )
    return [[opening, Action(say=f"{numbers} 120. Nobody stopped me.", delay_s=0.5)]]


SCENES: Final[tuple[tuple[str, Callable[[Request], Script]], ...]] = (
    ("errors?|fail|fails|failure", _fail),
    ("ask|asks|questions?", _ask),
    ("long|count|slow|slowly", _count),
    ("run|runs|bash|command|shell|tools?|list( the| my)? files", _run),
)
"""Words, as a pattern, and the scene they call."""
