"""Private directories: one for each session's CLI, and nothing left of dead servers.

Below the state directory there is one directory per session,
``<server's pid>-<its start time>-<random>``: the CLI's configuration, its temporary
files, the pipe it writes standard error to, and the program that starts it. Its path is
also the mark of all that the CLI starts.

Rules: nobody else may write to the state directory, as what is in it is executed. A
directory belongs to a living server while that process lives or holds its lock: the
lock tells when servers cannot see each other's processes, as in containers.

Invariant: a directory is removed with its session, or by the next server that starts.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import launcher
from .environment import MARK
from .errors import AgentStartError
from .marks import kill_marked
from .process import start_time

_NAME: Final = re.compile(r"(?P<pid>\d+)-(?P<start>\d+)-\w+")
_SETTING: Final = "state_dir (AGENT_WEBKIT_STATE_DIR)"


class PrivateDir:
    """One session's directory. Everything in here blocks, for well below 1 ms."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stderr = path / "stderr"
        (path / "config").mkdir()
        (path / "tmp").mkdir()
        os.mkfifo(self.stderr)
        self._lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def write_program(self, names: str, cli: str) -> Path:
        """Write the program that becomes the CLI; return its path.

        Args:
            names: the variables it may see, see :mod:`.launcher`.
            cli: the program to become.

        Raises:
            AgentStartError: nothing in here may be executed.
        """
        program = self.path / "claude"
        command = [_python(), "-I", "-S", launcher.__file__, str(os.getpid()), names]
        command += [str(self.stderr), cli]
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        program.chmod(0o700)
        if not os.access(program, os.X_OK):
            raise AgentStartError(
                f"{self.path.parent} is on a file system that allows no execution; "
                f"set {_SETTING} to a directory elsewhere"
            )
        return program

    def remove(self) -> None:
        """Remove the directory with all that is in it. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class StateDir:
    """Where the private directories are.

    Args:
        path: None is a directory of this user's in the directory for temporary files.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        default = Path(tempfile.gettempdir()) / f"agent-webkit-{os.getuid()}"
        self.path = Path(path).absolute() if path else default

    async def make(self) -> PrivateDir:
        """Make a session's directory. Cancelling the caller leaves none.

        Raises:
            AgentStartError: there cannot be one; the text says why.
        """
        making = asyncio.ensure_future(asyncio.to_thread(self._make))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_dismiss)
            raise

    def sweep(self) -> int:
        """Kill what servers that are gone have left, remove its directories. Blocks.

        Returns how many directories that were.

        Raises:
            AgentStartError: the state directory cannot be used; the text says why.
        """
        self._check()
        dead = [path for path in self._directories() if not _server_lives(path)]
        if dead:
            kill_marked(MARK, {str(path): None for path in dead})
        for path in dead:
            shutil.rmtree(path, ignore_errors=True)
        return len(dead)

    def _make(self) -> PrivateDir:
        self._check()
        server = f"{os.getpid()}-{start_time(os.getpid())}-"
        try:
            return PrivateDir(Path(tempfile.mkdtemp(prefix=server, dir=self.path)))
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error

    def _directories(self) -> Sequence[Path]:
        with os.scandir(self.path) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]

    def _check(self) -> None:
        """Make the state directory if need be; refuse one that others may write to."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.lstat()
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        if not stat.S_ISDIR(found.st_mode):
            raise self._unusable("it is no directory of its own, but a link or a file")
        if found.st_uid != os.getuid():
            raise self._unusable("it belongs to somebody else")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise self._unusable("others may write to it")

    def _unusable(self, why: str) -> AgentStartError:
        return AgentStartError(
            f"cannot keep agents' files in {self.path}: {why}; "
            f"set {_SETTING} to a directory of this user's"
        )


def _server_lives(path: Path) -> bool:
    """Return whether the server that a directory belongs to is there."""
    named = _NAME.fullmatch(path.name)
    assert named is not None
    start = int(named["start"])
    if start and start_time(int(named["pid"])) == start:
        return True
    try:
        lock = os.open(path / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _python() -> str:
    """Return an interpreter: a server that embeds Python may not name its own."""
    found = sys.executable or shutil.which("python3")
    if not found:
        raise AgentStartError("there is no python3 to start agents with")
    return found


def _dismiss(making: asyncio.Task[PrivateDir]) -> None:
    if not making.cancelled() and making.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, making.result().remove)
