"""How benches are told how much to do, and how they tell what they found.

Benches that run servers take their size from ``--scale``: ``full`` measures, ``smoke``
only shows that they run (the default under ``--benchmark-disable``, as in CI). What
they find besides a time goes into ``benchmark.extra_info``, hence into
``--benchmark-json``, and into a table at the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

_FINDINGS: list[tuple[str, str, str]] = []

Found = Callable[[str, str], None]
"""``found(what, figure)``: put a line into the table and into the JSON."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--scale",
        choices=("auto", "full", "smoke"),
        default="auto",
        help="how much the benches that run servers do",
    )
    capacity = parser.getgroup("capacity planning (bench_capacity.py)")
    capacity.addoption("--sessions", type=int, help="real sessions (default 10)")
    capacity.addoption("--turns", type=int, default=3, help="turns in each")
    capacity.addoption("--words", type=int, default=200, help="words of each turn")
    capacity.addoption(
        "--words-per-s", type=float, default=25.0, help="words a second of a turn"
    )
    capacity.addoption(
        "--active",
        type=float,
        default=0.25,
        help="share of sessions with a running turn, for the advice",
    )


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to measure, rather than only to show that it runs."""
    scale = request.config.getoption("--scale")
    disabled = bool(request.config.getoption("--benchmark-disable"))
    return scale == "full" or (scale == "auto" and not disabled)


@pytest.fixture
def found(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Found:
    """Return the function that notes a finding."""

    def note(what: str, figure: str) -> None:
        _FINDINGS.append((request.node.name, what, figure))
        benchmark.extra_info[what] = figure

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _FINDINGS:
        return
    terminalreporter.section("findings")
    width = max(len(what) for _, what, _ in _FINDINGS)
    name = ""
    for test, what, figure in _FINDINGS:
        if test != name:
            name = test
            terminalreporter.write_line(test)
        terminalreporter.write_line(f"  {what:<{width}}  {figure}")
