"""Streams over a real socket: ours beside the control, in the same run.

The control and the load are described in :mod:`bench.servers` and :mod:`bench.load`.
Both servers are measured in turn, and the median of the rounds is told; the ratios are
what counts, since the machine is never quite quiet.
"""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from .conftest import Found
from .streaming import Server, cpu_s, in_turn, loading, serving

ROUNDS = 3


def once(benchmark: BenchmarkFixture, work: Any) -> Any:
    """Run ``work`` once under the benchmark."""
    return benchmark.pedantic(work, rounds=1)  # type: ignore[no-untyped-call]


def beside(ours: float, control: float, digits: int = 1) -> str:
    """Return a figure beside the control's."""
    ratio = ours / control if control else float("nan")
    return f"{ours:.{digits}f} · control {control:.{digits}f} · ratio {ratio:.2f}"


@pytest.mark.benchmark(group="streaming")
def bench_steady(benchmark: BenchmarkFixture, found: Found, full: bool) -> None:
    """120 sessions, 2 subscribers each, 100 events a second each, for 10 s."""
    size = (ROUNDS, 120, 2, 100.0, 10.0) if full else (1, 4, 2, 100.0, 0.3)
    got = once(benchmark, lambda: in_turn(*size))
    ours, control = got["ours"], got["control"]
    found(
        "server CPU per frame, µs",
        beside(ours["cpu_us_per_frame"], control["cpu_us_per_frame"]),
    )
    found("delivery p50, ms", beside(ours["p50_ms"], control["p50_ms"]))
    found("delivery p99, ms", beside(ours["p99_ms"], control["p99_ms"]))
    found("frames lost, gaps", f"{ours['lost']:.0f}, {ours['gaps']:.0f}")
    assert ours["lost"] == 0


@pytest.mark.benchmark(group="streaming")
def bench_burst(benchmark: BenchmarkFixture, found: Found, full: bool) -> None:
    """One session, 3,000 events as fast as the loop turns, 50 subscribers."""
    size = (ROUNDS, 1, 50, 0, 3000) if full else (1, 1, 3, 0, 100)
    got = once(benchmark, lambda: in_turn(*size))
    ours, control = got["ours"], got["control"]
    found("frames per second", beside(ours["frames_per_s"], control["frames_per_s"], 0))
    found(
        "server CPU per frame, µs",
        beside(ours["cpu_us_per_frame"], control["cpu_us_per_frame"]),
    )
    found("peak memory grown, KiB", beside(ours["grown_kib"], control["grown_kib"], 0))
    found("frames lost, gaps", f"{ours['lost']:.0f}, {ours['gaps']:.0f}")
    # A burst of three times the buffer: whoever falls out of it is told, nobody skips.
    found("streams ended as evicted", f"{ours['evictions']:.0f}")


@pytest.mark.benchmark(group="streaming")
def bench_subscriber_memory(
    benchmark: BenchmarkFixture, found: Found, full: bool
) -> None:
    """What a subscriber costs in resident memory, at 2,000 of them."""
    count = 2000 if full else 50

    def cost(kind: str) -> float:
        with serving(kind) as server, loading(server, 1, 10) as warm:
            warm.report(0)
            before = server.ask("/memory")
            with loading(server, 1, count):
                return float((server.ask("/memory") - before) / count / 1024)

    ours, control = once(benchmark, lambda: (cost("ours"), cost("control")))
    found("KiB per subscriber", beside(ours, control))
    found("beyond the control's, KiB", f"{ours - control:.1f}")


@pytest.mark.benchmark(group="streaming")
def bench_session_memory(benchmark: BenchmarkFixture, found: Found, full: bool) -> None:
    """What a session costs beside its agent: with an empty log, and a full one."""
    count = 2000 if full else 50

    def cost() -> tuple[float, float]:
        with serving("ours") as server:
            first = server.ask("/memory?make=100")
            empty = server.ask(f"/memory?make={count + 100}")
            server.ask("/events?count=1000")
            filled = server.ask("/memory")
            return (
                (empty - first) / count / 1024,
                (filled - first) / (count + 100) / 1024,
            )

    empty_kib, full_kib = once(benchmark, cost)
    found("KiB per session, its scripted agent included", f"{empty_kib:.1f}")
    found("KiB per session with 1,000 events", f"{full_kib:.1f}")


@pytest.mark.benchmark(group="streaming")
def bench_slow_subscriber(
    benchmark: BenchmarkFixture, found: Found, full: bool
) -> None:
    """Subscribers that never read, while 100 MB are published to them and others."""
    events = 800_000 if full else 2000
    # About 125 bytes an event, in pieces that the readers keep up with.
    pieces = 80 if full else 1

    def measure(server: Server, stalled: int) -> dict[str, float]:
        with loading(server, 1, 5, stalled) as load:
            load.report(0)
            before, began_s = server.ask("/memory"), cpu_s(server.pid)
            worst = 0.0
            for _ in range(pieces):
                server.publish(1, 0, events / pieces)
                worst = max(worst, load.report(events // pieces * 5)["p99_ms"])
            return {
                "grown_kib": (server.ask("/memory") - before) / 1024,
                "p99_ms": worst,
                "cpu_s": cpu_s(server.pid) - began_s,
            }

    def both() -> tuple[dict[str, float], dict[str, float]]:
        with serving("ours") as server:
            return measure(server, 0), measure(server, 5)

    alone, beside_stalled = once(benchmark, both)
    found("memory grown, KiB", f"{beside_stalled['grown_kib']:.0f}")
    found(
        "worst p99 of the others, ms",
        f"{beside_stalled['p99_ms']:.0f} · without stalled ones {alone['p99_ms']:.0f}",
    )
