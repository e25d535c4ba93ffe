"""Two people, who are known by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webkit_asgi import AuthConfig, Principal

ANN: Final = "ann"
BOB: Final = "bob"

_BEARER: Final = "Bearer "


async def by_name(headers: Mapping[str, str]) -> Principal | None:
    """Say who it is: the token is the name."""
    name = headers.get("authorization", "").removeprefix(_BEARER)
    return Principal(name) if name in (ANN, BOB) else None


TENANTS: Final = AuthConfig(
    verifier=by_name, admin_token="admin", metrics_token="scraper"
)
