"""Imports run one way: values, pure machines, asyncio shell, edges."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.conformance.sources import PACKAGES, imports, modules

ORDER: Final = (
    # values
    "errors",
    "protocol",
    "agent",
    "limits",
    # pure machines
    "codec",
    "sse",
    "ring",
    "lifecycle",
    "assembly",
    "translate",
    "activity",
    # asyncio
    "tasks",
    "broadcast",
    "event_log",
    "permissions",
    "rules",
    "gauges",
    "telemetry",
    "tracing",
    "conversation",
    # processes and what is theirs
    "launcher",
    "environment",
    "process",
    "marks",
    "last_words",
    "private_dirs",
    "cli_process",
    "connecting",
    # the agent and its sessions
    "verbatim",
    "claude_errors",
    "claude_permissions",
    "claude",
    "ending",
    "turn_control",
    "owner",
    "session",
    "start_queue",
    "reaper",
    "departed",
    "census",
    "registry",
    "testing",
    # the public names
    "__init__",
)
"""Modules of webkit_core; each imports only those above it. A new one gets a line."""

PURE: Final = frozenset(
    {
        "errors",
        "protocol",
        "codec",
        "sse",
        "ring",
        "lifecycle",
        "assembly",
        "translate",
        "activity",
    }
)
"""Modules that know no task, no clock and no machine."""

IMPURE_LIBRARIES: Final = frozenset(
    {
        "anyio",
        "asyncio",
        "concurrent",
        "contextvars",
        "datetime",
        "io",
        "logging",
        "multiprocessing",
        "opentelemetry",
        "os",
        "pathlib",
        "random",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "uuid",
        "uvloop",
    }
)

HTTP_LIBRARIES: Final = frozenset(
    {"http", "httptools", "httpx", "starlette", "uvicorn"}
)

CORE: Final = modules("webkit_core")
EVERY_FILE: Final = [path for name in PACKAGES for path in modules(name).values()]
FILE_IDS: Final = [f"{path.parent.name}.{path.stem}" for path in EVERY_FILE]


def core_imports(path: Path) -> set[str]:
    """Names of the webkit_core modules a file imports."""
    return {
        name.partition(".")[2] or "__init__"
        for name in imports(path)
        if name.partition(".")[0] == "webkit_core"
    }


def libraries(path: Path) -> set[str]:
    """Top-level names of everything a file imports."""
    return {name.partition(".")[0] for name in imports(path)}


def test_order_names_every_module_of_the_core() -> None:
    assert set(CORE) <= set(ORDER)


@pytest.mark.parametrize("name", CORE)
def test_module_imports_only_from_above_it_in_the_order(name: str) -> None:
    above = set(ORDER[: ORDER.index(name)])

    assert core_imports(CORE[name]) <= above


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_module_imports_no_task_clock_or_machine(name: str) -> None:
    assert libraries(CORE[name]) & IMPURE_LIBRARIES == set()


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_module_imports_only_pure_modules(name: str) -> None:
    assert core_imports(CORE[name]) <= PURE


@pytest.mark.parametrize("name", CORE)
def test_core_knows_no_server_and_no_http(name: str) -> None:
    assert libraries(CORE[name]) & ({"webkit_asgi"} | HTTP_LIBRARIES) == set()


@pytest.mark.parametrize("path", EVERY_FILE, ids=FILE_IDS)
def test_only_the_claude_modules_import_the_sdk(path: Path) -> None:
    if path not in (CORE["claude"], CORE["claude_permissions"]):
        assert "claude_agent_sdk" not in libraries(path)


@pytest.mark.parametrize("path", EVERY_FILE, ids=FILE_IDS)
def test_no_package_imports_its_tests_or_benchmarks(path: Path) -> None:
    assert libraries(path) & {"tests", "bench", "pytest", "hypothesis"} == set()


def test_imports_are_found_wherever_they_stand() -> None:
    """The reader of imports itself, on a file whose imports are known."""
    assert {"__future__", "ast", "pathlib", "typing"} <= set(
        imports(Path(__file__).with_name("sources.py"))
    )
    assert {"errors", "sse", "ring"} <= core_imports(CORE["event_log"])
    assert core_imports(CORE["errors"]) == set()
