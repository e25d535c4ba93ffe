"""One short function per route.

Rules: an endpoint decodes, calls the core, and returns an answer; it knows no status
codes but those of success. What goes wrong is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from webkit_core import (
    DEFAULT_DELTAS,
    PROTOCOL_VERSION,
    CreateSession,
    CursorError,
    Draining,
    Session,
    SessionConfig,
    SessionRegistry,
    State,
    decode_create,
    decode_inbound,
)

from .answers import (
    DrainProgress,
    Health,
    Ready,
    SessionCreated,
    SessionList,
    describe,
)
from .exchange import Exchange
from .health import Readiness, Starting
from .idempotency import HEADER, Idempotency
from .metrics import CONTENT_TYPE, Metrics
from .open_streams import OpenStreams
from .openapi import document_response
from .policy import Policy
from .rates import Rates
from .responses import NO_CONTENT, Answer, Response, json_response
from .settings import Settings
from .stream import HEADERS, EventStream


class Server(Protocol):
    """What endpoints need of the application."""

    registry: SessionRegistry
    settings: Settings
    streams: OpenStreams
    policy: Policy
    input_rates: Rates
    idempotency: Idempotency
    readiness: Readiness
    metrics: Metrics
    starting: bool

    def drain(self) -> asyncio.Future[None]:
        """Begin to drain; what is returned ends with the last session."""


async def health(server: Server, exchange: Exchange) -> Response:
    """``GET /healthz``: the process lives."""
    return json_response(Health(True, server.registry.live_count()))


async def ready(server: Server, exchange: Exchange) -> Response:
    """``GET /readyz``: new sessions may be sent here."""
    if server.starting:
        raise Starting
    if server.registry.draining:
        raise Draining
    return json_response(Ready(True, await server.readiness.run()))


async def scrape(server: Server, exchange: Exchange) -> Response:
    """``GET /metrics``."""
    text = await server.metrics.text()
    return Response(200, [(b"content-type", CONTENT_TYPE)], text)


async def describe_api(server: Server, exchange: Exchange) -> Response:
    """``GET /openapi.json``."""
    return document_response(exchange.scope.get("root_path", ""))


async def drain(server: Server, exchange: Exchange) -> Response:
    """``POST /admin/drain``: take no new sessions; with ``?wait=1`` until all ended."""
    drained = server.drain()
    if exchange.query("wait") in (None, "", "0"):
        return json_response(DrainProgress(True, server.registry.live_count()), 202)
    await asyncio.wait({drained})
    return json_response(DrainProgress(True, 0))


async def create_session(server: Server, exchange: Exchange) -> Response:
    """``POST /sessions``."""
    body = await _body(server, exchange)

    async def create() -> Response:
        config = await _config(server, exchange, decode_create(body))
        session = await server.registry.create(config)
        return json_response(
            SessionCreated(session.id, PROTOCOL_VERSION),
            headers=[(b"location", exchange.url_of(session.id))],
        )

    if exchange.header(HEADER) is None:
        return await exchange.unless_left(create())
    # Whoever sends a key will ask again for what it did not hear.
    return await _once(server, exchange, body, create)


async def _config(
    server: Server, exchange: Exchange, wanted: CreateSession
) -> SessionConfig:
    """Return what a client wants as what it may have."""
    server.policy.check_mode(wanted.permission_mode)
    cwd = server.policy.default_directory
    if wanted.cwd is not None:
        cwd = await asyncio.to_thread(server.policy.directory, wanted.cwd)
    return SessionConfig(
        model=wanted.model,
        permission_mode=wanted.permission_mode,
        cwd=cwd,
        deltas=DEFAULT_DELTAS if wanted.deltas is None else frozenset(wanted.deltas),
        owner=exchange.principal.id,
    )


async def _body(server: Server, exchange: Exchange) -> bytearray:
    settings = server.settings
    return await exchange.body(settings.max_body_bytes, settings.body_timeout_s)


async def _once(
    server: Server,
    exchange: Exchange,
    body: bytearray,
    work: Callable[[], Coroutine[Any, Any, Response]],
) -> Response:
    """Do what was not done under this request's Idempotency-Key before."""
    scope = (exchange.principal.id, exchange.scope["method"], exchange.scope["path"])
    return await server.idempotency.once(scope, exchange.header(HEADER), body, work)


def _session(server: Server, exchange: Exchange) -> Session:
    """Return the session in the path, if it is there for whoever asks."""
    return server.registry.get(exchange.session_id, exchange.principal.id)


async def list_sessions(server: Server, exchange: Exchange) -> Response:
    """``GET /sessions``."""
    theirs = [
        describe(session)
        for session in server.registry
        if session.config.owner == exchange.principal.id
        and session.state is not State.STARTING
    ]
    return json_response(SessionList(theirs))


async def show_session(server: Server, exchange: Exchange) -> Response:
    """``GET /sessions/{id}``."""
    return json_response(describe(_session(server, exchange)))


async def delete_session(server: Server, exchange: Exchange) -> Response:
    """``DELETE /sessions/{id}``."""
    await server.registry.remove(exchange.session_id, exchange.principal.id)
    return NO_CONTENT


async def post_input(server: Server, exchange: Exchange) -> Response:
    """``POST /sessions/{id}/input``."""
    session = _session(server, exchange)
    server.input_rates.take(exchange.principal.id)
    subscriber_id = exchange.subscriber_id()
    body = await _body(server, exchange)

    async def submit() -> Response:
        message = decode_inbound(body)
        await server.policy.check_inbound(message)
        await session.submit(message, subscriber_id)
        return NO_CONTENT

    return await _once(server, exchange, body, submit)


async def stream(server: Server, exchange: Exchange) -> Answer:
    """``GET /sessions/{id}/stream``."""
    session = _session(server, exchange)
    server.streams.check_room()
    headers = [(b"x-subscriber-id", exchange.subscriber_id_or_new().encode())]
    cursor, log = exchange.cursor(), session.log
    if cursor is None:
        cursor = log.oldest_seq - 1
    else:
        try:
            log.check(cursor)
        except CursorError as error:
            session.telemetry.resume_refused(session.id, cursor, error.code)
            raise
        session.telemetry.resumed(session.id, cursor, log.last_seq - cursor)
    if exchange.scope["method"] == "HEAD":
        return Response(200, [*HEADERS, *headers])
    return EventStream(
        session,
        cursor,
        headers,
        keepalive_s=server.settings.keepalive_s,
        send_timeout_s=server.settings.send_timeout_s,
        among=server.streams,
        expires_at_s=exchange.principal.expires_at_s,
    )
