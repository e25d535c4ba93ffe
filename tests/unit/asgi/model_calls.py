"""Calls of the Messages API, as Claude Code makes them, and an error of it."""

from __future__ import annotations

import json
from typing import Any

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png"}}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def result(content: object, **rest: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": content, **rest}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(words: str = "said") -> dict[str, Any]:
    return {"role": "assistant", "content": [text(words)]}


def body(*messages: dict[str, Any], streaming: bool | None = True) -> bytes:
    call = {"model": "claude-x", "messages": messages, "stream": streaming}
    return json.dumps(call | {"max_tokens": 9, "tools": []}).encode()
