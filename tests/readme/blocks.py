"""The README, taken apart: its code blocks and tables."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

README = (Path(__file__).parents[2] / "README.md").read_text()

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL
)


class Block(Struct, frozen=True):
    """A code block; ``mark`` is the comment before it."""

    mark: str
    language: str
    code: str


BLOCKS = [
    Block(found["mark"] or "", found["language"], found["code"])
    for found in _BLOCK.finditer(README)
]


def python_block(name: str) -> str:
    """Return the Python block marked ``python: name``."""
    (block,) = (b for b in BLOCKS if b.mark == f"python: {name}")
    return block.code


def table_rows(first_header: str) -> list[list[str]]:
    """Return the cells of the table whose first column has that header."""
    lines = README.splitlines()
    start = next(i for i, s in enumerate(lines) if s.startswith(f"| {first_header} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
