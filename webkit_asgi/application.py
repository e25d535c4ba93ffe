"""The ASGI callable: scope dispatch, authentication, the error boundary.

Rules: every request is answered once, whatever its endpoint does; what was not raised
on purpose is logged and told to nobody. The application works with and without a
lifespan, so that it can be mounted in another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from webkit_core import (
    ClaudeFactory,
    Deadlines,
    Limits,
    Policy as ToolPolicy,
    SdkFactory,
    SessionRegistry,
    WebkitError,
    import_sdk,
    telemetry_for,
)

from .auth import AuthConfig, Role
from .cors import Cors
from .drain import ShutdownSignal
from .exchange import ClientDisconnected, Exchange
from .health import Check, Readiness
from .idempotency import Idempotency
from .lifespan import run_lifespan
from .loop_lag import LoopLag
from .metrics import Metrics
from .open_streams import OpenStreams
from .peers import has_left
from .policy import Policy
from .rates import Rates
from .responses import Answer, NotFound, error_response
from .routes import ROLES, match
from .settings import Settings
from .types import Receive, Scope, Send

if TYPE_CHECKING:
    from .demo import Demo

logger = logging.getLogger(__name__)

LAST_WORDS_S: Final = 4.0
"""How long after the last session clients may take to read the end of their stream."""

FORCE_EXIT_S: Final = 2.0
"""How long after that a server may wait for whatever else it waits for."""


class Application:
    """The server; made by :func:`create_app`."""

    def __init__(
        self,
        auth: AuthConfig,
        settings: Settings,
        sdk_factory: SdkFactory | None,
        demo: Demo | None,
        *,
        deadlines: Deadlines | None = None,
        policy: ToolPolicy | None = None,
        checks: Mapping[str, Check] | None = None,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self.settings = settings
        self.starting = False
        self.streams = OpenStreams(settings.max_streams)
        self.policy = Policy(settings.cwd_root, settings.permission_modes)
        self.input_rates = Rates(settings.inputs_per_s)
        self.idempotency = Idempotency()
        self.metrics = Metrics(meter_provider)
        self.telemetry = telemetry_for(self.metrics.provider, tracer_provider)
        factory = demo or sdk_factory or _claude(settings)
        self.registry = SessionRegistry(
            factory,
            idle_timeout_s=settings.idle_timeout_s,
            max_sessions=settings.max_sessions,
            max_sessions_per_owner=settings.max_sessions_per_user,
            concurrent_starts=settings.concurrent_starts or None,
            start_queue_s=settings.start_queue_s,
            limits=Limits(
                buffer_events=settings.buffer_events,
                buffer_bytes=settings.buffer_bytes,
                queued_messages=settings.queued_messages,
            ),
            deadlines=deadlines
            or Deadlines(
                permission_s=settings.permission_timeout_s,
                turn_silence_s=settings.turn_silence_s,
                tool_silence_s=settings.tool_silence_s,
            ),
            policy=policy,
            telemetry=self.telemetry,
        )
        agent = {"agent": factory.check} if isinstance(factory, ClaudeFactory) else {}
        self.readiness = Readiness({**agent, **(checks or {})})
        self._auth = auth
        self._cors = Cors(settings.cors_origins)
        self._imports_sdk = demo is not None or isinstance(factory, ClaudeFactory)
        self._sweep = factory.sweep if isinstance(factory, ClaudeFactory) else None
        self._demo = demo
        self._loop_lag = LoopLag(self.telemetry.loop_lagged)
        self._signal = ShutdownSignal(self._on_signal)
        self._drained: asyncio.Future[None] | None = None
        self._leaving: set[asyncio.Future[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        match scope["type"]:
            case "http":
                exchange = Exchange(scope, receive, send)
                answer = await self._answer(exchange)
                if answer is not None:
                    # From here and not from deeper down: a stream is resumed for every
                    # event, through every coroutine that waits for it.
                    try:
                        await answer.answer(exchange)
                    except (OSError, RuntimeError) as error:
                        if not has_left(exchange.send, error):
                            raise
            case "lifespan":
                await run_lifespan(receive, send, self.startup, self.shutdown)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1003})
            case other:
                raise ValueError(f"unknown ASGI scope type {other!r}")

    # --- life

    @asynccontextmanager
    async def lifespan(self, _: object = None) -> AsyncIterator[None]:
        """Start up, and shut down in the end: for the lifespan of what mounts this."""
        await self.startup()
        try:
            yield
        finally:
            await self.shutdown()

    async def startup(self) -> None:
        """Prepare; what fails here stops the server from starting."""
        self.starting = True
        if self._demo is not None:
            self._demo.start()
        if self._imports_sdk:
            await import_sdk()
        if self._sweep is not None:
            await self._sweep()
        self.registry.start_reaper()
        self._loop_lag.start()
        self._signal.install()
        self.starting = False

    def drain(self) -> asyncio.Future[None]:
        """Take no new sessions, and end when those there are have come to their end.

        At the latest after ``settings.drain_timeout_s``. Idempotent; what is returned
        is done when the last agent is gone.
        """
        if self._drained is None:
            timeout_s = self.settings.drain_timeout_s
            logger.info(
                "draining: no new sessions, %d live; their end comes in %g s at most",
                self.registry.live_count(),
                timeout_s,
            )
            self._drained = asyncio.ensure_future(self._drain(timeout_s))
        return self._drained

    def stop(self) -> asyncio.Future[None]:
        """Drain without waiting for anybody: every stream gets its ``done`` now."""
        if self._drained is None:
            self._drained = asyncio.ensure_future(self._drain(0))
        elif not self._drained.done():
            self._keep(asyncio.ensure_future(self.registry.drain(0)))
        return self._drained

    async def shutdown(self) -> None:
        """End every session; return when all agents are gone."""
        drained = self.stop()
        self._signal.uninstall()
        await asyncio.wait({drained})
        self._loop_lag.stop()

    async def _drain(self, timeout_s: float) -> None:
        self.streams.going_away = True
        try:
            await self.registry.drain(timeout_s)
        finally:
            if self._demo is not None:
                self._demo.stop()

    def _on_signal(self, at_once: bool) -> None:
        if at_once:
            drained = self.stop()
        else:
            drained = self.drain()
            if not drained.done() and self.settings.drain_timeout_s:
                logger.info("a second signal ends them now")
        self._keep(asyncio.ensure_future(self._leave(drained)))

    async def _leave(self, drained: asyncio.Future[None]) -> None:
        """Let the server go when there is nothing left to wait for."""
        await asyncio.wait({drained})
        self._signal.release()
        loop = asyncio.get_running_loop()
        loop.call_later(LAST_WORDS_S, self.streams.give_up)
        loop.call_later(LAST_WORDS_S + FORCE_EXIT_S, self._signal.insist)

    def _keep(self, work: asyncio.Future[None]) -> None:
        self._leaving.add(work)
        work.add_done_callback(self._leaving.discard)

    # --- one request

    async def _answer(self, exchange: Exchange) -> Answer | None:
        """Return the answer to a request; None when nobody waits for it any more."""
        scope = exchange.scope
        try:
            exchange.extra_headers = self._cors.headers(exchange)
            if (preflight := self._cors.preflight(exchange)) is not None:
                return preflight
            path = _path_within(scope["path"], scope.get("root_path", ""))
            await self._authenticate(path, exchange)
            endpoint, exchange.session_id = match(scope["method"], path)
            self.registry.start_reaper()
            return await endpoint(self, exchange)
        except WebkitError as error:
            self.telemetry.refused(error.code)
            return error_response(error)
        except ClientDisconnected:
            return None
        except Exception:
            self.telemetry.refused(WebkitError.code)
            logger.exception("error in %s %s", scope["method"], quote(scope["path"]))
            return error_response(WebkitError("the server made a mistake"))

    async def _authenticate(self, path: str, exchange: Exchange) -> None:
        """Find out on whose behalf a request is made, and whether it may be."""
        role = ROLES.get(path, Role.USER)
        if role is Role.ANYBODY:
            return
        headers = exchange.headers()
        if role is Role.ADMIN and self._auth.has_admin:
            self._auth.check_admin(headers)
        elif role is Role.SCRAPER:
            self._auth.check_scraper(headers)
        else:
            exchange.principal = await self._auth.principal(headers)
            if role is Role.ADMIN:
                raise NotFound(f"no such path: {path}")


def _claude(settings: Settings) -> ClaudeFactory:
    names = [name.strip() for name in settings.agent_env.split(",")]
    return ClaudeFactory(
        state_dir=settings.state_dir or None, pass_env=[name for name in names if name]
    )


def _path_within(path: str, root_path: str) -> str:
    """Return a path as seen by an application that is mounted at ``root_path``.

    Servers differ in whether ``path`` has the mount point in front.
    """
    rest = path.removeprefix(root_path.rstrip("/"))
    return rest if rest.startswith("/") else path
