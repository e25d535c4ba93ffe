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
import time
from random import randint
from typing import Final

from webkit_core import (
    EvictedError,
    Sample,
    Session,
    encode_payload,
    sse,
)

from .exchange import Exchange
from .open_streams import OpenStreams
from .peers import abort, watch_peer
from .types import Headers, Receive, Send

logger = logging.getLogger(__name__)

RETRY_MS: Final = (1000, 5000)
"""Clients reconnect after a time in this range: at random, so that those of one
server do not all come back in the same second."""

RETRY_AFTER_DRAIN_MS: Final = (2000, 15_000)
"""The same, of a server that is going away."""

_NEVER: Final = 1 << 62
"""An event that does not come."""

_MAX_TIMER_S: Final = 86_400.0 * 30
"""Longest timer that every loop takes; a stream ends with it at the latest."""

TICKS_PER_KEEPALIVE: Final = 4
"""How often a stream is looked at: no clock is read when an event is sent, so a
keepalive comes up to one tick early, and a blocked stream is given up one late."""

HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """See the module.

    Args:
        session: whose events they are.
        cursor: the last event the subscriber has seen; it points into the log.
        headers: sent besides :data:`HEADERS`.
        keepalive_s: a comment is sent after so long a quiet.
        send_timeout_s: a subscriber that takes nothing for so long is given up.
        among: the streams of the server, of which this is one while it is open.
        expires_at_s: when what the client showed loses its force, as Unix time.
    """

    __slots__ = (
        "_among",
        "_cursor",
        "_expired",
        "_expires_at_s",
        "_gone",
        "_headers",
        "_keepalive_s",
        "_ping_due",
        "_same_ticks",
        "_sample",
        "_sample_seq",
        "_send_timeout_s",
        "_sending",
        "_sends",
        "_sends_seen",
        "_session",
        "_stuck",
        "_subscriber",
        "_task",
        "_tick_s",
        "_timer",
        "_was_sending",
    )

    def __init__(
        self,
        session: Session,
        cursor: int,
        headers: Headers,
        *,
        keepalive_s: float,
        send_timeout_s: float,
        among: OpenStreams,
        expires_at_s: float | None = None,
    ) -> None:
        self._session = session
        self._among = among
        self._expires_at_s = expires_at_s
        self._expired = False
        self._cursor = cursor
        self._headers = headers
        self._keepalive_s = keepalive_s
        self._send_timeout_s = send_timeout_s
        self._tick_s = min(keepalive_s / TICKS_PER_KEEPALIVE, send_timeout_s)
        self._subscriber = session.log.subscriber()
        self._same_ticks = 0
        self._sending = False
        self._was_sending = False
        self._sends = 0
        self._sends_seen = 0
        self._ping_due = False
        self._gone = False
        self._stuck = False
        self._sample: Sample | None = None
        self._sample_seq = _NEVER

    async def answer(self, exchange: Exchange) -> None:
        """Send the stream until the log ends, the client leaves or falls behind."""
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        watcher = loop.create_task(self._watch(exchange.receive))
        self._timer = loop.call_later(self._tick_s, self._tick, loop)
        send, read, log = exchange.send, self._session.log.read, self._session.log
        arm, traffic = self._subscriber.arm, self._session.traffic
        watch_peer(send, self._send_timeout_s)
        expiry = self._expiry(loop)
        self._among.add(self)
        try:
            with self._session.attached():
                await self._begin(exchange)
                while not (self._gone or self._expired):
                    try:
                        data, cursor = read(self._cursor)
                    except EvictedError as error:
                        self._session.telemetry.subscriber_evicted("fell_behind")
                        await self._send(send, _eviction(error))
                        break
                    if data:
                        # Once per event and subscriber: no coroutine in between.
                        self._sending = True
                        await send(
                            {
                                "type": "http.response.body",
                                "body": data,
                                "more_body": True,
                            }
                        )
                        self._sending = self._ping_due = False
                        self._sends += 1
                        traffic.bytes += len(data)
                        traffic.frames += cursor - self._cursor
                        self._cursor = cursor
                        if cursor >= self._sample_seq:
                            self._record_lag()
                    elif self._ping_due:
                        self._ping_due = False
                        await self._send(send, sse.KEEPALIVE)
                    elif log.closed:
                        break
                    else:
                        await arm()
            await self._end(send)
        except asyncio.CancelledError:
            if not self._is_given_up():
                raise
            await abort(send)
        finally:
            self._among.discard(self)
            self._timer.cancel()
            if expiry is not None:
                expiry.cancel()
            self._subscriber.disarm()
            watcher.cancel()

    def _expiry(self, loop: asyncio.AbstractEventLoop) -> asyncio.TimerHandle | None:
        """Return the timer that ends the stream with the token that opened it."""
        if self._expires_at_s is None:
            return None
        left_s = min(max(0.0, self._expires_at_s - time.time()), _MAX_TIMER_S)
        return loop.call_later(left_s, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._subscriber.wake()

    def give_up(self) -> None:
        """Drop the client, whatever it has not taken yet."""
        if not self._stuck and self._task is not None:
            self._stuck = True
            self._task.cancel()

    async def _begin(self, exchange: Exchange) -> None:
        """Send the first bytes: at once, so that nobody waits for the headers."""
        self._sending = True
        await exchange.send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [*HEADERS, *self._headers, *exchange.extra_headers],
            }
        )
        self._sends += 1
        await self._send(exchange.send, sse.retry(randint(*RETRY_MS)))  # noqa: S311

    async def _send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        self._sending = True
        await send({"type": "http.response.body", "body": data, "more_body": more})
        self._sending = False
        self._sends += 1

    async def _end(self, send: Send) -> None:
        if self._gone:
            return
        if self._expired:
            await self._send(send, _EXPIRED)
        if self._among.going_away:
            # They would all be back in the same second, at the server that is left.
            last_words = sse.retry(randint(*RETRY_AFTER_DRAIN_MS))  # noqa: S311
            await self._send(send, last_words)
        await self._send(send, b"", more=False)

    def _is_given_up(self) -> bool:
        """Return whether it was we who cancelled the request, and nobody else."""
        if not self._stuck or self._task is None or self._task.uncancel() > 0:
            return False
        self._session.telemetry.subscriber_evicted("took_nothing")
        logger.warning(
            "session %s: a subscriber takes nothing and is given up",
            self._session.id,
            extra={"session_id": self._session.id},
        )
        return True

    def _record_lag(self) -> None:
        """Record how long the event took whose time of append is known."""
        if self._sample is not None:
            self._session.telemetry.lagged(self._sample.age_s())
        self._sample, self._sample_seq = None, _NEVER

    async def _watch(self, receive: Receive) -> None:
        """Wait for the client to leave."""
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self._gone = True
            self._subscriber.wake()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that a quiet stream is kept alive and a blocked one given up.

        And that the way of one event is measured from one tick to the next.
        """
        if self._sample is None and not self._session.log.closed:
            self._sample = self._session.log.sample_next()
            self._sample_seq = self._sample.seq
        if self._sends != self._sends_seen or self._sending != self._was_sending:
            self._sends_seen, self._was_sending = self._sends, self._sending
            self._same_ticks = 0
        else:
            self._same_ticks += 1
        if not self._sending:
            # Up to a tick went by before the first quiet one was counted.
            if (self._same_ticks + 1) * self._tick_s >= self._keepalive_s:
                self._ping_due = True
                self._subscriber.wake()
        elif self._same_ticks * self._tick_s >= self._send_timeout_s:
            self.give_up()
            return
        self._timer = loop.call_later(self._tick_s, self._tick, loop)


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


_EXPIRED: Final = sse.frame_without_id(
    "error",
    encode_payload(
        {
            "code": "token_expired",
            "message": "the token that opened this stream has expired; come back with"
            " a new one and the last id",
        }
    ),
)
"""The frame that tells a subscriber why its stream ends; it carries no id."""
