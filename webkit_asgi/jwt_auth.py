"""JWT and OpenID Connect bearer tokens: who somebody is, signed by their issuer.

A :data:`~webkit_asgi.principal.Verifier` for those who have an identity provider. It
needs the ``jwt`` extra; signatures and claims are PyJWT's work.

Rules: RS256 and ES256 only, and which of them is a matter of the key, not of the token.
A token's header does no more than choose among the keys we hold: ``jwk``, ``jku``,
``x5c`` and ``x5u`` are not looked at; ``crit`` is refused, as we know no extension.
Every refusal is the same :class:`Unauthorized`; why is in the log, at level info.
Keys from a URL are used for :data:`FRESH_S` and then asked for again. While that
fails, those we have go on to be used, up to :data:`STALE_S` after they came. The URL is
asked in a thread, once at a time and once in :data:`ASK_AGAIN_S`, whatever tokens say.

Invariant: a principal from here was signed for by a key of the issuer, for us; its id
is ``issuer|claim``. No issuer has a ``|``, so two issuers' ids are never the same, and
an id without one, as that of static tokens, is never one of these.

``PyJWKClient`` is not used: while its URL fails it asks again for every token and
forgets its keys when their time is up; it reads answers of any length; and every caller
holds a thread while it waits for its turn.

Source: RFC 7515 section 4.1, RFC 7517, RFC 7519 section 4.1, RFC 8725 section 3.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import re
import time
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from webkit_core import ConfigError

from .principal import Principal
from .responses import Unauthorized

_installed = True
try:
    import jwt
    from cryptography import exceptions, x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
except ImportError:
    _installed = False

logger = logging.getLogger(__name__)

INSTALL: Final = "pip install 'webkit-asgi[jwt]'"
VARIABLES: Final = "AGENT_WEBKIT_JWT_"  # and an argument's name

MAX_TOKEN_CHARS: Final = 16 * 1024
MAX_ID_CHARS: Final = 256
MAX_LEEWAY_S: Final = 300.0
MAX_JWKS_BYTES: Final = 512 * 1024
MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3
LAST_S: Final = 253_402_300_800.0  # the end of the year 9999, in Unix time

FRESH_S: Final = 300.0
"""How long keys are used without asking; so long may a withdrawn one be accepted."""
STALE_S: Final = 3600.0
"""How long keys are used while the URL fails, from when they came."""
ASK_AGAIN_S: Final = 10.0
"""How long the URL is left alone after it was asked, with success or without."""
FETCH_TIMEOUT_S: Final = 5.0
"""How long a request waits for keys at most."""

_BEARER: Final = re.compile(r"(?ia)bearer +([\w-]+)\.([\w-]+)\.([\w-]+) *")
_NOT_A_NAME: Final = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class _Refused(Exception):
    """A token that is not accepted, and why; never leaves this module."""


class _Key(NamedTuple):
    algorithm: str
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    kid: str | None = None


class JwtVerifier:
    """Says who the bearer of a JSON Web Token is; see the module.

    Args:
        issuer: what ``iss`` must be, to the letter.
        audience: what ``aud`` must be or hold: the name of this server at the issuer.
        jwks_url: where the issuer's keys are; https, or http on this machine.
            Redirects are not followed.
        key: the issuer's public key instead, as PEM text; or a certificate, of which
            nothing but the key counts. Tokens may give it any ``kid``.
        claim: names the principal, for as long as they exist: what people can change,
            as an ``email``, is not for this.
        leeway_s: by how many seconds the issuer's clock may differ from ours.

    Raises:
        ConfigError: an argument is missing or cannot be used, and the text names it; or
            the packages are not installed.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        jwks_url: str | None = None,
        key: str | None = None,
        claim: str = "sub",
        leeway_s: float = 30.0,
    ) -> None:
        if not _installed:
            raise ConfigError(f"JWTs need packages that are not installed: {INSTALL}")
        self._issuer = _text("issuer", issuer)
        self._audience = _text("audience", audience)
        self._claim = _text("claim", claim)
        if "|" in issuer:
            raise _bad("issuer", "must not hold '|': it ends the issuer in our ids")
        if claim in _NOT_A_NAME:
            raise _bad("claim", f"is {claim!r}, which names nobody")
        if not 0 <= leeway_s <= MAX_LEEWAY_S:
            raise _bad("leeway_s", f"must be 0 to {MAX_LEEWAY_S:g} seconds")
        self._leeway_s = leeway_s
        if bool(jwks_url) == bool(key):
            raise _bad("jwks_url", f"or key ({VARIABLES}KEY) is needed, and not both")
        self._key = _key_from_pem(key) if key else None
        self._jwks = _Jwks(_checked_url(jwks_url)) if jwks_url else None

    async def __call__(self, headers: Mapping[str, str]) -> Principal:
        """Return whom the ``authorization`` header's token stands for, until ``exp``.

        Within the leeway, that may have passed already.

        Raises:
            Unauthorized: there is no token, or it is not accepted.
        """
        try:
            token, kid, algorithm = _token(headers.get("authorization", ""))
            key = await self._jwks.find(kid, algorithm) if self._jwks else self._key
            if key is None:
                raise _Refused("no such key")
            return self._principal(token, key)
        except (_Refused, jwt.PyJWTError) as error:
            # In ASCII and cut short: the text may repeat what the token's header says.
            logger.info("a token was refused: %.120a", error)
            raise Unauthorized from None

    def _principal(self, token: str, key: _Key) -> Principal:
        jwt.decode(
            token,
            key.public,
            algorithms=[key.algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway_s,
            options={"require": ["exp", "iss", "aud", self._claim]},
        )
        # Once more, now that it is the issuer's word: PyJWT takes the last of a name
        # that occurs twice, and times that are text.
        claims = _object(token.split(".")[1])
        name, exp = claims[self._claim], claims["exp"]
        if not (isinstance(name, str) and name.isprintable() and name):
            raise _Refused("the principal's claim is not text that can be printed")
        if len(name) > MAX_ID_CHARS:
            raise _Refused("the principal's claim is too long")
        if type(exp) not in (int, float) or exp > LAST_S:
            raise _Refused("exp is not a time")
        return Principal(f"{self._issuer}|{name}", float(exp))


class _Jwks:
    """The keys behind a URL, as they were when it last answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: list[_Key] = []
        self._came_at_s = self._asked_at_s = -math.inf
        self._failing = False
        self._asking: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> _Key | None:
        """Return the key that a token was signed with, if the issuer has it.

        Without ``kid`` it is the only one for ``algorithm``. May wait while the URL is
        asked, at most :data:`FETCH_TIMEOUT_S`.
        """
        key = self._held(kid, algorithm)
        if key is None or self._age_s() >= FRESH_S:
            asking = self._ask()
            # While the URL fails, only those wait who cannot do without.
            if asking is not None and (key is None or not self._failing):
                await asyncio.wait({asking})
            key = self._held(kid, algorithm)
        return key

    def _held(self, kid: str | None, algorithm: str) -> _Key | None:
        if self._age_s() >= STALE_S:
            return None
        fit = [key for key in self._keys if key.algorithm == algorithm]
        if kid is None:
            return fit[0] if len(fit) == 1 else None
        return next((key for key in fit if key.kid == kid), None)

    def _age_s(self) -> float:
        return time.monotonic() - self._came_at_s

    def _ask(self) -> asyncio.Task[None] | None:
        """Return what asks the URL; None when it has to be left alone."""
        if self._asking is not None and not self._asking.done():
            return self._asking
        if time.monotonic() - self._asked_at_s < ASK_AGAIN_S:
            return None
        self._asked_at_s = time.monotonic()
        self._asking = asyncio.create_task(self._fetch(self._asked_at_s))
        return self._asking

    async def _fetch(self, now_s: float) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                keys = await asyncio.to_thread(_fetched, self._url)
        except Exception as error:  # whatever there can be wrong with another's server
            self._failing = True
            host = urlsplit(self._url).hostname
            logger.warning("no keys from %s: %.200a", host, error)
        else:
            self._keys, self._came_at_s, self._failing = keys, now_s, False


def _token(authorization: str) -> tuple[str, str | None, str]:
    """Return the token in the header's value, and its ``kid`` and ``alg``."""
    if len(authorization) > len("bearer ") + MAX_TOKEN_CHARS:
        raise _Refused("too long")
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise _Refused("not a bearer token of three parts")
    header = _object(match[1])
    kid, algorithm = header.get("kid"), header.get("alg")
    if algorithm not in ("RS256", "ES256"):
        raise _Refused("alg is not one of ours")
    if "crit" in header:
        raise _Refused("crit has extensions, and we know none")
    return ".".join(match.groups()), kid, algorithm


def _object(part: str) -> dict[str, Any]:
    """Return the JSON object in a part of a token; no name in it occurs twice."""
    try:
        text = base64.urlsafe_b64decode(part + "==")
        value = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        raise _Refused("a part is not unambiguous JSON in base64url") from None
    if not isinstance(value, dict):
        raise _Refused("a part is not a JSON object")
    return value


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name occurs twice")
    return value


def _key(public: object, kid: str | None = None) -> _Key | None:
    """Return a public key with the algorithm it is for, if that is one of ours."""
    if isinstance(public, rsa.RSAPublicKey) and public.key_size >= MIN_RSA_BITS:
        return _Key("RS256", public, kid)
    if isinstance(public, ec.EllipticCurvePublicKey):
        return _Key("ES256", public, kid) if public.curve.name == "secp256r1" else None
    return None


def _key_from_pem(pem: str) -> _Key:
    if "PRIVATE KEY" in pem:
        raise _bad("key", "is a private key: only the issuer may have that")
    try:
        public = (
            x509.load_pem_x509_certificate(pem.encode()).public_key()
            if "BEGIN CERTIFICATE" in pem
            else serialization.load_pem_public_key(pem.encode())
        )
    except (ValueError, exceptions.UnsupportedAlgorithm):
        raise _bad("key", "is not a public key or certificate as PEM text") from None
    if (key := _key(public)) is None:
        raise _bad("key", f"must be RSA of {MIN_RSA_BITS} bits or more, or EC on P-256")
    return key


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the answer is an error then."""


def _fetched(url: str) -> list[_Key]:
    """Return the keys behind ``url`` that we can use; blocks."""
    # A name of our own, as there are firewalls that turn urllib's away.
    headers = {"Accept": "application/json", "User-Agent": "webkit-asgi"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # checked
    # What is on this machine is not asked for elsewhere, whatever http_proxy says.
    proxies = urllib.request.ProxyHandler({} if request.type == "http" else None)
    opener = urllib.request.build_opener(_NoRedirect, proxies)
    give_up_at_s = time.monotonic() + FETCH_TIMEOUT_S
    with opener.open(request, timeout=FETCH_TIMEOUT_S) as response:
        body = bytearray()
        while piece := response.read1(65536):
            body += piece
            if len(body) > MAX_JWKS_BYTES:
                raise ValueError(f"the answer is longer than {MAX_JWKS_BYTES} bytes")
            if time.monotonic() >= give_up_at_s:
                raise TimeoutError("the answer takes too long")
    keys = [
        key
        for jwk in jwt.PyJWKSet.from_dict(json.loads(body)).keys
        if (key := _key(jwk.key, jwk.key_id))
        and key.algorithm == jwk.algorithm_name
        and jwk.public_key_use in (None, "sig")
    ]
    if not keys:
        raise ValueError(f"no key for ES256, nor RS256 of {MIN_RSA_BITS} bits or more")
    return keys


def _bad(argument: str, why: str) -> ConfigError:
    return ConfigError(f"{argument} ({VARIABLES}{argument.upper()}) {why}")


def _text(argument: str, value: str) -> str:
    if not (value and value.isprintable() and value == value.strip()):
        raise _bad(argument, "must be printable text without white space around it")
    return value


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(_text("jwks_url", url))
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise _bad("jwks_url", "is not a URL") from None
    if host and (scheme == "https" or (scheme == "http" and host in _LOOPBACK)):
        return url
    # Whoever can change the answer on its way can sign as anybody.
    raise _bad("jwks_url", "must be an https URL (http will do on this machine only)")
