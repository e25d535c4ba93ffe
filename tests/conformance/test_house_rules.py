"""What holds for every module, whatever it does."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.sources import PACKAGES, ROOT, modules

MAX_LINES: Final = 350

LONGER: Final = {
    "webkit_core.protocol": "the whole wire in one file, type after type",
}
"""Modules that may be longer, each with the reason why it is better in one piece."""

NAMELESS: Final = frozenset({"base", "common", "helpers", "misc", "util", "utils"})
"""Names that say nothing about what is inside."""

TESTED_ELSEWHERE: Final = {
    "__init__": "holds names, no code",
    "limits": "holds defaults, no code",
}
"""Modules of webkit_core without a unit test file of their own, and why."""

FILES: Final = {
    f"{package}.{name}": path
    for package in PACKAGES
    for name, path in modules(package).items()
}


@pytest.mark.parametrize("name", FILES)
def test_module_is_short_enough_to_be_read(name: str) -> None:
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())

    assert lines <= MAX_LINES or name in LONGER


@pytest.mark.parametrize("name", FILES)
def test_module_name_says_what_is_inside(name: str) -> None:
    assert not NAMELESS & {part.strip("_") for part in name.split(".")}


@pytest.mark.parametrize("name", FILES)
def test_module_begins_with_its_purpose(name: str) -> None:
    assert ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", modules("webkit_core"))
def test_core_module_has_its_test_file_or_a_reason(name: str) -> None:
    tests = ROOT / "tests" / "unit" / "core" / f"test_{name.replace('.', '_')}.py"

    assert tests.is_file() or name in TESTED_ELSEWHERE
    assert not (tests.is_file() and name in TESTED_ELSEWHERE), "the reason is outdated"


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "tests" / "unit" / "core").glob("test_*.py")),
    ids=lambda path: path.stem,
)
def test_core_test_file_belongs_to_a_module(path: Path) -> None:
    assert path.stem.removeprefix("test_") in modules("webkit_core")
