"""Exchange: one HTTP request, as far as endpoints need to know it.

Rules: headers and the query are looked at when asked for, the body is read once and
within the limit; what a client sends is checked before it is used.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Coroutine
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, quote

from webkit_core import InvalidInput, WebkitError, sse

from .principal import Principal
from .types import Headers, Receive, Scope, Send

_T = TypeVar("_T")
NOBODY: Final = Principal("")
_SUBSCRIBER_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class BodyTooLarge(WebkitError):
    """The body is longer than the server reads."""

    code = "body_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"the body is longer than {self.limit_bytes} bytes"


class BodyTimeout(WebkitError):
    """The body did not arrive in time."""

    code = "body_timeout"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"the body was not there within {self.timeout_s:g} s"


class ClientDisconnected(Exception):
    """The client left before its body was read; nobody waits for an answer."""


class Exchange:
    """See the module.

    Attributes:
        extra_headers: sent with the answer, whatever it is.
        principal: on whose behalf it is made; nobody's before that is known.
        session_id: the session in the path; empty where the path has none.
    """

    __slots__ = (
        "extra_headers",
        "principal",
        "receive",
        "scope",
        "send",
        "session_id",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.extra_headers: Headers = []
        self.principal = NOBODY
        self.session_id = ""

    def headers(self) -> dict[str, str]:
        """Return all headers, names in lower case, those of one name joined."""
        found: dict[str, str] = {}
        for key, value in self.scope["headers"]:
            name, text = key.decode("latin-1"), value.decode("latin-1")
            between = "; " if name == "cookie" else ", "  # RFC 9113, 8.2.3
            found[name] = f"{found[name]}{between}{text}" if name in found else text
        return found

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that (lower-case) name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value)
        return None

    def query(self, name: str) -> str | None:
        """Return the last query parameter of that name."""
        query = self.scope.get("query_string", b"")
        if not query:
            return None
        values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get(name)
        return values[-1] if values else None

    def url_of(self, session_id: str) -> bytes:
        """Return the path of a session, as seen from outside."""
        root_path: str = self.scope.get("root_path", "")
        return quote(f"{root_path.rstrip('/')}/sessions/{session_id}").encode()

    async def body(self, limit_bytes: int, timeout_s: float) -> bytearray:
        """Read the request's body.

        Raises:
            BodyTooLarge: it is longer than the limit.
            BodyTimeout: it is not whole after so many seconds.
            ClientDisconnected: the client left.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._body(limit_bytes)
        except TimeoutError:
            raise BodyTimeout(timeout_s) from None

    async def _body(self, limit_bytes: int) -> bytearray:
        announced = self.header(b"content-length") or b"0"
        if announced.isdigit() and int(announced[:20]) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        body = bytearray()
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            body += message.get("body", b"")
            if len(body) > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            more = message.get("more_body", False)
        return body

    async def unless_left(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do ``work``, and cancel it when the client leaves; its body has been read.

        A server does not cancel a request whose client has left.

        Raises:
            ClientDisconnected: the client left; ``work`` is cancelled.
        """
        doing = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._left())
        try:
            await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise ClientDisconnected
            return await doing
        finally:
            doing.cancel()
            leaving.cancel()

    async def _left(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def subscriber_id(self) -> str | None:
        """Return the client's ``X-Subscriber-Id``.

        Raises:
            InvalidInput: it is longer than 64 characters or has others than allowed.
        """
        value = self.header(b"x-subscriber-id")
        if value is None:
            return None
        text = value.decode("latin-1")
        if _SUBSCRIBER_ID.fullmatch(text) is None:
            raise InvalidInput(
                "X-Subscriber-Id must be 1 to 64 characters of A-Z a-z 0-9 . _ -"
            )
        return text

    def subscriber_id_or_new(self) -> str:
        """Return the client's ``X-Subscriber-Id``, or a fresh one."""
        return self.subscriber_id() or secrets.token_hex(8)

    def cursor(self) -> int | None:
        """Return where the client wants to resume; the header wins over the query.

        Raises:
            InvalidCursor: it is not a decimal number below 2**53.
        """
        value = self.header(b"last-event-id")
        text = value.decode("latin-1") if value else self.query("last_event_id")
        return None if not text else sse.parse_last_event_id(text)
