"""Drives a server and a load client, each in a process of its own, and measures.

CPU seconds are the server process's own, user and system, read from /proc around the
publication; memory is its resident set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RUNNING = "Uvicorn running on "


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """One of :mod:`bench.servers`, running."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.servers", kind],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if RUNNING in line:
                self.url = line.split(RUNNING)[1].split()[0]
                return
        raise RuntimeError(f"the {kind} server did not start")

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path) as response:
            return json.load(response)

    def publish(self, sessions: int, rate: float, seconds: float) -> int:
        query = f"sessions={sessions}&rate={rate}&seconds={seconds}"
        return int(self.ask(f"/publish?{query}"))


class Load:
    """:mod:`bench.load`, running."""

    def __init__(self, url: str, sessions: int, subscribers: int, stalled: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.load", url]
            + [str(number) for number in (sessions, subscribers, stalled)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready\n"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def report(self, frames: int) -> dict[str, Any]:
        """Return what was received, when it is that many frames."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"report {frames}\n")
        self.process.stdin.flush()
        told: dict[str, Any] = json.loads(self._line())
        return told


@contextmanager
def serving(kind: str) -> Iterator[Server]:
    server = Server(kind)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        assert server.process.stderr is not None
        server.process.stderr.close()


@contextmanager
def loading(
    server: Server, sessions: int, subscribers: int, stalled: int = 0
) -> Iterator[Load]:
    load = Load(server.url, sessions, subscribers, stalled)
    try:
        yield load
    finally:
        load.process.kill()
        load.process.communicate()


def peak_kib(pid: int) -> int:
    """Return the most memory that a process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def run(
    kind: str, sessions: int, subscribers: int, rate: float, seconds: float
) -> dict[str, float]:
    """Publish to all and return what it cost and how it arrived."""
    with serving(kind) as server, loading(server, sessions, subscribers) as load:
        warm = server.publish(sessions, 10, 0.2)
        load.report(warm * subscribers)
        resident_kib = server.ask("/memory") // 1024
        before_s = cpu_s(server.pid)
        began_ns = time.monotonic_ns()
        events = server.publish(sessions, rate, seconds)
        seen = load.report(events * subscribers)
        spent_s = cpu_s(server.pid) - before_s
        took_s = (seen["last_at_ns"] - began_ns) / 1e9
        assert seen["gaps"] == 0
        return {
            **seen,
            "lost": events * subscribers - seen["frames"],
            "cpu_us_per_frame": spent_s / max(1, seen["frames"]) * 1e6,
            "frames_per_s": seen["frames"] / took_s,
            "grown_kib": peak_kib(server.pid) - resident_kib,
        }


def in_turn(
    rounds: int, sessions: int, subscribers: int, rate: float, seconds: float
) -> dict[str, dict[str, float]]:
    """Run the control and ours alternately and return the median of each figure."""
    runs: dict[str, list[dict[str, float]]] = {"control": [], "ours": []}
    for _ in range(rounds):
        for kind, results in runs.items():
            results.append(run(kind, sessions, subscribers, rate, seconds))
    return {
        kind: {name: median(each[name] for each in results) for name in results[0]}
        for kind, results in runs.items()
    }
