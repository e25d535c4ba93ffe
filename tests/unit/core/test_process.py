from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from webkit_core.process import PROC, descendants, kill_tree, private_bytes, terminate

TREE = "sleep 600 & (sleep 600 & wait) & echo up; wait"


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[str]]:
    """A shell with a child, and a child that has one of its own."""
    with subprocess.Popen(
        ["bash", "-c", TREE], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        for child in descendants(process.pid):
            os.kill(child, signal.SIGKILL)
        process.kill()


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
