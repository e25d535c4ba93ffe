"""Killing what carries a mark, or is in the session of a process that is gone.

What a program starts inherits its environment, and so the mark in it, wherever it
moves: to a session of its own, or to another parent. Reading the environment of every
process takes long, so that a thread does it, for everybody who waits at once.

Rules: nothing here raises; this process is spared whatever it carries. What cannot be
killed has been told. Where there is no ``/proc``, the process group alone is killed.

Source: proc(5), credentials(7). A program that clears its environment *and* starts a
session of its own is not found: a container around the server ends that one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Mapping
from typing import Final

from .process import PROC, kill_group, start_time

ROUNDS: Final = 10
"""How often to look again for what was started while we looked."""


def kill_marked(name: str, marks: Mapping[str, int | None]) -> int:
    """Kill every process that carries one of the marks; return how many. Blocks.

    Args:
        name: the variable that holds a mark.
        marks: the marks, each with the pid of the process that has led the session; its
            end has been taken notice of. None if that is not known.
    """
    if not PROC.is_dir():
        for leader in marks.values():
            if leader is not None:
                kill_group(leader)
        return 0
    killed: set[int] = set()
    for _ in range(ROUNDS):
        found = set(_marked(name, marks)) - killed
        for pid in found:
            _kill(pid)
        if not found:
            break
        killed |= found
    return len(killed)


def _marked(name: str, marks: Mapping[str, int | None]) -> list[int]:
    """Return the pids of all that carry one of the marks, or are in its session."""
    key = f"{name}=".encode()
    wanted = {key + os.fsencode(mark) for mark in marks}
    found: list[int] = []
    unmarked: list[int] = []
    for entry in os.listdir(PROC):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        try:
            environ = (PROC / entry / "environ").read_bytes()
        except OSError:  # gone, or somebody else's
            continue
        mark = environ[_begin_of(key, environ) :].partition(b"\0")[0]
        (found if mark in wanted else unmarked).append(int(entry))
    # A session's number is free only when nobody is left in it; one whose number has
    # been given to another program in the meantime is that program's.
    leaders = {pid for pid in marks.values() if pid is not None and not start_time(pid)}
    return found + [pid for pid in unmarked if _session_of(pid) in leaders]


def _begin_of(key: bytes, environ: bytes) -> int:
    if environ.startswith(key):
        return 0
    at = environ.find(b"\0" + key)
    return len(environ) if at < 0 else at + 1


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


class MarkedProcesses:
    """Kills by mark, in a thread; who asks while it looks is served by one next look.

    Args:
        name: the variable that holds a mark.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._wanted: dict[str, int | None] = {}
        self._looking = threading.Lock()

    async def kill(self, mark: str, leader: int | None) -> None:
        """Kill what carries ``mark``, or is in the session that ``leader`` has led.

        Cancelling the caller does not stop it.
        """
        self._wanted[mark] = leader
        await asyncio.to_thread(self._look_for, mark)

    def _look_for(self, mark: str) -> None:
        with self._looking:
            if mark in self._wanted:
                marks = self._wanted.copy()
                for served in marks:
                    self._wanted.pop(served, None)
                kill_marked(self._name, marks)
