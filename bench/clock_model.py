"""A model whose every word is the time it was said at.

Speaks as much of the Messages API as the CLI needs, on loopback, in a process of its
own. A prompt that ends in ``clock: 200 0.02`` is answered by 200 words, one every
0.02 s, each the monotonic clock in nanoseconds: whoever reads it elsewhere on the host
knows how long it took to get there.

    python -m bench.clock_model
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from typing import Any, Final

import uvicorn

from webkit_asgi.types import Receive, Scope, Send

PACE: Final = re.compile(r"clock: (\d+) ([\d.]+)")


def prompt(words: int, pause_s: float) -> str:
    """Return the prompt that asks for so many words at that pace."""
    return f"clock: {words} {pause_s}"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    request = json.loads(body or b"{}")
    if not request.get("stream"):
        await _whole(request, send)
        return
    paces = PACE.findall(json.dumps(request["messages"]))
    words, pause_s = (int(paces[-1][0]), float(paces[-1][1])) if paces else (1, 0.0)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream")],
        }
    )

    async def say(event: dict[str, Any]) -> None:
        data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})

    await say({"type": "message_start", "message": _message(request, [])})
    block = {"type": "text", "text": ""}
    await say({"type": "content_block_start", "index": 0, "content_block": block})
    began = time.monotonic()
    for word in range(words):
        wait_s = began + word * pause_s - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        text = f" {time.monotonic_ns()}"
        delta = {"type": "text_delta", "text": text}
        await say({"type": "content_block_delta", "index": 0, "delta": delta})
    await say({"type": "content_block_stop", "index": 0})
    ending = {"stop_reason": "end_turn", "stop_sequence": None}
    usage = {"output_tokens": words}
    await say({"type": "message_delta", "delta": ending, "usage": usage})
    await say({"type": "message_stop"})
    await send({"type": "http.response.body", "body": b""})


async def _whole(request: dict[str, Any], send: Send) -> None:
    answer = _message(request, [{"type": "text", "text": "ok"}])
    body = json.dumps({**answer, "stop_reason": "end_turn", "input_tokens": 1}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _message(request: dict[str, Any], content: list[Any]) -> dict[str, Any]:
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": request.get("model", ""),
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1},
    }


if __name__ == "__main__":
    uvicorn.run(app, port=0, lifespan="off", access_log=False)
