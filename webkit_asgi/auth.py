"""Who may talk to the server: a bearer token, or nobody asked.

A token says on whose behalf a request is made: sessions belong to that principal.
Operators have tokens of their own: one to drain, and one for whoever scrapes metrics,
who need not be able to talk to an agent for that.

Rules: no token and no explicit "no auth" is a configuration error, never an open
server; tokens are compared in constant time; health checks need none.
Source: RFC 6750 section 2.1.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Mapping
from enum import Enum
from typing import Final

from webkit_core import ConfigError, Unavailable

from .principal import Principal, Verifier
from .responses import Unauthorized

TOKEN_VARIABLE = "AGENT_WEBKIT_AUTH_TOKEN"  # noqa: S105  # a name, not a secret
NO_AUTH_VARIABLE = "AGENT_WEBKIT_NO_AUTH"
ADMIN_TOKEN_VARIABLE = "AGENT_WEBKIT_ADMIN_TOKEN"  # noqa: S105
METRICS_TOKEN_VARIABLE = "AGENT_WEBKIT_METRICS_TOKEN"  # noqa: S105

JWT_PREFIX: Final = "AGENT_WEBKIT_JWT_"
JWT_ISSUER_VARIABLE: Final = f"{JWT_PREFIX}ISSUER"
JWT_VARIABLES: Final = (
    JWT_ISSUER_VARIABLE,
    f"{JWT_PREFIX}AUDIENCE",
    f"{JWT_PREFIX}JWKS_URL",
    f"{JWT_PREFIX}KEY",
    f"{JWT_PREFIX}CLAIM",
    f"{JWT_PREFIX}LEEWAY_S",
)
AUTH_VARIABLES: Final = (
    TOKEN_VARIABLE,
    NO_AUTH_VARIABLE,
    ADMIN_TOKEN_VARIABLE,
    METRICS_TOKEN_VARIABLE,
    *JWT_VARIABLES,
)

VERIFIER_TIMEOUT_S: Final = 10.0

TOKEN_HOLDER: Final = Principal("token")
"""Whoever has one of the static tokens: all the same, so that tokens can be rotated."""

ANYBODY: Final = Principal("")
"""Everybody, where auth is disabled."""


class AuthUnavailable(Unavailable):
    """Who makes the request cannot be found out at present."""

    code = "auth_unavailable"

    def __str__(self) -> str:
        return "who you are cannot be found out at present"


class Role(Enum):
    """Whom a path is for."""

    ANYBODY = "anybody"
    USER = "user"
    SCRAPER = "scraper"
    ADMIN = "admin"


class AuthConfig:
    """How requests are authenticated: ``AuthConfig(token="…")`` or ``(disabled=True)``.

    Args:
        token: what clients send; several, separated by spaces, are good at once, so
            that one can be replaced by another.
        disabled: let everybody in instead.
        verifier: says who a request stands for when it has none of the tokens: JSON
            Web Tokens, or the embedder's own.
        admin_token: what operators send to drain; without it nobody can.
        metrics_token: what may read metrics, besides the other two.

    Raises:
        ConfigError: nothing lets anybody in, or ``disabled`` goes with something that
            does; or a token is one that no client could send.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        disabled: bool = False,
        verifier: Verifier | None = None,
        admin_token: str | None = None,
        metrics_token: str | None = None,
    ) -> None:
        if disabled and (token is not None or verifier is not None):
            raise ConfigError("give a token or a verifier, or disable auth, not both")
        if not token and not verifier and not disabled:
            raise ConfigError(
                f"no authentication is set up: set {TOKEN_VARIABLE} to a secret that"
                f" clients send as 'Authorization: Bearer <secret>', or set"
                f" {NO_AUTH_VARIABLE}=1 to let everybody in"
            )
        user = _sendable(TOKEN_VARIABLE, token, several=True)
        admin = _sendable(ADMIN_TOKEN_VARIABLE, admin_token)
        scraper = _sendable(METRICS_TOKEN_VARIABLE, metrics_token)
        if set(admin) & {*user, *scraper}:
            raise ConfigError(
                f"{ADMIN_TOKEN_VARIABLE} must differ from {TOKEN_VARIABLE} and"
                f" {METRICS_TOKEN_VARIABLE}: whoever has it can drain the server"
            )
        self._disabled = disabled
        self._user = user
        self._admin = admin
        self._scraper = [*user, *admin, *scraper]
        self._verifier = verifier

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> AuthConfig:
        """Return what the variables of :data:`AUTH_VARIABLES` say.

        Raises:
            ConfigError: nothing is set, things contradict each other, or one has a bad
                value.
        """
        environ = os.environ if environ is None else environ
        token = environ.get(TOKEN_VARIABLE) or None
        no_auth = environ.get(NO_AUTH_VARIABLE, "")
        if no_auth not in ("", "0", "1"):
            raise ConfigError(f"{NO_AUTH_VARIABLE}={no_auth!r}: must be 1 or 0")
        verifier = _jwt_verifier(environ)
        if no_auth == "1" and (token is not None or verifier is not None):
            other = TOKEN_VARIABLE if token is not None else JWT_ISSUER_VARIABLE
            raise ConfigError(
                f"{other} and {NO_AUTH_VARIABLE}=1 contradict each other:"
                " unset one of them"
            )
        return cls(
            token=token,
            disabled=no_auth == "1",
            verifier=verifier,
            admin_token=environ.get(ADMIN_TOKEN_VARIABLE) or None,
            metrics_token=environ.get(METRICS_TOKEN_VARIABLE) or None,
        )

    @property
    def disabled(self) -> bool:
        """Whether everybody is let in."""
        return self._disabled

    @property
    def has_admin(self) -> bool:
        """Whether there is a token for operators."""
        return bool(self._admin)

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """Return on whose behalf a request is made.

        Args:
            headers: the request's, names in lower case.

        Raises:
            Unauthorized: it is nobody's.
            AuthUnavailable: the verifier does not answer.
        """
        if self._disabled:
            return ANYBODY
        if _is_one_of(headers.get("authorization"), self._user):
            return TOKEN_HOLDER
        if self._verifier is None:
            raise Unauthorized
        try:
            async with asyncio.timeout(VERIFIER_TIMEOUT_S):
                principal = await self._verifier(headers)
        except TimeoutError:
            raise AuthUnavailable from None
        if principal is None:
            raise Unauthorized
        return principal

    def check_scraper(self, headers: Mapping[str, str]) -> None:
        """Check that a request may read metrics.

        Raises:
            Unauthorized: it may not.
        """
        if not self._disabled and not _is_one_of(
            headers.get("authorization"), self._scraper
        ):
            raise Unauthorized

    def check_admin(self, headers: Mapping[str, str]) -> None:
        """Check that a request is an operator's.

        Raises:
            Unauthorized: it is not, or nobody is one.
        """
        if not _is_one_of(headers.get("authorization"), self._admin):
            raise Unauthorized


def _is_one_of(authorization: str | None, tokens: list[bytes]) -> bool:
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    token = given.strip().encode("latin-1", "replace")
    # All of them, always: which one it was takes no less time than none.
    return bool(sum(hmac.compare_digest(token, one) for one in tokens))


def _jwt_verifier(environ: Mapping[str, str]) -> Verifier | None:
    """Return what the ``AGENT_WEBKIT_JWT_*`` variables say, if any is set."""
    given = {
        name.removeprefix(JWT_PREFIX).lower(): value
        for name in JWT_VARIABLES
        if (value := environ.get(name))
    }
    if not given:
        return None
    from .jwt_auth import JwtVerifier  # loads a library for cryptography

    leeway = given.pop("leeway_s", "30")
    try:
        leeway_s = float(leeway)
    except ValueError:
        raise ConfigError(
            f"{JWT_PREFIX}LEEWAY_S={leeway!r}: must be a number of seconds"
        ) from None
    for name in ("issuer", "audience"):
        if name not in given:
            raise ConfigError(f"{JWT_PREFIX}{name.upper()} must be set, too")
    key = given.pop("key", None)
    return JwtVerifier(
        issuer=given["issuer"],
        audience=given["audience"],
        jwks_url=given.get("jwks_url"),
        # Files of variables have no line breaks, so they are often written like this.
        key=None if key is None else key.replace("\\n", "\n"),
        claim=given.get("claim", "sub"),
        leeway_s=leeway_s,
    )


def _sendable(variable: str, text: str | None, *, several: bool = False) -> list[bytes]:
    """Return the token as bytes, if there is one, or several.

    Raises:
        ConfigError: no client could send it.
    """
    if text is None:
        return []
    tokens = text.split(" ") if several else [text]
    for token in tokens:
        if not (token and token.isprintable() and token == token.strip()):
            raise ConfigError(
                f"{variable} must be printable text without white space around it: no"
                " client could send it otherwise"
            )
    return [token.encode() for token in tokens]
