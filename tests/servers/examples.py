"""The servers and frameworks of the README, as the README says to run them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.readme.blocks import BLOCKS, python_block

MODULE: Final = "asgi.py"
"""What the README calls the file with an example's program."""

ANY_PORT: Final = {
    "uvicorn": ("--port", "0"),
    "hypercorn": ("--bind", "127.0.0.1:0"),
    "granian": ("--port", "0"),
}


class Example(Struct, frozen=True):
    """One way to serve: a command, and the program it serves, if that is not ours."""

    name: str
    command: tuple[str, ...]
    program: str = ""
    mount: str = ""

    def with_options(self, name: str, *options: str) -> Example:
        """Return the same with options that override those of the README."""
        return Example(name, (*self.command, *options), self.program, self.mount)


def marked(mark: str) -> str:
    """Return the code of the README's block with that mark."""
    (block,) = (b for b in BLOCKS if b.mark == mark)
    return block.code


def parse_command(code: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables a shell command sets, and its words.

    Programs of the README's virtual environment are those of the one we run in.
    """
    words = [_program(word) for word in shlex.split(code.replace("\\\n", " "))]
    first = next(n for n, word in enumerate(words) if word.startswith("/"))
    variables = dict(word.split("=", 1) for word in words[:first])
    return variables, tuple(words[first:])


def _program(word: str) -> str:
    name = word.removeprefix(".venv/bin/")
    return word if name == word else str(Path(sys.executable).with_name(name))


def on_any_port(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command of the README, told to listen on a free loopback port."""
    program = next(n for n in ANY_PORT if any(Path(w).name == n for w in command))
    return (*command, *ANY_PORT[program])


def _served(mark: str) -> tuple[str, ...]:
    variables, command = parse_command(marked(f"serve: {mark}"))
    assert not variables
    return on_any_port(command)


def _example(
    name: str, served: str = "", program: str = "", mount: str = ""
) -> Example:
    code = python_block(program) if program else ""
    return Example(name, _served(served or name), code, mount)


UVICORN: Final = Example(
    "uvicorn", on_any_port(parse_command(".venv/bin/uvicorn webkit_asgi:app")[1])
)
HYPERCORN: Final = _example("hypercorn", program="hypercorn")
HYPERCORN_WORKER: Final = HYPERCORN.with_options("hypercorn-worker", "--workers", "1")
GRANIAN: Final = _example("granian")
STARLETTE: Final = _example("starlette", "mounted", "starlette", "/agents")
FASTAPI: Final = _example("fastapi", "mounted", "fastapi", "/agents")

EXAMPLES: Final = (UVICORN, HYPERCORN, GRANIAN, STARLETTE, FASTAPI)


def name_of(example: Example) -> str:
    return example.name
