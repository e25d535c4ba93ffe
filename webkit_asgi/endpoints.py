"""One short function per route.

Rules: an endpoint decodes, calls the core, and returns an answer; it knows no status
codes but those of success. What goes wrong is raised.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Protocol

from webkit_core import (
    DEFAULT_DELTAS,
    PROTOCOL_VERSION,
    CursorError,
    Draining,
    InvalidInput,
    Session,
    SessionConfig,
    SessionRegistry,
    State,
    decode_create,
    decode_inbound,
)

from .exchange import Exchange
from .health import Readiness, Starting
from .metrics import CONTENT_TYPE, Metrics
from .responses import NO_CONTENT, Answer, Response, json_response
from .settings import Settings
from .stream import HEADERS, EventStream, OpenStreams


class Server(Protocol):
    """What endpoints need of the application."""

    registry: SessionRegistry
    settings: Settings
    streams: OpenStreams
    readiness: Readiness
    metrics: Metrics
    starting: bool

    def drain(self) -> asyncio.Future[None]:
        """Begin to drain; what is returned ends with the last session."""


async def health(server: Server, exchange: Exchange) -> Response:
    """``GET /healthz``: the process lives."""
    return json_response({"ok": True, "live_sessions": server.registry.live_count()})


async def ready(server: Server, exchange: Exchange) -> Response:
    """``GET /readyz``: new sessions may be sent here."""
    if server.starting:
        raise Starting
    if server.registry.draining:
        raise Draining
    return json_response({"ready": True, "checks": await server.readiness.run()})


async def scrape(server: Server, exchange: Exchange) -> Response:
    """``GET /metrics``."""
    text = await server.metrics.text()
    return Response(200, [(b"content-type", CONTENT_TYPE)], text)


async def drain(server: Server, exchange: Exchange) -> Response:
    """``POST /admin/drain``: take no new sessions; with ``?wait=1`` until all ended."""
    drained = server.drain()
    if exchange.query("wait") in (None, "", "0"):
        live = server.registry.live_count()
        return json_response({"draining": True, "live_sessions": live}, 202)
    await asyncio.wait({drained})
    return json_response({"draining": True, "live_sessions": 0})


async def create_session(server: Server, exchange: Exchange) -> Response:
    """``POST /sessions``."""
    wanted = decode_create(await exchange.body(server.settings.max_body_bytes))
    if wanted.cwd is not None:
        exists = await asyncio.to_thread(os.path.isdir, wanted.cwd)
        if not (exists and os.path.isabs(wanted.cwd)):
            raise InvalidInput("`cwd` is not the absolute path of a directory here")
    deltas = DEFAULT_DELTAS if wanted.deltas is None else frozenset(wanted.deltas)
    config = SessionConfig(
        model=wanted.model,
        permission_mode=wanted.permission_mode,
        cwd=wanted.cwd,
        deltas=deltas,
    )
    session = await exchange.unless_left(server.registry.create(config))
    return json_response(
        {"session_id": session.id, "protocol_version": PROTOCOL_VERSION},
        headers=[(b"location", exchange.url_of(session.id))],
    )


async def list_sessions(server: Server, exchange: Exchange) -> Response:
    """``GET /sessions``."""
    started = [s for s in server.registry if s.state is not State.STARTING]
    return json_response({"sessions": [describe(session) for session in started]})


async def show_session(server: Server, exchange: Exchange) -> Response:
    """``GET /sessions/{id}``."""
    return json_response(describe(server.registry.get(exchange.session_id)))


def describe(session: Session) -> dict[str, Any]:
    """Return what a client may know of a session."""
    log = session.log
    return {
        "session_id": session.id,
        "state": session.state,
        "created_at": session.created_at_s,
        "model": session.model,
        "permission_mode": session.permission_mode,
        "cwd": session.config.cwd,
        "cost_usd": session.cost_usd,
        "subscribers": session.subscribers,
        "queued_messages": session.queued,
        "oldest_event_id": log.oldest_seq,
        "last_event_id": log.last_seq,
        "buffered_bytes": log.held_bytes,
        "pending": [
            {"event": event.EVENT, "data": event}
            for event in (request.event() for request in session.pending)
        ],
        "error": session.failure,
    }


async def delete_session(server: Server, exchange: Exchange) -> Response:
    """``DELETE /sessions/{id}``."""
    await server.registry.remove(exchange.session_id)
    return NO_CONTENT


async def post_input(server: Server, exchange: Exchange) -> Response:
    """``POST /sessions/{id}/input``."""
    session = server.registry.get(exchange.session_id)
    subscriber_id = exchange.subscriber_id()
    body = await exchange.body(server.settings.max_body_bytes)
    await session.submit(decode_inbound(body), subscriber_id)
    return NO_CONTENT


async def stream(server: Server, exchange: Exchange) -> Answer:
    """``GET /sessions/{id}/stream``."""
    session = server.registry.get(exchange.session_id)
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
    )
