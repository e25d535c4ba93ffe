"""Principal: on whose behalf a request is made, and who can say so.

A session belongs to the principal that made it, and is not there for anybody else. An
embedder that knows its users gives a verifier of its own: ``async (headers) ->
Principal``, or None for somebody it does not know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct


class Principal(Struct, frozen=True):
    """Somebody who may have sessions.

    Attributes:
        id: names them for as long as they exist: sessions are kept by it. Every holder
            of a static token is the same principal, so that tokens can be rotated.
        expires_at_s: when what they showed loses its force, as Unix time; streams end
            then. None is never.
    """

    id: str
    expires_at_s: float | None = None


Verifier = Callable[[Mapping[str, str]], Awaitable[Principal | None]]
"""Says who a request's headers (names in lower case) stand for; None is nobody."""
