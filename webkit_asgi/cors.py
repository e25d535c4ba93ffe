"""Cross-origin requests: which pages in a browser may talk to this server.

Off by default. A page whose origin is named gets the headers that its browser asks for;
any other gets none, and its browser keeps the answer from it. Tokens ride in a header
that a page has to set itself, so no credentials are allowed for, and a page without a
token is as far as it was.

Source: WHATWG Fetch, "CORS protocol".
"""

from __future__ import annotations

import re
from typing import Final

from webkit_core import ConfigError

from .exchange import Exchange
from .responses import Response
from .types import Headers

CORS_VARIABLE: Final = "AGENT_WEBKIT_CORS_ORIGINS"

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\-\[\]:]+")

_METHODS: Final = b"GET, POST, DELETE"
_REQUEST_HEADERS: Final = (
    b"authorization, cache-control, content-type, last-event-id, x-subscriber-id"
)
_EXPOSED: Final = b"location, retry-after, x-subscriber-id"
_MAX_AGE_S: Final = b"7200"


class Cors:
    """See the module.

    Args:
        origins: separated by commas, as ``https://app.example``; ``*`` is every page,
            empty is none.

    Raises:
        ConfigError: one is not an origin.
    """

    def __init__(self, origins: str) -> None:
        named = [origin for part in origins.split(",") if (origin := part.strip())]
        for origin in named:
            if origin != "*" and _ORIGIN.fullmatch(origin) is None:
                raise ConfigError(
                    f"{CORS_VARIABLE}: {origin!r} is no origin: write scheme, host and"
                    " port as the browser sends them, such as https://app.example or"
                    " http://localhost:3000"
                )
        self._all = "*" in named
        self._origins = frozenset(origin.encode() for origin in named)

    def headers(self, exchange: Exchange) -> Headers:
        """Return what the answer to a request has on top of its own headers."""
        if not self._origins:
            return []
        if self._all:
            return [_ALLOW_ALL, _EXPOSE]
        origin = exchange.header(b"origin")
        if origin not in self._origins:
            return [_VARY]
        return [(b"access-control-allow-origin", origin), _VARY, _EXPOSE]

    def preflight(self, exchange: Exchange) -> Response | None:
        """Return the answer to a browser that asks whether a page may; else None."""
        if (
            exchange.scope["method"] != "OPTIONS"
            or exchange.header(b"access-control-request-method") is None
            or not (self._all or exchange.header(b"origin") in self._origins)
        ):
            return None
        return Response(
            204,
            [
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", _REQUEST_HEADERS),
                (b"access-control-max-age", _MAX_AGE_S),
            ],
        )


_ALLOW_ALL: Final = (b"access-control-allow-origin", b"*")
_VARY: Final = (b"vary", b"Origin")
_EXPOSE: Final = (b"access-control-expose-headers", _EXPOSED)
