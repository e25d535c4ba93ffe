"""Who may talk to the server: a bearer token, or nobody asked.

Operators have tokens of their own: one to drain, and one for whoever scrapes metrics,
who need not be able to talk to an agent for that.

Rules: no token and no explicit "no auth" is a configuration error, never an open
server; tokens are compared in constant time; health checks need none.
Source: RFC 6750 section 2.1.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from enum import Enum
from typing import Final

from webkit_core import ConfigError

from .responses import Unauthorized

TOKEN_VARIABLE = "AGENT_WEBKIT_AUTH_TOKEN"  # noqa: S105  # a name, not a secret
NO_AUTH_VARIABLE = "AGENT_WEBKIT_NO_AUTH"
ADMIN_TOKEN_VARIABLE = "AGENT_WEBKIT_ADMIN_TOKEN"  # noqa: S105
METRICS_TOKEN_VARIABLE = "AGENT_WEBKIT_METRICS_TOKEN"  # noqa: S105

AUTH_VARIABLES: Final = (
    TOKEN_VARIABLE,
    NO_AUTH_VARIABLE,
    ADMIN_TOKEN_VARIABLE,
    METRICS_TOKEN_VARIABLE,
)


class Role(Enum):
    """Whom a path is for."""

    ANYBODY = "anybody"
    USER = "user"
    SCRAPER = "scraper"
    ADMIN = "admin"


class AuthConfig:
    """How requests are authenticated: ``AuthConfig(token="…")`` or ``(disabled=True)``.

    Args:
        token: what clients send.
        disabled: let everybody in instead.
        admin_token: what operators send to drain; without it nobody can.
        metrics_token: what may read metrics, besides the other two.

    Raises:
        ConfigError: neither a token nor ``disabled`` is given, or both; or a token is
            one that no client could send.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        disabled: bool = False,
        admin_token: str | None = None,
        metrics_token: str | None = None,
    ) -> None:
        if token is not None and disabled:
            raise ConfigError("give a token or disable auth, not both")
        if not token and not disabled:
            raise ConfigError(
                f"no authentication is set up: set {TOKEN_VARIABLE} to a secret that"
                f" clients send as 'Authorization: Bearer <secret>', or set"
                f" {NO_AUTH_VARIABLE}=1 to let everybody in"
            )
        user = _sendable(TOKEN_VARIABLE, token)
        admin = _sendable(ADMIN_TOKEN_VARIABLE, admin_token)
        scraper = _sendable(METRICS_TOKEN_VARIABLE, metrics_token)
        if admin and admin == user:
            raise ConfigError(
                f"{ADMIN_TOKEN_VARIABLE} must differ from {TOKEN_VARIABLE}: whoever"
                " talks to an agent could drain the server"
            )
        self._accepted: Final = {
            Role.USER: user,
            Role.SCRAPER: [] if disabled else [*user, *admin, *scraper],
            Role.ADMIN: admin,
        }

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> AuthConfig:
        """Return what the variables of :data:`AUTH_VARIABLES` say.

        Raises:
            ConfigError: neither is set, both are, or one has a bad value.
        """
        environ = os.environ if environ is None else environ
        token = environ.get(TOKEN_VARIABLE) or None
        no_auth = environ.get(NO_AUTH_VARIABLE, "")
        if no_auth not in ("", "0", "1"):
            raise ConfigError(f"{NO_AUTH_VARIABLE}={no_auth!r}: must be 1 or 0")
        if token is not None and no_auth == "1":
            raise ConfigError(
                f"{TOKEN_VARIABLE} and {NO_AUTH_VARIABLE}=1 contradict each other:"
                " unset one of them"
            )
        return cls(
            token=token,
            disabled=no_auth == "1",
            admin_token=environ.get(ADMIN_TOKEN_VARIABLE) or None,
            metrics_token=environ.get(METRICS_TOKEN_VARIABLE) or None,
        )

    @property
    def disabled(self) -> bool:
        """Whether everybody is let in."""
        return not self._accepted[Role.USER]

    @property
    def has_admin(self) -> bool:
        """Whether there is a token for operators."""
        return bool(self._accepted[Role.ADMIN])

    def check(self, authorization: bytes | None, role: Role = Role.USER) -> None:
        """Check the value of the ``Authorization`` header for a path of ``role``.

        Raises:
            Unauthorized: it is missing or wrong.
        """
        accepted = self._accepted.get(role)
        if not accepted:
            return
        scheme, _, given = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthorized
        # All of them, always: which one it was takes no less time than none.
        if not sum(hmac.compare_digest(given.strip(), token) for token in accepted):
            raise Unauthorized


def _sendable(variable: str, token: str | None) -> list[bytes]:
    """Return the token as bytes, if there is one.

    Raises:
        ConfigError: no client could send it.
    """
    if token is None:
        return []
    if not (token.isprintable() and token == token.strip()):
        raise ConfigError(
            f"{variable} must be printable text without white space around it: no"
            " client could send it otherwise"
        )
    return [token.encode()]
