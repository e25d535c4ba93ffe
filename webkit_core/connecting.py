"""Connecting a client while its process is watched.

The SDK waits a minute for the first answer, also of a process that has ended well.

Rules: the SDK's clean-up is cancelled at most once, as a second time would leave the
process behind, and it goes on in a task of its own when whoever waits for it is gone.

Invariant: afterwards the client is connected, or the process has been killed and the
SDK has let go of it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from .cli_process import CliProcess
from .errors import AgentStartError
from .process import describe_exit
from .tasks import OwnedTasks, error_of

GRACE_S: Final = 1.0
"""How long the SDK may take to notice the end of a process, nobody being left who holds
its output open."""


async def connect(client: Any, process: CliProcess, tasks: OwnedTasks) -> None:
    """Connect, and fail when the process ends in the midst of it.

    Args:
        client: a ``ClaudeSDKClient``.
        process: of that client; what it left is killed, its files are not removed.
        tasks: keeps what goes on when the caller is cancelled.

    Raises:
        AgentStartError: the process ended, and the SDK does not notice.
        Exception: whatever the SDK raised.
    """
    connecting = tasks.spawn(client.connect())
    mute = tasks.spawn(process.mute())
    try:
        await asyncio.wait({connecting, mute}, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            process.kill()
            await process.kill_left()
            await asyncio.wait({connecting}, timeout=GRACE_S)
        if not connecting.done() or connecting.cancelled():
            raise AgentStartError(describe_exit(process.exit_code))
        if (error := connecting.exception()) is not None:
            raise error
    except BaseException:
        process.kill()
        connecting.cancel()
        await asyncio.shield(tasks.spawn(_give_up(client, connecting)))
        raise
    finally:
        mute.cancel()


async def _give_up(client: Any, connecting: asyncio.Task[None]) -> None:
    """Return when the SDK has cleaned up: soon, as the process is dead."""
    await asyncio.wait({connecting})
    if error_of(connecting) is None:  # it came up in the moment it was given up
        await client.disconnect()
