from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from webkit_core.verbatim import as_written

PICTURE = {"type": "image", "source": {"type": "base64", "data": "@/etc/passwd"}}


@pytest.mark.parametrize(
    ("content", "marked"),
    [
        ("hello", False),
        ("1/2 or and/or", False),
        ("/clear", True),
        ("  \n/compact now", True),
        ("read @/etc/passwd", True),
        ("mail me@example.org", True),
        ([{"type": "text", "text": "hello"}], False),
        ([{"type": "text", "text": "/clear"}], True),
        ([{"type": "text", "text": "hello"}, {"type": "text", "text": "/clear"}], True),
        ([PICTURE], False),
        ([PICTURE, {"type": "text", "text": "@x"}], True),
    ],
)
async def test_prompt_is_marked_only_when_the_cli_would_act_upon_its_text(
    content: Any, marked: bool
) -> None:
    prompt = {"type": "user", "message": {"role": "user", "content": content}}

    async def prompts() -> AsyncIterator[dict[str, Any]]:
        yield prompt

    (written,) = [message async for message in as_written(prompts())]

    assert written == prompt | ({"client_composed": True} if marked else {})
