"""Capacity: that many real Claude Code sessions on this host, and what they cost.

    pytest bench/bench_capacity.py --sessions 30

starts a server, a model on loopback and 30 sessions with their CLI processes, each with
two subscribers; runs turns in all of them at once; and advises ``MAX_SESSIONS`` for
this host, from the memory and the CPU that it measured. Needs ``/proc``. 120 sessions
take 12 to 15 GB; what does not fit is refused. ``--benchmark-json FILE`` keeps the
figures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop
from msgspec import Struct
from pytest_benchmark.fixture import BenchmarkFixture

from webkit_asgi.scripted_model import cli_env

from .capacity import (
    MIB,
    Client,
    Clis,
    Memory,
    environment,
    percentiles,
    process,
    python_share_us,
    refusal,
)
from .clock_model import prompt
from .conftest import Found
from .streaming import REPOSITORY, cpu_s

HEADROOM = 1.5
"""Memory a session may grow by in long use, beyond what a few turns have shown."""

CPU_SHARE = 0.7
"""Share of the cores that steady work may take."""


class Load(Struct, frozen=True):
    """What is asked of the sessions."""

    sessions: int
    turns: int
    words: int
    words_per_s: float
    active: float


@pytest.fixture
def load(request: pytest.FixtureRequest, full: bool) -> Load:
    option = request.config.getoption
    sessions = option("--sessions") or (10 if full else 2)
    return Load(
        sessions,
        option("--turns") if full else 1,
        option("--words") if full else 10,
        option("--words-per-s"),
        option("--active"),
    )


class Figures(Struct):
    """What was measured."""

    connects_per_s: float
    create_s: tuple[float, float]
    first_word_s: tuple[float, float]
    delivery_s: tuple[float, float]
    connected: Clis
    worked: Clis
    server_before: Memory
    server_after: Memory
    cli_us: float
    server_us: float
    words: int


@pytest.mark.benchmark(group="capacity")
def bench_capacity(
    benchmark: BenchmarkFixture,
    found: Found,
    load: Load,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """See the module."""
    reason = refusal(load.sessions)
    if reason is not None:
        pytest.fail(reason, pytrace=False)

    def tell(what: str) -> None:
        with capsys.disabled():
            print(f"\r{what:<60}", end="", flush=True)

    figures: Figures = benchmark.pedantic(  # type: ignore[no-untyped-call]
        lambda: measure(load, tmp_path, tell), rounds=1
    )
    tell("")
    report(figures, load, found)


def measure(load: Load, work: Path, tell: Any) -> Figures:
    model = ["-m", "bench.clock_model"]
    server = ["-m", "uvicorn", "webkit_asgi:app", "--port", "0", "--no-access-log"]
    with process(model, environment(), REPOSITORY) as (_, model_url):
        env = environment(
            **cli_env(model_url, work),
            AGENT_WEBKIT_NO_AUTH="1",
            AGENT_WEBKIT_MAX_SESSIONS=str(load.sessions),
            AGENT_WEBKIT_IDLE_TIMEOUT_S="3600",
        )
        env.pop("AGENT_WEBKIT_AUTH_TOKEN", None)
        with process(server, env, work) as (pid, url):
            return uvloop.run(drive(load, pid, url, tell))


async def drive(load: Load, pid: int, url: str, tell: Any) -> Figures:
    client = Client(url)
    server_before = Memory.of(pid)
    connects_per_s = await client.create(load.sessions, tell)
    connected = Clis.below(pid)
    spent_s = cpu_s(pid)
    for turn in range(load.turns):
        tell(f"turn {turn + 1} of {load.turns} in {load.sessions} sessions")
        await client.turn(prompt(load.words, 1 / load.words_per_s))
    server_s = cpu_s(pid) - spent_s
    worked = Clis.below(pid)
    server_after = Memory.of(pid)
    words = load.sessions * load.turns * load.words
    assert len(client.words_s) == 2 * words, "a word was lost"
    tell(f"closing {load.sessions} sessions")
    await client.close()
    return Figures(
        connects_per_s,
        percentiles(client.create_s),
        percentiles(client.first_word_s),
        percentiles(client.words_s),
        connected,
        worked,
        server_before,
        server_after,
        (worked.cpu_s - connected.cpu_s) / words * 1e6,
        server_s / words * 1e6,
        words,
    )


def report(figures: Figures, load: Load, found: Found) -> None:
    def both(values_s: tuple[float, float]) -> str:
        return f"{values_s[0] * 1000:.0f} · {values_s[1] * 1000:.0f}"

    for name, clis in (("at connect", figures.connected), ("worked", figures.worked)):
        found(
            f"CLI memory {name}, MiB private · shared · fair share",
            f"{clis.private_mib:.0f} · {clis.shared_mib:.0f} · {clis.fair_mib:.0f}",
        )
    before, after = figures.server_before.private, figures.server_after.private
    found(
        "server memory, MiB, empty · with all sessions",
        f"{before / MIB:.0f} · {after / MIB:.0f}",
    )
    found("connects per second", f"{figures.connects_per_s:.1f}")
    found("create, ms p50 · p99", both(figures.create_s))
    found("first word, ms p50 · p99", both(figures.first_word_s))
    found("word to subscriber, ms p50 · p99", both(figures.delivery_s))
    sdk_us, ours_us = python_share_us()
    rest_us = figures.server_us - sdk_us - ours_us
    found(
        f"CPU per word, µs (turns of {load.words}, their start included):"
        " CLI · SDK · ours · loop, pipe and two sockets",
        f"{figures.cli_us:.0f} · {sdk_us:.0f} · {ours_us:.1f} · {rest_us:.0f}",
    )
    found("advised MAX_SESSIONS for this host", advice(figures, load))


def advice(figures: Figures, load: Load) -> str:
    """Return the number, and in one line why."""
    cores = os.cpu_count() or 1
    memory = psutil.virtual_memory()
    per_session = (
        figures.worked.fair_mib
        + (figures.server_after.private - figures.server_before.private)
        / MIB
        / load.sessions
    ) * HEADROOM
    by_memory = int(memory.total / MIB * 0.9 / per_session)
    per_active_s = (figures.cli_us + figures.server_us) / 1e6 * load.words_per_s
    by_cpu = int(cores * CPU_SHARE / (per_active_s * load.active))
    return (
        f"{min(by_memory, by_cpu)} (memory allows {by_memory}: {per_session:.0f} MiB a"
        f" session with {HEADROOM - 1:.0%} to grow in 90% of"
        f" {memory.total / MIB / 1024:.0f} GiB; CPU allows {by_cpu}: {cores} cores at"
        f" {CPU_SHARE:.0%}, {load.active:.0%} of the sessions streaming"
        f" {load.words_per_s:g} words a second)"
    )
