"""Streams over a real socket: ours beside the control, in the same run.

The control and the load are described in :mod:`bench.servers` and :mod:`bench.load`.
Both servers are measured in turn, and the median of the rounds is told; the ratios are
what counts, since the machine is never quite quiet.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from webkit_core import encode_payload, sse

from .conftest import Found
from .events import MESSAGE_ID
from .streaming import Server, cpu_s, in_turn, loading, serving

ROUNDS = 3

FRAME_BYTES = len(
    sse.frame(
        1000,
        "message_delta",
        encode_payload(
            {"message_id": MESSAGE_ID, "delta": {"type": "text", "text": " word"}}
        ),
    )
)
"""A text delta of one word, as it is sent."""


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

    def cost() -> tuple[float, float, float]:
        with serving("ours") as server:
            nothing = server.ask("/memory?make=100")
            agents = server.ask(f"/agents?count={count}")
            empty = server.ask(f"/memory?make={count + 100}")
            server.ask("/events?count=1000")
            filled = server.ask("/memory")
            agent_kib = (agents - nothing) / count / 1024
            return (
                agent_kib,
                (empty - agents) / count / 1024 - agent_kib,
                (filled - agents) / (count + 100) / 1024 - agent_kib,
            )

    agent_kib, empty_kib, full_kib = once(benchmark, cost)
    found("KiB of a session with an empty log, beside its agent", f"{empty_kib:.1f}")
    found("KiB with 1,000 typical events", f"{full_kib:.1f}")
    found("of which the frames themselves", f"{1000 * FRAME_BYTES / 1024:.1f}")
    found("KiB of the scripted agent, left out of both", f"{agent_kib:.1f}")


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


@pytest.mark.benchmark(group="streaming")
def bench_resume_on_the_server(
    benchmark: BenchmarkFixture, found: Found, full: bool
) -> None:
    """A client comes back for the last 1,000 events, beside one that missed one."""
    times = 500 if full else 10

    def measure() -> tuple[float, float]:
        with serving("ours") as server:
            server.ask("/memory?make=1")
            server.ask("/events?count=998")

            def cost_ms(cursor: int) -> float:
                resume(server.url, cursor)
                before_s = cpu_s(server.pid)
                for _ in range(times):
                    resume(server.url, cursor)
                return (cpu_s(server.pid) - before_s) / times * 1000

            return cost_ms(0), cost_ms(998)

    thousand_ms, one_ms = once(benchmark, measure)
    found("server CPU per resume, ms, connection included", f"{thousand_ms:.2f}")
    found("of which for the events", f"{thousand_ms - one_ms:.2f}")


def resume(url: str, cursor: int) -> None:
    """Open a stream behind ``cursor`` and read to the last event, number 999."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"GET /sessions/0/stream HTTP/1.1\r\nHost: {host}\r\n"
            f"Last-Event-ID: {cursor}\r\n\r\n".encode()
        )
        tail = b""
        while b"id: 999\n" not in tail:
            tail = tail[-16:] + connection.recv(1 << 20)
