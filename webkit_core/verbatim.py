"""Prompts as they were written: text that the CLI would act upon stays text.

Rule: a prompt was composed by a program, on behalf of somebody who may not be trusted
with the server's files. A leading slash runs a command, ``@path`` reads that file
without asking; the CLI leaves both alone in a message that is marked.

Source: Claude Code 2.1.330, ``client_composed``; measured.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any


async def as_written(
    prompt: AsyncIterable[dict[str, Any]],
) -> AsyncIterator[dict[str, Any]]:
    """Yield the prompts, those marked that the CLI would act upon."""
    async for message in prompt:
        content = message["message"]["content"]
        texts = (
            (content,)
            if isinstance(content, str)
            else tuple(block.get("text", "") for block in content)
        )
        if any("@" in text or text.lstrip().startswith("/") for text in texts):
            yield {**message, "client_composed": True}
        else:
            yield message
