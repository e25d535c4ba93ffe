"""Processes by their pid: ask one to end, kill one with all it has started.

Rules: nothing here waits or raises; what is gone is gone. Descendants are found
through ``/proc``; where there is none, the process alone is killed. A program that has
moved to a session of its own and lost its parent is not found: a container or a control
group around the server is what ends that one.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def terminate(pid: int) -> None:
    """Ask a process to end, so that it can end what it has started."""
    _signal(pid, signal.SIGTERM)


def kill_tree(pid: int) -> None:
    """Kill a process and what it has started, the process first."""
    below = descendants(pid)
    _signal(pid, signal.SIGKILL)
    for child in below:
        _signal(child, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the pids of a process's children, their children, and so on."""
    found: list[int] = []
    for task in PROC.glob(f"{pid}/task/*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:  # the task has just ended
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def private_bytes(pid: int) -> int:
    """Return the memory that is a process's own, roughly; 0 where it is not known.

    Resident without what is shared with files and other processes: cheap to ask, and
    a few per cent above what the kernel would find page by page.
    """
    try:
        fields = (PROC / str(pid) / "statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def describe_exit(exit_code: int | None) -> str:
    """Say in words how a process ended."""
    if exit_code is None:
        return "the agent's process ended"
    number = -exit_code if exit_code < 0 else exit_code - 128
    if exit_code < 0 or number in (signal.SIGKILL, signal.SIGTERM):
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        why = ": out of memory, or by hand" if number == signal.SIGKILL else ""
        return f"the agent's process was killed ({name}{why})"
    return f"the agent's process exited with code {exit_code}"
