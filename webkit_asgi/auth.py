"""Who may talk to the server: a bearer token, or nobody asked.

Rules: no token and no explicit "no auth" is a configuration error, never an open
server; tokens are compared in constant time; health checks need none.
Source: RFC 6750 section 2.1.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping

from webkit_core import ConfigError

from .responses import Unauthorized

TOKEN_VARIABLE = "AGENT_WEBKIT_AUTH_TOKEN"  # noqa: S105  # a name, not a secret
NO_AUTH_VARIABLE = "AGENT_WEBKIT_NO_AUTH"


class AuthConfig:
    """How requests are authenticated: ``AuthConfig(token="…")`` or ``(disabled=True)``.

    Raises:
        ConfigError: neither is given, or both.
    """

    def __init__(self, *, token: str | None = None, disabled: bool = False) -> None:
        if token is not None and disabled:
            raise ConfigError("give a token or disable auth, not both")
        if not token and not disabled:
            raise ConfigError(
                f"no authentication is set up: set {TOKEN_VARIABLE} to a secret that"
                f" clients send as 'Authorization: Bearer <secret>', or set"
                f" {NO_AUTH_VARIABLE}=1 to let everybody in"
            )
        if token is not None and not (token.isprintable() and token == token.strip()):
            raise ConfigError(
                f"{TOKEN_VARIABLE} must be printable text without white space around"
                " it: no client could send it otherwise"
            )
        self._token = None if token is None else token.encode()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> AuthConfig:
        """Return what ``AGENT_WEBKIT_AUTH_TOKEN`` and ``AGENT_WEBKIT_NO_AUTH`` say.

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
        return cls(token=token, disabled=no_auth == "1")

    @property
    def disabled(self) -> bool:
        """Whether everybody is let in."""
        return self._token is None

    def check(self, authorization: bytes | None) -> None:
        """Check the value of the ``Authorization`` header.

        Raises:
            Unauthorized: it is missing or wrong.
        """
        if self._token is None:
            return
        scheme, _, given = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(
            given.strip(), self._token
        ):
            raise Unauthorized
