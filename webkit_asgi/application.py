"""The ASGI callable: scope dispatch, authentication, the error boundary.

Rules: every request is answered once, whatever its endpoint does; what was not raised
on purpose is logged and told to nobody. The application works with and without a
lifespan, so that it can be mounted in another one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from webkit_core import (
    ClaudeFactory,
    Limits,
    SdkFactory,
    SessionRegistry,
    WebkitError,
    import_sdk,
)

from .auth import AuthConfig
from .drain import ShutdownSignal
from .exchange import ClientDisconnected, Exchange
from .lifespan import run_lifespan
from .responses import Answer, error_response
from .routes import PUBLIC, match
from .settings import Settings
from .types import Receive, Scope, Send

if TYPE_CHECKING:
    from .demo import Demo

logger = logging.getLogger(__name__)

FORCE_EXIT_S: Final = 4.0
"""How long after the last session a server may wait for its clients to hang up."""


class Application:
    """The server; made by :func:`create_app`."""

    def __init__(
        self,
        auth: AuthConfig,
        settings: Settings,
        sdk_factory: SdkFactory | None,
        demo: Demo | None,
    ) -> None:
        self.settings = settings
        self.stopping = False
        self.registry = SessionRegistry(
            demo or sdk_factory,
            idle_timeout_s=settings.idle_timeout_s,
            max_sessions=settings.max_sessions,
            limits=Limits(
                buffer_events=settings.buffer_events,
                buffer_bytes=settings.buffer_bytes,
                queued_messages=settings.queued_messages,
            ),
        )
        self._auth = auth
        self._imports_sdk = sdk_factory is None or isinstance(
            sdk_factory, ClaudeFactory
        )
        self._demo = demo
        self._signal = ShutdownSignal(self.stop)
        self._ending: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        match scope["type"]:
            case "http":
                exchange = Exchange(scope, receive, send)
                answer = await self._answer(exchange)
                if answer is not None:
                    # From here and not from deeper down: a stream is resumed for every
                    # event, through every coroutine that waits for it.
                    await answer.answer(exchange)
            case "lifespan":
                await run_lifespan(receive, send, self.startup, self.shutdown)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1003})
            case other:
                raise ValueError(f"unknown ASGI scope type {other!r}")

    # --- life

    async def startup(self) -> None:
        """Prepare; what fails here stops the server from starting."""
        if self._demo is not None:
            self._demo.start()
        if self._imports_sdk:
            await import_sdk()
        self.registry.start_reaper()
        self._signal.install()

    def stop(self) -> None:
        """Begin to end: no new sessions, every stream gets its ``done``. Idempotent."""
        if not self.stopping:
            self.stopping = True
            self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        await self.registry.shutdown()
        if self._demo is not None:
            self._demo.stop()
        # What a server still waits for then is clients that do not read their end.
        asyncio.get_running_loop().call_later(FORCE_EXIT_S, self._signal.insist)

    async def shutdown(self) -> None:
        """End every session; return when all agents are gone."""
        self.stop()
        self._signal.uninstall()
        if self._ending is not None:
            await asyncio.wait({self._ending})

    # --- one request

    async def _answer(self, exchange: Exchange) -> Answer | None:
        """Return the answer to a request; None when nobody waits for it any more."""
        scope = exchange.scope
        try:
            path = _path_within(scope["path"], scope.get("root_path", ""))
            if path not in PUBLIC:
                self._auth.check(exchange.header(b"authorization"))
            endpoint, exchange.session_id = match(scope["method"], path)
            self.registry.start_reaper()
            return await endpoint(self, exchange)
        except WebkitError as error:
            return error_response(error)
        except ClientDisconnected:
            return None
        except Exception:
            logger.exception("error in %s %s", scope["method"], scope["path"])
            return error_response(WebkitError("the server made a mistake"))


def _path_within(path: str, root_path: str) -> str:
    """Return a path as seen by an application that is mounted at ``root_path``.

    Servers differ in whether ``path`` has the mount point in front.
    """
    rest = path.removeprefix(root_path.rstrip("/"))
    return rest if rest.startswith("/") else path
