"""What a process writes to its standard error: the last lines of it, within bounds.

Read by ourselves, through a named pipe that the launcher opens: the SDK's reader ends
at the first byte that is not UTF-8, and the process hangs when the pipe is full.

Rules: a line is kept up to a length and the lines up to a number, however much comes;
what is not UTF-8 is replaced; reading never waits.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import Final

MAX_LINES: Final = 40
MAX_LINE_CHARS: Final = 500

_READ_BYTES: Final = 65_536
_READS: Final = 16
"""Reads at a time: a process that writes without end must not be read without end."""

_MAX_LINE_BYTES: Final = 4 * MAX_LINE_CHARS


class LastWords:
    """The end of one process's standard error. Belongs to the running loop.

    Args:
        pipe: the named pipe; it is there. None is a process that says nothing.
    """

    def __init__(self, pipe: Path | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._line = bytearray()
        self._fd = -1
        if pipe is not None:
            self._loop = asyncio.get_running_loop()
            self._fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            self._loop.add_reader(self._fd, self._read)

    def __str__(self) -> str:
        """Return the last lines, with what is there to be read."""
        self._drain()
        line = [self._text()] if self._line.strip() else []
        return "\n".join([*self._lines, *line][-MAX_LINES:])

    def close(self) -> None:
        """Read what is there, and no more, whoever still writes. Idempotent."""
        if self._fd >= 0:
            self._drain()
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _drain(self) -> None:
        for _ in range(_READS):
            if not self._read():
                break

    def _read(self) -> bool:
        """Take what is there; return whether there was anything."""
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self.feed(data)
        else:
            self._loop.remove_reader(self._fd)  # it would be readable for ever
        return bool(data)

    def feed(self, data: bytes) -> None:
        """Take what the process wrote."""
        *lines, rest = data.split(b"\n")
        # Lines before these would be dropped again at once.
        for line in lines[-MAX_LINES - 1 :]:
            self._take(line)
            if self._line.strip():
                self._lines.append(self._text())
            self._line.clear()
        self._take(rest)

    def _take(self, part: bytes) -> None:
        self._line += part[: _MAX_LINE_BYTES - len(self._line)]

    def _text(self) -> str:
        return self._line.decode(errors="replace").rstrip()[:MAX_LINE_CHARS]
