"""One CLI's process: whether it lives and talks, its death, and what it leaves behind.

The SDK starts it and tells neither its pid nor its end: both are read where the SDK
keeps them. A child may hold the CLI's output open when the CLI is dead, and a CLI that
lives may have closed it; the SDK waits for ever in either case. So the process is
looked at, every so often, beside the messages.

Rules: a pid is used only until the process has been waited for; afterwards there is its
mark. Nothing waits here without an end.

Invariant: after :meth:`CliProcess.clean_up` nothing of it lives, and its directory is
gone, whether it ended, was killed, or never came up.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from .environment import MARK
from .last_words import LastWords
from .marks import MarkedProcesses
from .private_dirs import PrivateDir
from .process import kill_tree, terminate

LOOK_S: Final = 0.2
"""How late the end of a process is noticed whose output does not tell."""

OUTPUT_GRACE_S: Final = 2.0
"""How long a process may live on after its output: it may be writing its transcript."""

_marked: Final = MarkedProcesses(MARK)


class CliProcess:
    """See the module.

    Args:
        client: the ``ClaudeSDKClient`` that starts it, or has started it.
        directory: the process's own, removed in the end; None where it has none.
        words: what it writes to its standard error.
    """

    def __init__(
        self,
        client: Any,
        directory: PrivateDir | None = None,
        words: LastWords | None = None,
    ) -> None:
        self.words = words or LastWords()
        self._client = client
        self._directory = directory
        self._process: Any = None
        self._cleaning: asyncio.Task[None] | None = None

    @property
    def process(self) -> Any:
        """The SDK's process object, kept when the SDK drops it; None before it is."""
        if self._process is None:
            transport = getattr(self._client, "_transport", None)
            self._process = getattr(transport, "_process", None)
        return self._process

    @property
    def pid(self) -> int | None:
        """The process id; None before there is one."""
        return None if self.process is None else int(self.process.pid)

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it has not, and before it began."""
        return None if self.process is None else self.process.returncode

    @property
    def runs(self) -> bool:
        """Whether there is a process that has not ended."""
        return self.process is not None and self.exit_code is None

    @property
    def output_ended(self) -> bool:
        """Whether all that it will ever say has been read."""
        reader = getattr(getattr(self.process, "stdout", None), "_stream", None)
        return reader is not None and bool(reader.at_eof())

    def terminate(self) -> None:
        """Ask it to end, so that it ends what it has started. Never raises."""
        if self.runs and self.pid is not None:
            terminate(self.pid)

    def kill(self) -> None:
        """Kill it with its group and all below it. Never waits, never raises."""
        if self.runs and self.pid is not None:
            kill_tree(self.pid)

    async def gone(self) -> None:
        """Return when it has ended. Waits for its beginning, too."""
        while self.exit_code is None:  # noqa: ASYNC110  # nobody sets an event
            await asyncio.sleep(LOOK_S)

    async def mute(self) -> None:
        """Return when it has ended, or ended its output for longer than a while."""
        loop = asyncio.get_running_loop()
        mute_since: float | None = None
        while self.exit_code is None:
            if not self.output_ended:
                mute_since = None
            elif mute_since is None:
                mute_since = loop.time()
            elif loop.time() - mute_since > OUTPUT_GRACE_S:
                return
            await asyncio.sleep(LOOK_S)

    async def kill_left(self) -> None:
        """Kill what it has started and left behind, wherever that has moved."""
        if self._directory is not None:
            leader = None if self.runs else self.pid
            await _marked.kill(str(self._directory.path), leader)

    async def clean_up(self) -> None:
        """Kill it and what it left, remove its files. Idempotent.

        Cancelling the caller does not stop it.
        """
        if self._cleaning is None:
            self._cleaning = asyncio.ensure_future(self._clean_up())
        await asyncio.shield(self._cleaning)

    async def _clean_up(self) -> None:
        self.kill()
        try:
            await self.kill_left()
        finally:
            self.words.close()
            if self._directory is not None:
                await asyncio.to_thread(self._directory.remove)
