"""What the scripted model says: a script in the prompt, read and played.

A prompt made by :func:`script` carries the answers to itself: a list of steps, each a
list of actions; step *i* answers the *i*-th call the CLI makes for that prompt.

Rules: nothing is kept between calls, the request alone decides, so that retries,
resumed sessions and sub-agents need no care; the last text a person wrote governs, by
the script in it or else by the server's fallback.

Invariant: :func:`read`, :func:`plan`, :func:`stream` and :func:`whole` are pure but
for fresh ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from uuid import uuid4

import msgspec
from msgspec import Struct

CLI_TEXTS: Final = (
    "<system-reminder>",
    "<task-notification>",
    "<local-command-",
    "<command-",
    "[Request interrupted by user",
    "[Image: ",
    "Your response above was cut off mid-stream.",
)
"""How texts begin that the CLI writes in the person's name."""

MAX_INPUT_TOKENS: Final = 50_000
"""Reported at most: with more, the CLI compacts, by a call of its own."""

TOOL_INPUT_CHUNKS: Final = 4
"""Deltas of a tool's input, unless the script says how many."""

_EMPTY: Final = {"text": "", "thinking": "", "signature": "", "input": {}}


class Action(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One thing the model does: exactly one of the first seven fields says what."""

    say: str | None = None  # a text block, a delta per word; `fill` names what it knows
    think: str | None = None  # a thinking block, a delta per word
    tool: str | None = None  # the tool of this name, used with `input`
    pause: float | None = None  # seconds of silence
    fail: int | None = None  # this HTTP status, and no answer
    fail_mid_stream: str | None = None  # an `error` of this type, and no more after it
    raw: dict[str, Any] | None = None  # this event, as it stands

    input: dict[str, Any] = {}
    id: str | None = None  # of a tool use; None is a fresh one
    type: str = "api_error"  # of a `fail`
    message: str = "scripted failure"  # of either failure
    chunks: int | None = None  # so many even deltas instead
    delay_s: float = 0.0  # silence after each delta
    repeat: int = 1  # times over; a `say` stays one block

    def __post_init__(self) -> None:
        """Refuse what is no action, or several."""
        kinds = self.__struct_fields__[:7]
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise ValueError(f"an action has exactly one of {', '.join(kinds)}")


class Request(Struct, frozen=True):
    """What a call says."""

    model: str
    streaming: bool
    tokens: int  # a guess at the input's size
    prompts: list[str]  # every text a person wrote, oldest first
    answered: int  # the model's answers since the last prompt
    images: list[str]  # since the last answer: media types,
    tool_results: list[str]  # texts,
    refused: bool  # and whether a tool failed or was not allowed


class _Block(Struct):
    type: str
    text: str = ""
    content: str | list[_Block] | None = None
    source: dict[str, Any] = {}
    is_error: bool | None = None


class _Message(Struct):
    role: str
    content: str | list[_Block]


class _Call(Struct):
    model: str
    messages: list[_Message]
    stream: bool | None = None


Script = Sequence[Sequence[Action]]
Event = dict[str, Any]
Fallback = Callable[[Request], Script]


def script(*steps: Sequence[Action | dict[str, Any]]) -> str:
    """Return a prompt that is answered by these steps, one per call."""
    checked = msgspec.convert(msgspec.to_builtins(steps), list[list[Action]])
    return "script:" + msgspec.json.encode(checked).decode()


def echo(request: Request) -> Script:
    """Return a short answer to a prompt without a script."""
    return [[Action(say="You said: {prompt}")]]


def _blocks(of: _Message | _Block) -> list[_Block]:
    if isinstance(of.content, str):
        return [_Block("text", of.content)]
    return of.content or []


def _written(blocks: list[_Block]) -> list[str]:
    """Return the texts of a user's message that are a person's own."""
    texts = [block.text for block in blocks if block.type == "text"]
    written = [text for text in texts if not text.startswith(CLI_TEXTS)]
    kinds = {block.type for block in blocks}
    if not written and "image" in kinds and "tool_result" not in kinds:
        return [""]  # a picture without words is a prompt too
    return written


def read(body: bytes) -> Request:
    """Take a call's body apart.

    Raises:
        ValueError: it is not a Messages request.
    """
    call = msgspec.json.decode(body, type=_Call)
    prompts: list[str] = []
    fresh: list[_Block] = []
    answered = 0
    for message in call.messages:
        if message.role == "assistant":
            answered, fresh = answered + 1, []
        elif message.role == "user":  # "system" is the CLI speaking to the model
            blocks = _blocks(message)
            fresh += blocks
            written = _written(blocks)
            prompts += written
            answered = 0 if written else answered
    results = [block for block in fresh if block.type == "tool_result"]
    images = [*fresh, *(inner for result in results for inner in _blocks(result))]
    return Request(
        model=call.model,
        streaming=bool(call.stream),
        tokens=min(len(body) // 4 + 1, MAX_INPUT_TOKENS),
        prompts=prompts,
        answered=answered,
        images=[str(b.source.get("media_type")) for b in images if b.type == "image"],
        tool_results=["".join(b.text for b in _blocks(result)) for result in results],
        refused=any(result.is_error for result in results),
    )


def fill(text: str, request: Request) -> str:
    """Put what the request says in place of the names in braces."""
    values = {
        "{model}": request.model,
        "{prompt}": "".join(request.prompts[-1:]),
        "{turns}": str(len(request.prompts)),
        "{images}": ", ".join(request.images),
        "{tool_results}": "\n".join(request.tool_results),
    }
    return re.sub(r"\{\w+\}", lambda found: values.get(found[0], found[0]), text)


def plan(request: Request, fallback: Fallback = echo) -> list[Action]:
    """Return what the model does now, with nothing left to fill in or to repeat.

    Raises:
        ValueError: the script in the prompt is none.
    """
    # The first marker: the script of a sub-agent stands inside its parent's.
    _, marker, rest = "".join(request.prompts[-1:]).partition("script:[")
    if marker:
        found, _ = json.JSONDecoder().raw_decode("[" + rest)
        steps: Script = msgspec.convert(found, list[list[Action]])
    else:
        steps = fallback(request)
    actions: list[Action] = []
    done = request.answered >= len(steps)
    for action in [Action(say="(no step left)")] if done else steps[request.answered]:
        if action.say is None:
            actions += [action] * action.repeat
        else:
            text = fill(action.say, request) * action.repeat
            actions.append(msgspec.structs.replace(action, say=text, repeat=1))
    return actions


def _pieces(text: str, count: int | None) -> list[str]:
    """Return what joins to ``text``: its words, or ``count`` pieces of one size."""
    if count is None:
        return re.findall(r"\s*\S+|\s+$", text)
    size = max(1, -(-len(text) // count))
    return [text[at : at + size] for at in range(0, len(text), size)]


def _block(action: Action) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return a finished content block, and the deltas that fill an empty one."""
    block: dict[str, Any]
    if action.say is not None:
        block = {"type": "text", "text": action.say}
        pieces = _pieces(action.say, action.chunks)
        return block, [{"type": "text_delta", "text": piece} for piece in pieces]
    if action.think is not None:
        block = {"type": "thinking", "thinking": action.think, "signature": "c2lnbg=="}
        pieces = _pieces(action.think, action.chunks)
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return block, deltas
    tool_id = action.id or f"toolu_{uuid4().hex[:24]}"
    block = {"type": "tool_use", "id": tool_id, "name": action.tool}
    pieces = _pieces(json.dumps(action.input), action.chunks or TOOL_INPUT_CHUNKS)
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block | {"input": action.input}, deltas


def _message(request: Request, **rest: Any) -> dict[str, Any]:
    return {
        "id": f"msg_{uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": request.tokens, "output_tokens": 1},
    } | rest


def _stop_reason(actions: Sequence[Action]) -> str:
    return "tool_use" if any(action.tool for action in actions) else "end_turn"


def stream(actions: Sequence[Action], request: Request) -> Iterator[Event | float]:
    """Yield the answer's events, and between them the seconds to wait."""
    yield {"type": "message_start", "message": _message(request)}
    index, sent = 0, 1
    for action in actions:
        if action.pause is not None:
            yield action.pause
        elif action.raw is not None:
            yield action.raw
        elif action.fail_mid_stream is not None:
            yield error(action.fail_mid_stream, action.message)
            return
        else:
            block, deltas = _block(action)
            empty = {name: _EMPTY.get(name, value) for name, value in block.items()}
            at = {"index": index}
            yield {"type": "content_block_start", **at, "content_block": empty}
            for delta in deltas:
                yield {"type": "content_block_delta", **at, "delta": delta}
                if action.delay_s:
                    yield action.delay_s
            yield {"type": "content_block_stop", **at}
            index, sent = index + 1, sent + len(deltas)
    ending = {"stop_reason": _stop_reason(actions), "stop_sequence": None}
    usage = {"output_tokens": sent}
    yield {"type": "message_delta", "delta": ending, "usage": usage}
    yield {"type": "message_stop"}


def whole(actions: Sequence[Action], request: Request) -> dict[str, Any]:
    """Return the same answer in one piece, without its pauses and raw events."""
    spoken = [a for a in actions if (a.say, a.think, a.tool) != (None, None, None)]
    content = [_block(action)[0] for action in spoken]
    return _message(request, content=content, stop_reason=_stop_reason(actions))


def error(kind: str, message: str) -> dict[str, Any]:
    """Return an error as the API words it."""
    return {"type": "error", "error": {"type": kind, "message": message}}
