"""The packages as text: what the conformance tests read, without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("webkit_core", "webkit_asgi")


def modules(package: str) -> dict[str, Path]:
    """Dotted names within ``package`` to files; ``__init__`` of the top is itself."""
    directory = ROOT / package
    return {
        ".".join(path.relative_to(directory).with_suffix("").parts): path
        for path in sorted(directory.rglob("*.py"))
    }


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything a file imports, wherever in the file it does."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = parts[: len(parts) - node.level] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            # ``from . import sse`` names a module, ``from .sse import frame`` does not.
            names = [f"{base}.{alias.name}" for alias in node.names]
            submodules = [name for name in names if is_module(name)]
            yield from submodules
            if len(submodules) < len(names):
                yield base


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or package of this repository."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
