"""The ASGI lifespan protocol: start up, shut down, say so.

Source: ASGI 3.0, Lifespan Protocol. Rule: a start-up that fails says why and stops the
server; servers that find the protocol unsupported would go on without having started.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from webkit_core import WebkitError

from .types import Receive, Send

logger = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None]]


async def run_lifespan(
    receive: Receive, send: Send, startup: Step, shutdown: Step
) -> None:
    """Serve a lifespan scope from its start to its end."""
    await receive()
    if not await _report("startup", startup, send):
        return
    await receive()
    await _report("shutdown", shutdown, send)


async def _report(name: str, step: Step, send: Send) -> bool:
    try:
        await step()
    except WebkitError as error:
        await send({"type": f"lifespan.{name}.failed", "message": str(error)})
        return False
    except Exception as error:
        logger.exception("%s failed", name)
        await send({"type": f"lifespan.{name}.failed", "message": str(error)})
        return False
    await send({"type": f"lifespan.{name}.complete"})
    return True
