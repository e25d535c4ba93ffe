from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from webkit_core.process import (
    PROC,
    descendants,
    describe_exit,
    kill_group,
    kill_tree,
    private_bytes,
    start_time,
    terminate,
)

TREE = "sleep 600 & (sleep 600 & wait) & echo up; wait"


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[str]]:
    """A shell with a child, and a child that has one of its own."""
    with subprocess.Popen(
        ["bash", "-c", TREE],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        kill_group(process.pid)


def all_below(pid: int, count: int) -> list[psutil.Process]:
    """Return that many descendants, when they have been started."""
    while len(below := psutil.Process(pid).children(recursive=True)) < count:
        pass
    return below


def test_descendants_are_children_and_theirs(tree: subprocess.Popen[str]) -> None:
    below = all_below(tree.pid, 3)

    assert sorted(descendants(tree.pid)) == sorted(process.pid for process in below)


def test_kill_tree_leaves_nothing_alive(tree: subprocess.Popen[str]) -> None:
    below = all_below(tree.pid, 3)

    kill_tree(tree.pid)

    assert tree.wait(10) == -signal.SIGKILL
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_terminate_asks_the_process_itself(tree: subprocess.Popen[str]) -> None:
    all_below(tree.pid, 3)

    terminate(tree.pid)

    assert tree.wait(10) == -signal.SIGTERM


def test_process_that_is_gone_is_no_error() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()

    terminate(process.pid)
    kill_tree(process.pid)
    assert descendants(process.pid) == []
    assert private_bytes(process.pid) == 0


linux_only = pytest.mark.skipif(not PROC.is_dir(), reason="there is no /proc")


@linux_only
def test_private_bytes_are_what_is_resident_and_not_shared() -> None:
    resident = psutil.Process().memory_info().rss

    private = private_bytes(os.getpid())

    assert 1_000_000 < private < resident


HOLDER = """
import sys
held = b"x" * int(sys.argv[1])
print("up", flush=True)
sys.stdin.read()
"""


def private_bytes_holding(size: int) -> int:
    """The private memory of a process that holds so much."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return private_bytes(process.pid)


@linux_only
def test_private_bytes_are_those_of_the_process_asked_for() -> None:
    size = 64 * 1024 * 1024

    more = private_bytes_holding(size) - private_bytes_holding(1)

    assert more == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_private_bytes_of_a_process_that_never_was_are_none(pid: int) -> None:
    assert private_bytes(pid) == 0


# --- groups


def test_kill_tree_takes_the_group_that_a_process_leads() -> None:
    """What lost its parent is still in there."""
    code = "orphan=$(sleep 600 >&- & echo $!); echo $orphan; exec sleep 600"
    with subprocess.Popen(
        ["bash", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        orphan = psutil.Process(int(process.stdout.readline()))

        kill_tree(process.pid)

        assert psutil.wait_procs([orphan], timeout=10)[1] == []


def test_group_of_this_process_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("os.killpg", lambda group, _signal: killed.append(group))

    for pid in (os.getpgrp(), 0, 1):
        kill_group(pid)

    assert killed == []
    kill_group(4242)
    assert killed == [4242]


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_what_cannot_be_killed_is_no_error(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    asked: list[int] = []

    def refuse(pid: int, _signal: int) -> None:
        asked.append(pid)
        raise error

    monkeypatch.setattr("os.kill", refuse)
    monkeypatch.setattr("os.killpg", refuse)

    kill_tree(2**22 + 1)

    assert asked == [2**22 + 1] * 2


# --- when it started


@linux_only
def test_start_time_tells_processes_apart() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            assert start_time(os.getpid()) < start_time(process.pid)
            assert start_time(process.pid) == start_time(process.pid)
        finally:
            process.kill()


@linux_only
def test_process_that_is_only_waited_for_has_no_start_time() -> None:
    with subprocess.Popen(["true"]) as process:
        psutil_process = psutil.Process(process.pid)
        while psutil_process.status() != psutil.STATUS_ZOMBIE:
            pass
        assert start_time(process.pid) == 0


@linux_only
def test_start_time_is_read_past_a_name_with_parentheses(
    tmp_path: pathlib.Path,
) -> None:
    program = tmp_path / "a) Z (b"
    program.symlink_to(shutil.which("sleep") or "")
    with subprocess.Popen([program, "600"]) as process:
        try:
            assert start_time(process.pid) >= start_time(os.getpid())
        finally:
            process.kill()


def test_start_time_of_a_process_that_never_was_is_none() -> None:
    assert start_time(2**22 + 1) == 0


# --- how a process ended


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [
        (None, "the agent's process ended"),
        (0, "the agent's process exited with code 0"),
        (1, "the agent's process exited with code 1"),
        (130, "the agent's process exited with code 130"),
        (-9, "killed (SIGKILL"),
        (137, "killed (SIGKILL"),
        (-15, "killed (SIGTERM"),
        (143, "killed (SIGTERM"),
        (-11, "killed (SIGSEGV"),
    ],
)
def test_exit_is_described_in_words(exit_code: int | None, text: str) -> None:
    assert text in describe_exit(exit_code)


def test_exit_by_a_signal_without_a_name_is_described() -> None:
    """Real-time signals have numbers only."""
    assert "35" in describe_exit(-(signal.SIGRTMIN + 1))
