from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil
import pytest

from webkit_core import marks as module
from webkit_core.marks import MarkedProcesses, kill_marked
from webkit_core.process import PROC

NAME = "WEBKIT_TEST_MARK"

pytestmark = pytest.mark.skipif(not PROC.is_dir(), reason="there is no /proc")

Start = Callable[..., psutil.Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that have come up when they are returned."""
    started: list[subprocess.Popen[bytes]] = []

    def up(mark: str, code: str = "echo up; exec sleep 600", **options: Any) -> Any:
        env = {"PATH": os.environ["PATH"], NAME: mark}
        process = subprocess.Popen(
            ["sh", "-c", code], **{"env": env, "stdout": subprocess.PIPE, **options}
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip().isalnum()
        return psutil.Process(process.pid)

    yield up
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def mark() -> str:
    return f"/state/{uuid.uuid4()}"


def alive(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=0.5)
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_what_carries_the_mark_is_killed_and_nothing_else(
    start: Start, mark: str
) -> None:
    mine = start(mark)
    others = [start(f"{mark}-2"), start(mark[:-1]), start("")]

    assert kill_marked(NAME, {mark: None}) == 1

    assert not alive(mine)
    assert all(other.is_running() for other in others)


def test_mark_in_another_variable_is_none(start: Start, mark: str) -> None:
    env = {"PATH": os.environ["PATH"], f"X{NAME}": mark, "Y": f"{NAME}={mark}"}
    other = start(mark, env=env)

    assert kill_marked(NAME, {mark: None}) == 0

    assert other.is_running()


def test_several_marks_take_one_look(start: Start, mark: str) -> None:
    found = [start(mark), start(f"{mark}-2")]

    assert kill_marked(NAME, {mark: None, f"{mark}-2": None}) == 2

    assert not any(alive(process) for process in found)


def test_what_has_a_session_of_its_own_is_killed(start: Start, mark: str) -> None:
    moved = start(mark, start_new_session=True)

    kill_marked(NAME, {mark: None})

    assert not alive(moved)


def leader_that_left_a_child(start: Start, mark: str) -> tuple[int, psutil.Process]:
    """A session's leader that has ended, and a child without its environment."""
    code = "env -i /bin/sh -c 'echo $$; exec /bin/sleep 600 >/dev/null' &"
    process = subprocess.Popen(
        ["sh", "-c", code],
        env={"PATH": os.environ["PATH"], NAME: mark},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    out, _ = process.communicate()
    return process.pid, psutil.Process(int(out))


def test_what_is_left_in_the_session_is_killed_without_a_mark(
    start: Start, mark: str
) -> None:
    leader, child = leader_that_left_a_child(start, mark)

    try:
        assert kill_marked(NAME, {mark: None}) == 0
        assert kill_marked(NAME, {mark: leader}) == 1
        assert not alive(child)
    finally:
        if child.is_running():
            child.kill()


def test_session_of_a_number_that_somebody_else_has_now_is_spared(
    start: Start, mark: str
) -> None:
    newcomer = start("theirs", start_new_session=True)

    assert kill_marked(NAME, {mark: newcomer.pid}) == 0

    assert newcomer.is_running()


def test_this_process_is_spared(mark: str) -> None:
    code = (
        "from webkit_core.marks import kill_marked\n"
        f"print(kill_marked({NAME!r}, {{{mark!r}: None}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, NAME: mark},
        check=True,
        capture_output=True,
    )

    assert done.stdout == b"0\n"


def test_what_is_started_while_we_look_is_found_by_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = [[1_000_001], [1_000_001, 1_000_002], [1_000_001, 1_000_002], [9]]
    killed: list[int] = []
    monkeypatch.setattr(module, "_marked", lambda _name, _marks: looks.pop(0))
    monkeypatch.setattr(module, "_kill", killed.append)

    assert kill_marked(NAME, {"m": None}) == 2

    assert killed == [1_000_001, 1_000_002]
    assert looks == [[9]]


def test_without_proc_the_group_is_killed(
    monkeypatch: pytest.MonkeyPatch, start: Start, mark: str
) -> None:
    leader, child = leader_that_left_a_child(start, mark)
    monkeypatch.setattr(module, "PROC", PROC / "none")

    kill_marked(NAME, {mark: leader})

    assert not alive(child)


async def test_who_waits_while_it_looks_is_served_by_one_more_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[set[str]] = []
    looking, go = threading.Event(), threading.Event()

    def look(_name: str, marks: Mapping[str, int | None]) -> int:
        looks.append(set(marks))
        looking.set()
        assert go.wait(10)
        return 0

    monkeypatch.setattr(module, "kill_marked", look)
    marked = MarkedProcesses(NAME)
    first = asyncio.ensure_future(marked.kill("one", None))
    assert await asyncio.to_thread(looking.wait, 10)
    others = [asyncio.ensure_future(marked.kill(mark, None)) for mark in "abc"]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *others)

    assert looks == [{"one"}, {"a", "b", "c"}]
