"""Answers as bytes, and the one table from error to status.

Rules: an error's status comes from :data:`STATUS_BY_ERROR` and nowhere else; its body
is ``{"detail", "code"}`` and, for cursors, what is held. Invariant: every error class
has a row, its own or an ancestor's.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from msgspec import Struct

from webkit_core import (
    AgentError,
    AgentRefused,
    ConfigError,
    ConflictError,
    CursorError,
    InvalidInput,
    Refused,
    SessionExists,
    SessionNotFound,
    TooManySessions,
    Unavailable,
    WebkitError,
    encode_payload,
)

from .exchange import BodyTimeout, BodyTooLarge, Exchange
from .rates import TooManyRequests
from .types import Headers


class NotFound(WebkitError):
    """No such path."""

    code = "not_found"


class MethodNotAllowed(WebkitError):
    """The path exists, the method does not; ``allow`` lists those that do."""

    code = "method_not_allowed"

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(method, allow)
        self.allow = allow

    def __str__(self) -> str:
        return f"this path takes {self.allow}"


class KeyReused(WebkitError):
    """The Idempotency-Key was used before, for something else."""

    code = "idempotency_key_reused"

    def __str__(self) -> str:
        return "this Idempotency-Key was used for another body before"


class NotImplementedHere(WebkitError):
    """This server is not set up for it."""

    code = "not_implemented"


class Unauthorized(WebkitError):
    """No token, or a wrong one."""

    code = "unauthorized"

    def __str__(self) -> str:
        return "a valid token is needed: Authorization: Bearer <token>"


STATUS_BY_ERROR: Final[dict[type[WebkitError], int]] = {
    InvalidInput: 400,
    AgentRefused: 400,
    Unauthorized: 401,
    Refused: 403,
    SessionNotFound: 404,
    NotFound: 404,
    MethodNotAllowed: 405,
    ConflictError: 409,
    SessionExists: 409,
    CursorError: 412,
    BodyTimeout: 408,
    BodyTooLarge: 413,
    KeyReused: 422,
    TooManySessions: 429,
    TooManyRequests: 429,
    NotImplementedHere: 501,
    AgentError: 503,
    ConfigError: 503,
    Unavailable: 503,
    WebkitError: 500,
}


class Response(Struct, frozen=True):
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes = b""

    async def answer(self, exchange: Exchange) -> None:
        """Send it; without its body for HEAD."""
        await exchange.send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [*self.headers, *exchange.extra_headers],
            }
        )
        body = b"" if exchange.scope["method"] == "HEAD" else self.body
        await exchange.send({"type": "http.response.body", "body": body})


class Answer(Protocol):
    """What an endpoint returns: something that sends itself."""

    async def answer(self, exchange: Exchange) -> None:
        """Send it, from its start to its end."""


_JSON: Final = (b"content-type", b"application/json")
NO_CONTENT: Final = Response(204, [])


def json_response(
    data: Any, status: int = 200, headers: Headers | None = None
) -> Response:
    """Return ``data`` as a JSON answer."""
    body = encode_payload(data)
    length = (b"content-length", b"%d" % len(body))
    return Response(status, [_JSON, length, *(headers or ())], body)


def status_of(error: WebkitError) -> int:
    """Return the HTTP status of an error."""
    return next(
        STATUS_BY_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_BY_ERROR
    )


def error_response(error: WebkitError) -> Response:
    """Return the answer that tells a client of ``error``."""
    body: dict[str, Any] = {"detail": str(error), "code": error.code}
    headers: Headers = []
    match error:
        case CursorError():
            body |= {"oldest": error.oldest, "last": error.last}
        case Unavailable():
            headers.append((b"retry-after", b"%d" % error.retry_after_s))
        case AgentError() if status_of(error) == 503:
            headers.append((b"retry-after", b"%d" % Unavailable.retry_after_s))
        case MethodNotAllowed():
            headers.append((b"allow", error.allow.encode()))
        case Unauthorized():
            headers.append((b"www-authenticate", b"Bearer"))
    return json_response(body, status_of(error), headers)
