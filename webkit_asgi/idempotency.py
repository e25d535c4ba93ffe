"""Idempotency-Key: a request that is sent twice has its effect once.

A client that lost its connection cannot know whether its request was heard. With a key
of its own choosing it asks again, and gets the answer of the first time.

Rules: a key belongs to its principal, method and path, and to one body; it is
remembered for a bounded time, and so are only so many; what failed is not remembered,
so that it can be tried again. Two at the same time have one effect and one answer.

Source: IETF draft-ietf-httpapi-idempotency-key-header-06, without its 409: a request
whose first copy is still at work waits for that one's answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from webkit_core import InvalidInput

from .responses import KeyReused, Response

HEADER: Final = b"idempotency-key"
MAX_KEY_CHARS: Final = 255
REMEMBERED_S: Final = 3600.0
MAX_REMEMBERED: Final = 10_000

_REPLAYED: Final = (b"idempotency-replayed", b"true")


class _Kept(Struct, frozen=True):
    fingerprint: bytes
    answer: asyncio.Future[Response]
    until_s: float


class Idempotency:
    """What has been asked with a key, and the answers. Belongs to one event loop.

    Args:
        clock: monotonic seconds; tests give their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[tuple[str, ...], _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def once(
        self,
        scope: tuple[str, ...],
        key: bytes | None,
        body: bytes | bytearray,
        work: Callable[[], Coroutine[Any, Any, Response]],
    ) -> Response:
        """Do ``work`` unless it was done, or is being done, under this key.

        Args:
            scope: what a key is unique within: principal, method, path.
            key: the header's value; without one the work is done.
            body: the request's body.
            work: makes the answer. It is not cancelled with the caller if others wait.

        Raises:
            KeyReused: the key came with another body before.
            InvalidInput: the key is empty or too long.
            WebkitError: what ``work`` raised.
        """
        if key is None:
            return await work()
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise InvalidInput(f"Idempotency-Key must be 1 to {MAX_KEY_CHARS} bytes")
        self._forget_old()
        name = (*scope, key.decode("latin-1"))
        fingerprint = hashlib.sha256(body).digest()
        kept = self._kept.get(name)
        if kept is None:
            return await asyncio.shield(self._begin(name, fingerprint, work()))
        if kept.fingerprint != fingerprint:
            raise KeyReused
        answer = await asyncio.shield(kept.answer)
        return replace(answer, headers=[*answer.headers, _REPLAYED])

    def _begin(
        self,
        name: tuple[str, ...],
        fingerprint: bytes,
        work: Coroutine[Any, Any, Response],
    ) -> asyncio.Future[Response]:
        answer = asyncio.ensure_future(work)
        until_s = self._clock() + REMEMBERED_S
        self._kept[name] = _Kept(fingerprint, answer, until_s)
        answer.add_done_callback(lambda done: self._forget_failed(name, done))
        if len(self._kept) > MAX_REMEMBERED:
            del self._kept[next(iter(self._kept))]
        return answer

    def _forget_failed(
        self, name: tuple[str, ...], answer: asyncio.Future[Response]
    ) -> None:
        if answer.cancelled() or answer.exception() is not None:
            kept = self._kept.get(name)
            if kept is not None and kept.answer is answer:
                del self._kept[name]

    def _forget_old(self) -> None:
        """Drop what is over its time; the oldest come first."""
        now_s = self._clock()
        while self._kept:
            name = next(iter(self._kept))
            if self._kept[name].until_s > now_s:
                return
            del self._kept[name]
