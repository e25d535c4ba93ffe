"""A scripted model: as much of the Anthropic Messages API as Claude Code needs.

Point the real CLI at it (:func:`cli_env`) and it runs whole turns without an account;
what it says is in the prompt, see :mod:`webkit_asgi.model_script`.

Rules: nothing is kept between calls; who hangs up ends the stream at once; a server in
a thread leaves signals and logs of its process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn

from .model_script import (
    Action,
    Event,
    Fallback,
    Request,
    Script,
    echo,
    error,
    plan,
    read,
    script,
    stream,
    whole,
)
from .types import Message, Receive, Scope, Send

__all__ = (
    "Action",
    "Fallback",
    "Request",
    "Script",
    "ScriptedModel",
    "cli_env",
    "plan",
    "read",
    "script",
    "serve_in_thread",
    "stream",
    "whole",
)

FLUSH_BYTES: Final = 65_536
"""Frames that no pause divides leave in one write, up to about this size."""


class ScriptedModel:
    """The ASGI app.

    Attributes:
        requests_seen: how many calls to the model came so far.
        open_streams: how many answers are under way.
    """

    def __init__(
        self,
        fallback: Fallback = echo,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.requests_seen = 0
        self.open_streams = 0
        self._fallback = fallback
        self._sleep = sleep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the server's start and stop."""
        if scope["type"] == "lifespan":
            for moment in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{moment}.complete"})
            return
        body = await _body(receive)
        match scope["method"], scope["path"]:
            case "POST", "/v1/messages":
                self.requests_seen += 1
                await _unless_hung_up(receive, self._messages(body, send))
            case "POST", "/v1/messages/count_tokens":
                await _json(send, 200, {"input_tokens": len(body) // 4 + 1})
            case "GET" | "HEAD", "/":
                await _json(send, 200, {"status": "ok"})
            case method, path:
                await _refuse(send, 404, "not_found_error", f"no {method} {path} here")

    async def _messages(self, body: bytes, send: Send) -> None:
        try:
            request = read(body)
            actions = plan(request, self._fallback)
        except ValueError as wrong:
            await _refuse(send, 400, "invalid_request_error", str(wrong))
            return
        for action in actions:
            if action.fail is not None:
                await _refuse(send, action.fail, action.type, action.message)
                return
            if action.fail_mid_stream is not None and not request.streaming:
                await _refuse(send, 500, action.fail_mid_stream, action.message)
                return
        if not request.streaming:
            await _json(send, 200, whole(actions, request))
            return
        self.open_streams += 1
        try:
            await self._stream(stream(actions, request), send)
        finally:
            self.open_streams -= 1

    async def _stream(self, events: Iterator[Event | float], send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        frames = bytearray()
        for event in events:
            if isinstance(event, dict):
                name, data = event["type"].encode(), msgspec.json.encode(event)
                frames += b"event: %b\ndata: %b\n\n" % (name, data)
                if len(frames) < FLUSH_BYTES:
                    continue
            await send(_chunk(bytes(frames), more=True))
            frames.clear()
            await self._sleep(0.0 if isinstance(event, dict) else event)
        await send(_chunk(bytes(frames), more=False))


def _chunk(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _json(send: Send, status: int, data: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send(_chunk(msgspec.json.encode(data), more=False))


async def _refuse(send: Send, status: int, kind: str, message: str) -> None:
    await _json(send, status, error(kind, message))


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _unless_hung_up(
    receive: Receive, answering: Coroutine[Any, Any, None]
) -> None:
    """Run ``answering`` to its end, or until the client is gone."""
    answer = asyncio.ensure_future(answering)
    hang_up = asyncio.ensure_future(receive())  # all there is left to receive
    try:
        await asyncio.wait((answer, hang_up), return_when=asyncio.FIRST_COMPLETED)
    finally:
        unfinished = [task for task in (answer, hang_up) if task.cancel()]
        await asyncio.gather(*unfinished, return_exceptions=True)
    if not answer.cancelled():
        answer.result()


class _Server(uvicorn.Server):
    """Hangs up at shutdown: nobody waits for the end of a scripted pause."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def _server(app: Any) -> _Server:
    # uvicorn's own switches for its logs act on the whole process: the server that a
    # demo is about would fall silent with this one. Hence no switch here, and `_Hush`.
    return _Server(uvicorn.Config(app, lifespan="off", ws="none", log_config=None))


class _Hush(logging.Filter):
    """Keeps what one thread's server tells about itself out of the logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.threadName != self.name


@contextmanager
def _hushed(thread: str) -> Iterator[None]:
    hush = _Hush(thread)
    loggers = [logging.getLogger(f"uvicorn.{name}") for name in ("error", "access")]
    for logger in loggers:
        logger.addFilter(hush)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(hush)


def _listen(port: int) -> tuple[socket.socket, str]:
    # Listening before the loop runs: whoever connects early waits in the backlog.
    listener = socket.create_server(("127.0.0.1", port), backlog=256)
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serve_in_thread(app: Any) -> Iterator[str]:
    """Serve an ASGI app on a free loopback port; yield its base URL.

    It has a thread and an event loop of its own and touches no signal handlers. Leaving
    cuts the streams that are still open, and blocks for about 0.2 s.
    """
    listener, base_url = _listen(0)
    server = _server(app)
    name = f"scripted-model {base_url}"
    thread = threading.Thread(
        target=server.run, args=([listener],), name=name, daemon=True
    )
    with _hushed(name):
        thread.start()
        try:
            yield base_url
        finally:
            server.should_exit = True
            thread.join()


def cli_env(base_url: str, home: str | Path) -> dict[str, str]:
    """Return the environment that points a Claude Code CLI at a scripted model.

    It goes on top of the process's own, hence the empty ones: an account or another
    provider that is set there must not win. ``home`` is best a fresh directory.
    """
    return {
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_API_KEY": "scripted",
        "ANTHROPIC_AUTH_TOKEN": "",
        "CLAUDE_CODE_OAUTH_TOKEN": "",
        "CLAUDE_CODE_USE_BEDROCK": "",
        "CLAUDE_CODE_USE_VERTEX": "",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(Path(home) / ".claude"),
        "NO_PROXY": "127.0.0.1",
    }


def main() -> None:
    """Serve until a signal comes; the first line of output is the base URL."""
    parser = argparse.ArgumentParser(prog="python -m webkit_asgi.scripted_model")
    parser.add_argument("--port", type=int, default=0, help="0 is a free one")
    listener, base_url = _listen(parser.parse_args().port)
    sys.stdout.write(base_url + "\n")
    sys.stdout.flush()
    _server(ScriptedModel()).run([listener])


if __name__ == "__main__":
    main()
