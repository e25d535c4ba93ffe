"""One subscriber's stream: replay, live, keepalive, disconnect, end.

One cursor loop does replay and live alike, so there is no seam to get wrong. What it
sends is a view of the log's own memory; a subscriber that is behind gets everything
it missed in one send.

Rules:

1. A subscriber holds a cursor and nothing else; a slow one delays nobody.
2. What it will never get, it is told: a last frame without an id, then the end.
3. ``send`` says nothing of a client that left, so a second task listens for that; and
   it may block for ever on one that does not read, so a timer watches it.

Invariant: the frames sent are numbers ``cursor+1, cursor+2, …`` without gap or repeat.
"""

from __future__ import annotations

import asyncio
import logging
from random import randint
from typing import Final

from webkit_core import EventLog, EvictedError, encode_payload, sse

from .types import Headers, Receive, Send

logger = logging.getLogger(__name__)

RETRY_MS: Final = (1000, 5000)
"""Clients reconnect after a time in this range: at random, so that those of one
server do not all come back in the same second."""

HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """See the module.

    Args:
        log: the events.
        cursor: the last event the subscriber has seen; it points into the log.
        keepalive_s: a comment is sent after so long a quiet.
        send_timeout_s: a subscriber that takes nothing for so long is given up.
    """

    __slots__ = (
        "_blocked_since_s",
        "_cursor",
        "_gone",
        "_keepalive_s",
        "_log",
        "_loop",
        "_ping_due",
        "_send_timeout_s",
        "_sent_at_s",
        "_stuck",
        "_subscriber",
        "_task",
        "_timer",
    )

    def __init__(
        self, log: EventLog, cursor: int, *, keepalive_s: float, send_timeout_s: float
    ) -> None:
        self._log = log
        self._cursor = cursor
        self._keepalive_s = keepalive_s
        self._send_timeout_s = send_timeout_s
        self._subscriber = log.subscriber()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._sent_at_s = self._loop.time()
        self._blocked_since_s: float | None = None
        self._ping_due = False
        self._gone = False
        self._stuck = False

    async def run(self, receive: Receive, send: Send, headers: Headers) -> None:
        """Send the stream until the log ends, the client leaves or falls behind."""
        watcher = self._loop.create_task(self._watch(receive))
        self._timer = self._loop.call_later(self._keepalive_s, self._tick)
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [*HEADERS, *headers],
                }
            )
            await self._send(send, sse.retry(randint(*RETRY_MS)))  # noqa: S311
            await self._deliver(send)
            if not self._gone:
                await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            if not self._stuck:
                raise
            logger.warning("a subscriber took nothing for too long and is given up")
        finally:
            self._gone = True
            self._timer.cancel()
            watcher.cancel()
            await asyncio.wait({watcher})

    async def _deliver(self, send: Send) -> None:
        log = self._log
        while not self._gone:
            try:
                data, cursor = log.read(self._cursor)
            except EvictedError as error:
                await self._send(send, _eviction(error))
                return
            if data:
                await self._send(send, data)
                self._cursor = cursor
            elif self._ping_due:
                await self._send(send, sse.KEEPALIVE)
            elif log.closed:
                return
            else:
                await self._subscriber.wait()

    async def _send(self, send: Send, data: bytes | memoryview) -> None:
        self._blocked_since_s = self._loop.time()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._blocked_since_s = None
        self._sent_at_s = self._loop.time()
        self._ping_due = False

    async def _watch(self, receive: Receive) -> None:
        """Wait for the client to leave."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._subscriber.wake()

    def _tick(self) -> None:
        """See to it that a quiet stream is kept alive and a blocked one given up."""
        now_s = self._loop.time()
        next_s = now_s + self._keepalive_s
        if self._blocked_since_s is not None:
            due_s = self._blocked_since_s + self._send_timeout_s
            if now_s >= due_s and self._task is not None:
                self._stuck = True
                self._task.cancel()
                return
        else:
            due_s = self._sent_at_s + self._keepalive_s
            if now_s >= due_s:
                self._ping_due = True
                self._subscriber.wake()
        if due_s > now_s:
            next_s = min(due_s, next_s)
        self._timer = self._loop.call_at(next_s, self._tick)


def _eviction(error: EvictedError) -> bytes:
    """Return the frame that tells a subscriber what it lost; it carries no id."""
    return sse.frame_without_id(
        "error",
        encode_payload(
            {
                "code": error.code,
                "message": str(error),
                "oldest": error.oldest,
                "last": error.last,
            }
        ),
    )
