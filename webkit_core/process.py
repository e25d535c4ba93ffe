"""Processes by their pid: ask one to end, kill one with all it has started.

Rules: nothing here waits or raises; what is gone is gone. Descendants are found
through ``/proc``; where there is none, a process and its group are killed. What has
moved to a session of its own and lost its parent is not found here but by its mark, see
:mod:`.marks`.
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
    """Kill a process, its group if it leads one, and what it has started."""
    below = descendants(pid)
    _signal(pid, signal.SIGKILL)
    kill_group(pid)
    for child in below:
        _signal(child, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Kill the process group that a process leads, or has led; none is no error."""
    if pid > 1 and pid != os.getpgrp():
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def start_time(pid: int) -> int:
    """Return when a process started, in ticks since the boot; 0 if that is not known.

    With its pid it names a process: the pid alone may be somebody else's by now. One
    that has ended and is only waited for has none.
    """
    try:
        stat = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0
    # The program's name is in parentheses, and may have some of its own.
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


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
