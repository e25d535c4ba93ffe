"""What stands in for an application whose configuration is wrong.

Importing must not fail with a traceback: the server shall stop with the one line that
says what to set. A server that runs without a lifespan gets 503 for everything, never
an application that lets everybody in.
"""

from __future__ import annotations

from webkit_core import ConfigError

from .exchange import Exchange
from .lifespan import run_lifespan
from .responses import error_response
from .types import Receive, Scope, Send


class Misconfigured:
    """An ASGI application that does not start, and says why."""

    def __init__(self, error: ConfigError) -> None:
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse to start, and every request."""
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send, self._refuse, self._refuse)
        elif scope["type"] == "http":
            exchange = Exchange(scope, receive, send)
            await error_response(self._error).answer(exchange)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1011})

    async def _refuse(self) -> None:
        raise self._error
