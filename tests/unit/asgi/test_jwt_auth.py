from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from webkit_asgi import jwt_auth
from webkit_asgi.jwt_auth import (
    ASK_AGAIN_S,
    FRESH_S,
    INSTALL,
    LAST_S,
    MAX_ID_CHARS,
    MAX_JWKS_BYTES,
    MAX_LEEWAY_S,
    MAX_TOKEN_CHARS,
    STALE_S,
    JwtVerifier,
)
from webkit_asgi.principal import Principal
from webkit_asgi.responses import Unauthorized
from webkit_core import ConfigError

ISSUER = "https://issuer.example"
AUDIENCE = "agents"
PATIENCE_S = 30.0
"""When what a test waits for will not happen any more."""

Json = dict[str, Any]
RsaKey = rsa.RSAPrivateKey
EcKey = ec.EllipticCurvePrivateKey
Private = RsaKey | EcKey

LEFT_OUT: Any = ...
"""A claim of this value is not there at all."""


# --- keys


@dataclass
class Keys:
    """The issuer's, and somebody else's."""

    rsa: RsaKey
    ec: EcKey
    next_rsa: RsaKey
    their_rsa: RsaKey
    their_ec: EcKey
    weak: RsaKey
    p384: EcKey


@pytest.fixture(scope="module")
def keys() -> Keys:
    def rsa_key(bits: int = 2048) -> RsaKey:
        return rsa.generate_private_key(65537, bits)

    return Keys(
        rsa=rsa_key(),
        ec=ec.generate_private_key(ec.SECP256R1()),
        next_rsa=rsa_key(),
        their_rsa=rsa_key(),
        their_ec=ec.generate_private_key(ec.SECP256R1()),
        weak=rsa_key(1024),
        p384=ec.generate_private_key(ec.SECP384R1()),
    )


def public_pem(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, form)
    return pem.decode()


def private_pem(key: Any, form: PrivateFormat) -> str:
    pem: bytes = key.private_bytes(Encoding.PEM, form, serialization.NoEncryption())
    return pem.decode()


def certificate_pem(key: Private) -> str:
    """One that nobody vouches for, and that has run out."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def jwk(key: Private, kid: str | None = None, **more: Any) -> Json:
    public = key.public_key()
    data = (
        RSAAlgorithm.to_jwk(public, as_dict=True)
        if isinstance(public, rsa.RSAPublicKey)
        else ECAlgorithm.to_jwk(public, as_dict=True)
    )
    return data | ({} if kid is None else {"kid": kid}) | more


def jwks(*members: Json) -> bytes:
    return json.dumps({"keys": members}).encode()


# --- tokens


def part(data: object) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def joined(header: object, claims: object, signature: bytes) -> str:
    return f"{part(header)}.{part(claims)}.{part(signature)}"


def signed(header: object, claims: object, key: Any, algorithm: str) -> str:
    """A token whose signature is right, whatever its header says."""
    text = f"{part(header)}.{part(claims)}"
    signature = jwt.get_algorithm_by_name(algorithm).sign(text.encode(), key)
    return f"{text}.{part(signature)}"


def claims(**changes: Any) -> Json:
    now_s = int(time.time())
    honest = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": now_s,
        "exp": now_s + 600,
    }
    return {k: v for k, v in (honest | changes).items() if v is not LEFT_OUT}


def claims_text(**parts: str) -> bytes:
    """Claims as JSON that ``json.dumps`` would not write."""
    texts = {name: json.dumps(value) for name, value in claims().items()} | parts
    return ("{" + ",".join(f'"{k}":{v}' for k, v in texts.items()) + "}").encode()


def rs256(keys: Keys, body: object = None, **header: Any) -> str:
    """A token by the issuer."""
    header = {"alg": "RS256", "kid": "r"} | header
    return signed(header, claims() if body is None else body, keys.rsa, "RS256")


def es256(keys: Keys, body: object = None, **header: Any) -> str:
    header = {"alg": "ES256", "kid": "e"} | header
    return signed(header, claims() if body is None else body, keys.ec, "ES256")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


# --- who publishes keys


@dataclass
class Endpoint:
    """An HTTP server on this machine; says what ``answer`` does to a request."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    begun: threading.Event = field(default_factory=threading.Event)
    """Set when a request has come."""
    gate: threading.Event = field(default_factory=threading.Event)
    """No answer before it is set, as it is unless a test clears it."""
    answer: Callable[[BaseHTTPRequestHandler], None] | None = None

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        self.agents.append(request.headers["user-agent"])
        self.begun.set()
        assert self.gate.wait(PATIENCE_S)
        try:
            (self.answer or self.say)(request)
        except ConnectionError:
            pass

    def say(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(self.status)
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(self.body)

    def publish(self, *members: Json) -> None:
        self.status, self.body = 200, jwks(*members)


def serve(endpoint: Endpoint) -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            endpoint.handle(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}/keys"
    endpoint.gate.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.005,))
    thread.start()
    yield endpoint
    endpoint.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def issuer(keys: Keys) -> Iterator[Endpoint]:
    endpoint = Endpoint()
    endpoint.publish(jwk(keys.rsa, "r"), jwk(keys.ec, "e"))
    yield from serve(endpoint)


@pytest.fixture
def attacker(keys: Keys) -> Iterator[Endpoint]:
    endpoint = Endpoint()
    endpoint.publish(jwk(keys.their_rsa, "r"), jwk(keys.their_ec, "e"))
    yield from serve(endpoint)


class HandMade:
    """Stands where ``time`` is: what it says the test has set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandMade:
    clock = HandMade()
    monkeypatch.setattr(jwt_auth, "time", clock)
    return clock


def asking(endpoint: Endpoint) -> JwtVerifier:
    return JwtVerifier(issuer=ISSUER, audience=AUDIENCE, jwks_url=endpoint.url)


def knowing(key: Private | str, **more: Any) -> JwtVerifier:
    pem = key if isinstance(key, str) else public_pem(key)
    return JwtVerifier(**{"issuer": ISSUER, "audience": AUDIENCE, "key": pem} | more)


async def lets_in(verifier: JwtVerifier, token: str) -> bool:
    try:
        await verifier(bearer(token))
    except Unauthorized:
        return False
    return True


# --- what is accepted


async def test_token_is_for_its_subject_until_it_expires(
    keys: Keys, issuer: Endpoint
) -> None:
    verifier = asking(issuer)
    exp = int(time.time()) + 600

    for token in (rs256(keys, claims(exp=exp)), es256(keys, claims(exp=exp))):
        assert await verifier(bearer(token)) == Principal(f"{ISSUER}|alice", exp)

    assert issuer.asked == ["/keys"]
    assert issuer.agents == ["webkit-asgi"]


async def test_token_may_expire_at_a_fraction_of_a_second(keys: Keys) -> None:
    exp = int(time.time()) + 600.5

    principal = await knowing(keys.rsa)(bearer(rs256(keys, claims(exp=exp))))

    assert principal.expires_at_s == exp
    assert isinstance(principal.expires_at_s, float)


async def test_expiry_of_an_integer_is_a_float(keys: Keys) -> None:
    principal = await knowing(keys.rsa)(bearer(rs256(keys)))

    assert isinstance(principal.expires_at_s, float)


@pytest.mark.parametrize("pem_of", [public_pem, certificate_pem])
async def test_key_may_be_a_public_key_or_a_certificate(
    keys: Keys, pem_of: Callable[[Private], str]
) -> None:
    by_rsa = knowing(pem_of(keys.rsa))
    by_ec = knowing(pem_of(keys.ec))

    assert await lets_in(by_rsa, rs256(keys))
    assert await lets_in(by_ec, es256(keys))
    assert not await lets_in(by_rsa, es256(keys))
    assert not await lets_in(by_ec, rs256(keys))


async def test_fixed_key_goes_by_any_name(keys: Keys) -> None:
    verifier = knowing(keys.rsa)
    nameless = signed({"alg": "RS256"}, claims(), keys.rsa, "RS256")

    assert await lets_in(verifier, rs256(keys, kid="anything"))
    assert await lets_in(verifier, nameless)


@pytest.mark.parametrize(
    "before", ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer   "]
)
@pytest.mark.parametrize("behind", ["", " ", "   "])
async def test_scheme_is_written_in_any_case(
    keys: Keys, before: str, behind: str
) -> None:
    headers = {"authorization": f"{before}{rs256(keys)}{behind}"}

    assert (await knowing(keys.rsa)(headers)).id == f"{ISSUER}|alice"


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["others", AUDIENCE]])
async def test_audience_is_ours_or_holds_us(keys: Keys, audience: Any) -> None:
    assert await lets_in(knowing(keys.rsa), rs256(keys, claims(aud=audience)))


@pytest.mark.parametrize("late_s", [-20, 20])
async def test_clocks_may_differ_by_the_leeway(keys: Keys, late_s: int) -> None:
    now_s = int(time.time())
    token = rs256(keys, claims(exp=now_s - 20, nbf=now_s + late_s, iat=now_s + late_s))

    assert (await knowing(keys.rsa)(bearer(token))).expires_at_s == now_s - 20
    assert not await lets_in(knowing(keys.rsa, leeway_s=0.0), token)
    assert not await lets_in(knowing(keys.rsa, leeway_s=10.0), token)


@pytest.mark.parametrize(
    "name", ["a", "auth0|123", "zoë", "x" * MAX_ID_CHARS, " with blanks "]
)
async def test_principal_is_the_issuer_and_the_claim_as_it_is(
    keys: Keys, name: str
) -> None:
    by_sub = await knowing(keys.rsa)(bearer(rs256(keys, claims(sub=name))))
    by_uid = await knowing(keys.rsa, claim="uid")(
        bearer(rs256(keys, claims(uid=name, sub=LEFT_OUT)))
    )

    assert by_sub.id == by_uid.id == f"{ISSUER}|{name}"


async def test_principals_of_two_issuers_are_two(keys: Keys) -> None:
    """Whatever is in the claim: the first bar ends the issuer, as none has one."""
    ids = set()
    pairs = [("https://a", "b|c"), ("https://a", "c"), ("https://b", "c"), ("b", "c")]
    for iss, sub in pairs:
        token = rs256(keys, claims(iss=iss, sub=sub))
        ids.add((await knowing(keys.rsa, issuer=iss)(bearer(token))).id)

    assert len(ids) == len(pairs)
    with pytest.raises(ConfigError, match="issuer"):
        knowing(keys.rsa, issuer="https://a|b")


def of_length(keys: Keys, length: int) -> str:
    """A token of so many characters, by the issuer."""
    for pad in range(4):
        start = 8000 - pad
        for more in range(8):
            body = claims(pad="x" * (start + more))
            short = length - len(rs256(keys, body, pad=""))
            token = rs256(keys, body, pad="x" * (short * 3 // 4))
            if len(token) == length:
                return token
    raise AssertionError("no such length")


async def test_token_is_as_long_as_the_limit_at_most(keys: Keys) -> None:
    verifier = knowing(keys.rsa)

    assert await lets_in(verifier, of_length(keys, MAX_TOKEN_CHARS))
    assert not await lets_in(verifier, of_length(keys, MAX_TOKEN_CHARS + 1))


# --- attacks


@dataclass
class Kit:
    """What an attacker has: honest tokens, public keys, and their own of all that."""

    keys: Keys
    url: str

    @property
    def honest(self) -> str:
        return rs256(self.keys)

    def forged(self, **header: Any) -> str:
        return signed(honest_header(**header), claims(), self.keys.their_rsa, "RS256")


Attack = Callable[[Kit], str]


def honest_header(**changes: Any) -> Json:
    header = {"alg": "RS256", "kid": "r"} | changes
    return {k: v for k, v in header.items() if v is not LEFT_OUT}


def unsigned(alg: Any, signature: bytes) -> Attack:
    return lambda kit: joined(honest_header(alg=alg), claims(), signature)


def keyed(secret: Callable[[Keys], bytes], alg: str, said: str | None = None) -> Attack:
    """An HMAC with what everybody knows as its secret."""

    def attack(kit: Kit) -> str:
        text = f"{part(honest_header(alg=said or alg))}.{part(claims())}"
        digest = hmac.digest(secret(kit.keys), text.encode(), f"sha{alg[2:]}")
        return f"{text}.{part(digest)}"

    return attack


def by_issuer(header: object = None, algorithm: str = "RS256") -> Attack:
    """Signed with the issuer's RSA key, as the algorithm wants it."""
    header = honest_header(alg=algorithm) if header is None else header
    return lambda kit: signed(header, claims(), kit.keys.rsa, algorithm)


def by_other(**header: Any) -> Attack:
    """Signed with somebody else's RSA key."""
    return lambda kit: kit.forged(**header)


def claiming(**changes: Any) -> Attack:
    """By the issuer, but not for us, or not now."""
    return lambda kit: rs256(kit.keys, claims(**changes))


def claiming_from_now(**after_s: int) -> Attack:
    return lambda kit: rs256(
        kit.keys, claims(**{k: int(time.time()) + s for k, s in after_s.items()})
    )


def claiming_text(**parts: str) -> Attack:
    return lambda kit: rs256(kit.keys, claims_text(**parts))


def payload(body: object) -> Attack:
    return lambda kit: rs256(kit.keys, body)


def bent(change: Callable[[str], str]) -> Attack:
    """An honest token, changed on its way."""
    return lambda kit: change(kit.honest)


def resigned(change: Callable[[bytes], bytes]) -> Attack:
    """An honest token with another signature."""

    def attack(kit: Kit) -> str:
        header, body, signature = kit.honest.split(".")
        changed = change(base64.urlsafe_b64decode(signature + "=="))
        return f"{header}.{body}.{part(changed)}"

    return attack


def exchanged(at: int, data: object) -> Attack:
    """An honest token with one of its parts replaced."""

    def attack(kit: Kit) -> str:
        pieces = kit.honest.split(".")
        pieces[at] = part(data)
        return ".".join(pieces)

    return attack


def signature_of_another(kit: Kit) -> str:
    signature = rs256(kit.keys, claims(sub="bob")).split(".")[2]
    return ".".join([*kit.honest.split(".")[:2], signature])


def json_serialization(kit: Kit) -> str:
    names = ("protected", "payload", "signature")
    return json.dumps(dict(zip(names, kit.honest.split("."), strict=True)))


def pem_bytes(keys: Keys) -> bytes:
    return public_pem(keys.rsa).encode()


def der_bytes(keys: Keys) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return keys.rsa.public_key().public_bytes(Encoding.DER, form)


def jwks_bytes(keys: Keys) -> bytes:
    return jwks(jwk(keys.rsa, "r"), jwk(keys.ec, "e"))


NO_ALGORITHMS: Final[list[Any]] = [
    *("none", "None", "NONE", "nOnE", "none ", "", "\0none"),
    *(None, ["none"], 0, {}),
]

UNSIGNED: dict[str, Attack] = {
    f"alg {alg!r}, {len(signature)} bytes of signature": unsigned(alg, signature)
    for alg in NO_ALGORITHMS
    for signature in (b"", b"x" * 256)
}

ALGORITHMS: dict[str, Attack] = {
    "HS256 with the PEM": keyed(pem_bytes, "HS256"),
    "HS384 with the PEM": keyed(pem_bytes, "HS384"),
    "HS512 with the PEM": keyed(pem_bytes, "HS512"),
    "HS256 with the PEM, stripped": keyed(lambda k: pem_bytes(k).strip(), "HS256"),
    "HS256 with the DER": keyed(der_bytes, "HS256"),
    "HS256 with the JWKS": keyed(jwks_bytes, "HS256"),
    "HS256 with the JWK": keyed(
        lambda keys: json.dumps(jwk(keys.rsa, "r")).encode(), "HS256"
    ),
    "HS256 with nothing": keyed(lambda keys: b"", "HS256"),
    "HS256 that says RS256": keyed(pem_bytes, "HS256", "RS256"),
    "RS384 by the issuer": by_issuer(algorithm="RS384"),
    "RS512 by the issuer": by_issuer(algorithm="RS512"),
    "PS256 by the issuer": by_issuer(algorithm="PS256"),
    "PS256 that says RS256": by_issuer(honest_header(), "PS256"),
    "RS256 in small letters": by_issuer(honest_header(alg="rs256")),
    "a list of algs": by_issuer(honest_header(alg=["RS256"])),
    "no alg": by_issuer(honest_header(alg=LEFT_OUT)),
    "RS256 with the EC key's kid": by_other(kid="e"),
    "ES256 with the RSA key's kid": lambda kit: signed(
        {"alg": "ES256", "kid": "r"}, claims(), kit.keys.their_ec, "ES256"
    ),
    "ES256 of zeros": lambda kit: joined(
        {"alg": "ES256", "kid": "e"}, claims(), bytes(64)
    ),
    "RS256 of zeros": unsigned("RS256", bytes(256)),
    "RS256 of one": unsigned("RS256", bytes(255) + b"\1"),
}

SIGNATURES: dict[str, Attack] = {
    "by somebody else": by_other(),
    "by somebody else, without kid": by_other(kid=LEFT_OUT),
    "embedded jwk": lambda kit: kit.forged(jwk=jwk(kit.keys.their_rsa)),
    "embedded jwk of the same kid": lambda kit: kit.forged(
        jwk=jwk(kit.keys.their_rsa, "r")
    ),
    "embedded jwk, without kid": lambda kit: kit.forged(
        kid=LEFT_OUT, jwk=jwk(kit.keys.their_rsa)
    ),
    "embedded x5c": lambda kit: kit.forged(
        x5c=["".join(certificate_pem(kit.keys.their_rsa).splitlines()[1:-1])]
    ),
    "jku": lambda kit: kit.forged(jku=kit.url),
    "x5u": lambda kit: kit.forged(x5u=kit.url),
    "jku and a kid nobody knows": lambda kit: kit.forged(jku=kit.url, kid="x"),
    "kid that is a URL": lambda kit: kit.forged(kid=kit.url),
    "kid that is a file": by_other(kid="../../../../dev/null"),
    "two parts": bent(lambda token: token.rpartition(".")[0]),
    "signature stripped": bent(lambda token: token.rpartition(".")[0] + "."),
    "signature of another token": signature_of_another,
    "signature cut": resigned(lambda signature: signature[:-1]),
    "signature made longer": resigned(lambda signature: signature + b"\0"),
    "signature with a bit turned": resigned(lambda s: bytes([s[0] ^ 1]) + s[1:]),
    "payload changed": exchanged(1, claims(sub="root")),
    "header changed": exchanged(0, honest_header(typ="JWT")),
}

HEADERS: dict[str, Attack] = {
    "crit of what we do": by_issuer(honest_header(crit=["exp"], exp=1)),
    "crit of b64": by_issuer(honest_header(crit=["b64"], b64=True)),
    "crit of nothing": by_issuer(honest_header(crit=[])),
    "crit that is text": by_issuer(honest_header(crit="b64", b64=True)),
    "payload not encoded": by_issuer(honest_header(crit=["b64"], b64=False)),
    "b64 without crit": by_issuer(honest_header(b64=False)),
    "kid that is a number": by_issuer(honest_header(kid=1)),
    "kid that is null": by_issuer(honest_header(kid=None)),
    "kid that is a list": by_issuer(honest_header(kid=["r"])),
    "kid that is an object": by_issuer(honest_header(kid={"r": 1})),
    "alg twice, ours last": by_issuer(b'{"alg":"none","kid":"r","alg":"RS256"}'),
    "alg twice, ours first": by_issuer(b'{"alg":"RS256","kid":"r","alg":"none"}'),
    "kid twice": by_issuer(b'{"alg":"RS256","kid":"e","kid":"r"}'),
    "a name twice, deep inside": by_issuer(
        b'{"alg":"RS256","kid":"r","x":[{"a":1,"a":2}]}'
    ),
    "header that is a list": by_issuer(["RS256"]),
    "header that is text": by_issuer("RS256"),
    "header that is null": by_issuer(b"null"),
    "header that is not JSON": by_issuer(b"alg=RS256"),
    "header that is not text": by_issuer(b'{"alg":"RS256","kid":"\xff"}'),
    "header with one behind it": by_issuer(b'{"alg":"RS256","kid":"r"}{}'),
    "header that is deep": by_issuer(b"[" * 8000),
    "header with a huge number": by_issuer(
        b'{"alg":"RS256","kid":"r","x":' + b"9" * 6000 + b"}"
    ),
}

CLAIMS: dict[str, Attack] = {
    f"{name} {str(value)[:25]!r} {type(value).__name__}": claiming(**{name: value})
    for name, values in {
        "iss": [
            *(LEFT_OUT, None, "", 5, [ISSUER], {ISSUER: 1}),
            *(ISSUER + "/", ISSUER[:-1], ISSUER.upper(), "https://other.example"),
        ],
        "aud": [
            *(LEFT_OUT, None, "", 5, [], {AUDIENCE: 1}, [[AUDIENCE]], [AUDIENCE, 5]),
            *(AUDIENCE + "s", AUDIENCE[:-1], AUDIENCE.upper(), "o", ["o", "others"]),
        ],
        "exp": [
            *(LEFT_OUT, None, "", 0, -1, True, [], {}, "soon", "9999999999"),
            *(LAST_S + 1, 1e300, 10**400, float("nan"), float("inf"), -float("inf")),
        ],
        "nbf": ["tomorrow", float("inf"), [], {}],
        "iat": ["today", float("inf"), [], {}],
        "sub": [
            *(LEFT_OUT, None, "", 5, True, ["alice"], {"id": "alice"}),
            *("x" * (MAX_ID_CHARS + 1), "a\n", "a\0b", "a\u2028", "\ud800"),
        ],
    }.items()
    for value in values
} | {
    "exp beyond a float": claiming_text(exp="1e999"),
    "expired": claiming_from_now(exp=-40),
    "not yet valid": claiming_from_now(nbf=60),
    "issued in the future": claiming_from_now(iat=60),
    "sub twice": lambda kit: rs256(kit.keys, claims_text()[:-1] + b',"sub":"root"}'),
    "exp twice": lambda kit: rs256(
        kit.keys, claims_text()[:-1] + b',"exp":9999999999}'
    ),
    "claims that are a list": lambda kit: rs256(kit.keys, [claims()]),
    "claims that are text": payload("alice"),
    "claims that are null": payload(b"null"),
    "claims that are not JSON": payload(b"sub=alice"),
    "claims that are deep": payload(b"[" * 8000),
    "no claims": payload(b""),
}

SHAPES: dict[str, Attack] = {
    "1 MB by the issuer": claiming(pad="x" * 2**20),
    "1 MB of dots": lambda kit: "." * 2**20,
    "1 MB of letters": lambda kit: "a" * 2**20,
    "nothing": lambda kit: "",
    "dots": lambda kit: "..",
    "not base64": lambda kit: "!!!.???.***",
    "not base64 in length": lambda kit: "a.b.c",
    "four parts": bent(lambda token: token + ".x"),
    "five parts": bent(lambda token: token + ".x.y"),
    "padded": bent(lambda token: token + "=="),
    "plain base64": bent(lambda token: token + "+/"),
    "JSON serialization": json_serialization,
    "NUL behind": bent(lambda token: token + "\0"),
    "NUL in front": bent(lambda token: "\0" + token),
    "NUL between": bent(lambda token: token.replace(".", "\0.", 1)),
    "NUL instead of a dot": bent(lambda token: token.replace(".", "\0", 1)),
    "blank between": bent(lambda token: token.replace(".", ". ", 1)),
    "line end behind": bent(lambda token: token + "\n"),
    "tab behind": bent(lambda token: token + "\t"),
    "tab in front": bent(lambda token: "\t" + token),
    "no-break space": bent(lambda token: "\xa0" + token),
    "letters beyond ASCII": bent(lambda token: token + "é"),
    "half a character": bent(lambda token: token + "\ud800"),
    "another header line": bent(lambda token: token + "\r\nX-User: root"),
    "two tokens": bent(lambda token: f"{token} {token}"),
    "the scheme twice": bent(lambda token: f"Bearer {token}"),
    "two headers joined": bent(lambda token: f"{token}, Bearer {token}"),
    "another scheme behind": bent(lambda token: f"{token}, Basic eDp5"),
    "a parameter behind": bent(lambda token: f'{token}, realm="x"'),
}

ATTACKS = UNSIGNED | ALGORITHMS | SIGNATURES | HEADERS | CLAIMS | SHAPES


@pytest.fixture(params=["of a URL", "fixed"])
def verifier(
    request: pytest.FixtureRequest, keys: Keys, issuer: Endpoint
) -> JwtVerifier:
    return asking(issuer) if request.param == "of a URL" else knowing(keys.rsa)


@pytest.mark.parametrize("name", ATTACKS)
async def test_attack_is_refused_like_any_other(
    name: str,
    keys: Keys,
    verifier: JwtVerifier,
    issuer: Endpoint,
    attacker: Endpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger=jwt_auth.__name__)
    kit = Kit(keys, attacker.url)
    token = ATTACKS[name](kit)
    assert await lets_in(verifier, kit.honest), "else nothing is shown here"

    with pytest.raises(Unauthorized) as caught:
        await verifier(bearer(token))

    assert str(caught.value) == str(Unauthorized())
    assert caught.value.args == ()
    assert caught.value.__suppress_context__
    assert attacker.asked == []
    assert len(issuer.asked) <= 1
    (line,) = caplog.messages
    assert line.startswith("a token was refused: ")
    assert len(line) < 160
    assert line.isascii()
    assert line.isprintable()
    assert not any(len(piece) > 8 and piece in line for piece in token.split("."))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "{token}"},
        {"authorization": " Bearer {token}"},
        {"authorization": "\nBearer {token}"},
        {"authorization": "Bearer{token}"},
        {"authorization": "Bearer\t{token}"},
        {"authorization": "Bearer\xa0{token}"},
        {"authorization": "Basic {token}"},
        {"authorization": "DPoP {token}"},
        {"authorization": "Token {token}"},
        {"authorization": "Bearer: {token}"},
        {"authorization": "Bearer={token}"},
        {"authorization": "Basic eDp5, Bearer {token}"},
        {"authorization": "Basic eDp5 Bearer {token}"},
        {"authorization": "Basic eDp5", "x-authorization": "Bearer {token}"},
        {"Authorization": "Bearer {token}"},
        {"proxy-authorization": "Bearer {token}"},
        {"x-forwarded-access-token": "{token}"},
        {"cookie": "authorization=Bearer {token}"},
        {"bearer": "{token}"},
    ],
)
async def test_token_anywhere_else_is_no_token(
    keys: Keys, headers: dict[str, str]
) -> None:
    verifier = knowing(keys.rsa)
    token = rs256(keys)
    assert await lets_in(verifier, token)

    with pytest.raises(Unauthorized):
        await verifier({k: v.format(token=token) for k, v in headers.items()})


async def test_no_character_of_a_token_can_be_another(keys: Keys) -> None:
    verifier = knowing(keys.ec)
    token = es256(keys)
    assert await lets_in(verifier, token)

    for at, character in enumerate(token):
        for other in ("A" if character != "A" else "B", "."):
            if other != character:
                changed = token[:at] + other + token[at + 1 :]
                assert not await lets_in(verifier, changed), at


async def test_headers_that_lead_elsewhere_do_not_harm_an_honest_token(
    keys: Keys, issuer: Endpoint, attacker: Endpoint
) -> None:
    """Some issuers set them."""
    token = rs256(
        keys, jku=attacker.url, x5u=attacker.url, jwk=jwk(keys.their_rsa), x5t="x"
    )

    assert await lets_in(asking(issuer), token)
    assert attacker.asked == []


async def test_refusal_tells_the_log_why(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=jwt_auth.__name__)

    await lets_in(knowing(keys.rsa), rs256(keys, claims(exp=1)))
    await lets_in(knowing(keys.rsa), rs256(keys, claims(sub=LEFT_OUT)))
    await lets_in(knowing(keys.rsa), rs256(keys, crit=["forged\nINFO: all is well"]))

    assert "ExpiredSignatureError" in caplog.messages[0]
    assert "MissingRequiredClaimError('sub')" in caplog.messages[1]
    assert "crit" in caplog.messages[2]


async def test_claim_that_names_the_principal_must_be_there(keys: Keys) -> None:
    verifier = knowing(keys.rsa, claim="uid")

    assert await lets_in(verifier, rs256(keys, claims(uid="alice")))
    for uid in (LEFT_OUT, None, "", 5, ["alice"], "x" * (MAX_ID_CHARS + 1), "\n"):
        assert not await lets_in(verifier, rs256(keys, claims(uid=uid)))


# --- keys from a URL


async def test_no_token_that_cannot_be_ours_makes_the_issuer_be_asked(
    keys: Keys, issuer: Endpoint
) -> None:
    verifier = asking(issuer)
    kit = Kit(keys, issuer.url)

    for attack in (UNSIGNED | SHAPES).values():
        assert not await lets_in(verifier, attack(kit))
    for name in ("HS256 with the PEM", "PS256 by the issuer", "no alg"):
        assert not await lets_in(verifier, ALGORITHMS[name](kit))

    assert issuer.asked == []


async def test_rotation_keeps_the_old_key_while_it_is_there(
    keys: Keys, issuer: Endpoint, clock: HandMade
) -> None:
    verifier = asking(issuer)
    new = signed({"alg": "RS256", "kid": "n"}, claims(), keys.next_rsa, "RS256")
    assert await lets_in(verifier, rs256(keys))

    issuer.publish(jwk(keys.rsa, "r"), jwk(keys.next_rsa, "n"))
    assert not await lets_in(verifier, new)  # it was asked just now
    clock.now_s += ASK_AGAIN_S
    assert await lets_in(verifier, new)
    assert await lets_in(verifier, rs256(keys))
    assert len(issuer.asked) == 2

    issuer.publish(jwk(keys.next_rsa, "n"))
    clock.now_s += FRESH_S - 0.1
    assert await lets_in(verifier, rs256(keys))
    clock.now_s += 0.1
    assert not await lets_in(verifier, rs256(keys))
    assert await lets_in(verifier, new)
    assert len(issuer.asked) == 3


async def test_key_under_the_old_name_is_another_key(
    keys: Keys, issuer: Endpoint, clock: HandMade
) -> None:
    verifier = asking(issuer)
    new = signed({"alg": "RS256", "kid": "r"}, claims(), keys.next_rsa, "RS256")
    assert await lets_in(verifier, rs256(keys))

    issuer.publish(jwk(keys.next_rsa, "r"))
    clock.now_s += FRESH_S

    assert await lets_in(verifier, new)
    assert not await lets_in(verifier, rs256(keys))


@pytest.mark.parametrize("status", [200, 503])
async def test_flood_of_unknown_kids_asks_once_in_a_while(
    keys: Keys, issuer: Endpoint, clock: HandMade, status: int
) -> None:
    verifier = asking(issuer)
    issuer.status = status
    seconds = 60
    for _ in range(seconds):
        flood = [rs256(keys, kid=f"{clock.now_s} {n}") for n in range(3)]
        assert not any([await lets_in(verifier, token) for token in flood])
        clock.now_s += 1

    assert len(issuer.asked) == seconds / ASK_AGAIN_S


async def test_requests_at_once_share_what_is_asked(
    keys: Keys, issuer: Endpoint
) -> None:
    verifier = asking(issuer)
    issuer.gate.clear()

    tokens = [rs256(keys, claims(sub=f"u{n}")) for n in range(20)]
    requests = [asyncio.ensure_future(verifier(bearer(token))) for token in tokens]
    assert await asyncio.to_thread(issuer.begun.wait, PATIENCE_S)
    # Here the loop runs, though the answer is not there.
    assert not any(request.done() for request in requests)
    requests[0].cancel()
    await asyncio.wait(requests[:1])
    issuer.gate.set()

    principals = await asyncio.gather(*requests[1:])
    assert [p.id for p in principals] == [f"{ISSUER}|u{n}" for n in range(1, 20)]
    assert len(issuer.asked) == 1


def broken(endpoint: Endpoint, keys: Keys, how: str) -> None:
    """Make the endpoint fail, in one of many ways."""
    their = jwk(keys.their_rsa, "r")
    bodies = {
        "garbage": b"<html>signed in?</html>",
        "not text": b"\xff\xfe\xfd",
        "a list": json.dumps([their]).encode(),
        "null": b"null",
        "nothing": b"",
        "deep": b"[" * 100_000,
        "no keys": jwks(),
        "keys that are no list": json.dumps({"keys": their}).encode(),
        "an odd alg": jwks(their | {"alg": ["RS256"]}),
        "huge": jwks(their).ljust(MAX_JWKS_BYTES + 1),
        "half": endpoint.body[:-20],
    }
    if how == "half":
        endpoint.headers = {"content-length": str(len(endpoint.body))}
    if how == "hangs up":
        endpoint.answer = lambda request: None
    endpoint.status = {"503": 503, "404": 404}.get(how, 200)
    endpoint.body = bodies.get(how, endpoint.body)


OUTAGES = (
    *("503", "404", "garbage", "not text", "a list", "null", "nothing", "deep"),
    *("no keys", "keys that are no list", "an odd alg", "huge", "half", "hangs up"),
)


@pytest.mark.parametrize("how", OUTAGES)
async def test_outage_does_not_refuse_whose_key_is_known(
    keys: Keys,
    issuer: Endpoint,
    clock: HandMade,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, logger=jwt_auth.__name__)
    verifier = asking(issuer)
    assert await lets_in(verifier, rs256(keys))
    came_at_s = clock.now_s
    honest = issuer.body

    broken(issuer, keys, how)
    clock.now_s += FRESH_S
    assert await lets_in(verifier, rs256(keys))
    assert len(issuer.asked) == 2
    (line,) = caplog.messages
    assert line.startswith("no keys from 127.0.0.1: ")

    clock.now_s = came_at_s + STALE_S - 0.1
    assert await lets_in(verifier, rs256(keys))
    clock.now_s = came_at_s + STALE_S + ASK_AGAIN_S
    assert not await lets_in(verifier, rs256(keys))

    issuer.answer, issuer.headers, issuer.status, issuer.body = None, {}, 200, honest
    clock.now_s += ASK_AGAIN_S
    assert await lets_in(verifier, rs256(keys))


@pytest.mark.parametrize("how", OUTAGES)
async def test_outage_from_the_start_refuses_until_it_is_over(
    keys: Keys, issuer: Endpoint, clock: HandMade, how: str
) -> None:
    verifier = asking(issuer)
    honest = issuer.body
    broken(issuer, keys, how)

    assert not await lets_in(verifier, rs256(keys))
    assert not await lets_in(verifier, Kit(keys, "").forged())
    issuer.answer, issuer.headers, issuer.status, issuer.body = None, {}, 200, honest
    assert not await lets_in(verifier, rs256(keys))
    assert len(issuer.asked) == 1
    clock.now_s += ASK_AGAIN_S
    assert await lets_in(verifier, rs256(keys))


async def test_nobody_there_is_an_outage(
    keys: Keys, clock: HandMade, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Endpoint()
    endpoint.publish(jwk(keys.rsa, "r"))
    serving = serve(endpoint)
    verifier = asking(next(serving))
    assert await lets_in(verifier, rs256(keys))
    for _ in serving:
        pass

    clock.now_s += FRESH_S
    assert await lets_in(verifier, rs256(keys))
    assert "URLError" in caplog.messages[0]


async def test_while_the_url_fails_nobody_waits_who_has_a_key(
    keys: Keys, issuer: Endpoint, clock: HandMade
) -> None:
    verifier = asking(issuer)
    assert await lets_in(verifier, rs256(keys))
    issuer.status = 503
    clock.now_s += FRESH_S
    assert await lets_in(verifier, rs256(keys))

    issuer.publish(jwk(keys.next_rsa, "r"))
    issuer.gate.clear()
    issuer.begun.clear()
    clock.now_s += ASK_AGAIN_S
    assert await asyncio.wait_for(lets_in(verifier, rs256(keys)), PATIENCE_S / 2)
    assert await asyncio.to_thread(issuer.begun.wait, PATIENCE_S)
    unknown = asyncio.ensure_future(lets_in(verifier, rs256(keys, kid="x")))
    await asyncio.sleep(0)
    issuer.gate.set()
    assert not await unknown

    # It answers again, so that the next who are too late do wait.
    assert not await lets_in(verifier, rs256(keys))
    issuer.publish(jwk(keys.rsa, "r"))
    clock.now_s += FRESH_S
    assert await lets_in(verifier, rs256(keys))


async def test_answer_of_the_greatest_length_is_taken(
    keys: Keys, issuer: Endpoint
) -> None:
    issuer.body = issuer.body.ljust(MAX_JWKS_BYTES)

    assert await lets_in(asking(issuer), rs256(keys))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(
    keys: Keys, issuer: Endpoint, attacker: Endpoint, status: int
) -> None:
    verifier = asking(issuer)
    issuer.status = status
    issuer.headers = {"location": attacker.url}

    assert not await lets_in(verifier, Kit(keys, attacker.url).forged())
    assert not await lets_in(verifier, rs256(keys))
    assert len(issuer.asked) == 1
    assert attacker.asked == []


async def test_proxy_is_not_asked_for_what_is_on_this_machine(
    keys: Keys, issuer: Endpoint, attacker: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", attacker.url)

    assert await lets_in(asking(issuer), rs256(keys))
    assert attacker.asked == []


async def test_request_waits_for_keys_so_long_and_no_longer(
    keys: Keys, issuer: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, but not the whole."""
    monkeypatch.setattr(jwt_auth, "FETCH_TIMEOUT_S", 0.5)
    refused = threading.Event()
    bytes_sent = 0

    def drip(request: BaseHTTPRequestHandler) -> None:
        nonlocal bytes_sent
        request.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        while bytes_sent < 100 and not refused.wait(0.05):
            bytes_sent += request.wfile.write(b"x")
        request.wfile.write(b"\r\n\r\n" + issuer.body)

    issuer.answer = drip

    assert not await lets_in(asking(issuer), rs256(keys))
    refused.set()
    assert bytes_sent < 100


async def test_silence_is_given_up(
    keys: Keys, issuer: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the request, and by the thread, which would not come back otherwise."""
    monkeypatch.setattr(jwt_auth, "FETCH_TIMEOUT_S", 0.05)
    hung_up = threading.Event()

    def keep_silent(request: BaseHTTPRequestHandler) -> None:
        request.connection.settimeout(5.0)
        if request.rfile.read(1) == b"":
            hung_up.set()

    issuer.answer = keep_silent

    assert not await lets_in(asking(issuer), rs256(keys))
    assert await asyncio.to_thread(hung_up.wait, 5.0)


async def test_answer_in_many_pieces_is_given_up(
    keys: Keys, issuer: Endpoint, clock: HandMade
) -> None:
    """Else a thread would be taken for as long as the other end likes."""

    def late(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(issuer.body[:10])
        clock.now_s += 5.0
        request.wfile.write(issuer.body[10:])

    issuer.answer = late

    assert not await lets_in(asking(issuer), rs256(keys))


async def test_without_kid_it_is_the_only_key_for_the_algorithm(
    keys: Keys, issuer: Endpoint, clock: HandMade
) -> None:
    verifier = asking(issuer)
    nameless = signed({"alg": "RS256"}, claims(), keys.rsa, "RS256")
    assert await lets_in(verifier, nameless)

    issuer.publish(jwk(keys.rsa, "r"), jwk(keys.next_rsa, "n"))
    clock.now_s += FRESH_S
    assert not await lets_in(verifier, nameless)
    assert await lets_in(verifier, rs256(keys))

    issuer.publish(jwk(keys.rsa))
    clock.now_s += FRESH_S
    assert await lets_in(verifier, nameless)
    assert not await lets_in(verifier, rs256(keys))


async def test_keys_of_one_name_are_told_apart_by_their_algorithm(
    keys: Keys, issuer: Endpoint
) -> None:
    issuer.publish(jwk(keys.ec, "k"), jwk(keys.rsa, "k"))
    verifier = asking(issuer)

    assert await lets_in(verifier, rs256(keys, kid="k"))
    assert await lets_in(verifier, es256(keys, kid="k"))


async def test_token_does_not_choose_what_a_key_is_for(
    keys: Keys, issuer: Endpoint
) -> None:
    """RS256 under the name of an EC key, and the other way round."""
    issuer.publish(jwk(keys.ec, "r"), jwk(keys.rsa, "e"))
    verifier = asking(issuer)
    assert await lets_in(verifier, rs256(keys, kid="e"))

    assert not await lets_in(verifier, rs256(keys, kid="r"))
    assert not await lets_in(verifier, es256(keys, kid="e"))


UNUSABLE: dict[str, Callable[[Keys], Json]] = {
    "to encrypt": lambda keys: jwk(keys.rsa, "r", use="enc"),
    "for an odd use": lambda keys: jwk(keys.rsa, "r", use=["sig"]),
    "RS512": lambda keys: jwk(keys.rsa, "r", alg="RS512"),
    "PS256": lambda keys: jwk(keys.rsa, "r", alg="PS256"),
    "RSA-OAEP": lambda keys: jwk(keys.rsa, "r", alg="RSA-OAEP"),
    "HS256": lambda keys: jwk(keys.rsa, "r", alg="HS256"),
    "private": lambda keys: RSAAlgorithm.to_jwk(keys.rsa, as_dict=True) | {"kid": "r"},
    "weak": lambda keys: jwk(keys.weak, "r"),
    "secret": lambda keys: {"kty": "oct", "k": part(b"x" * 32), "kid": "r"},
    "malformed": lambda keys: jwk(keys.rsa, "r", n="!"),
    "of another name": lambda keys: jwk(keys.rsa, "R"),
    "of a number": lambda keys: jwk(keys.rsa, kid=None) | {"kid": 5},
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_key_that_is_not_for_our_signatures_is_left_out(
    keys: Keys, issuer: Endpoint, name: str
) -> None:
    issuer.publish(UNUSABLE[name](keys), jwk(keys.ec, "e"))
    verifier = asking(issuer)
    by_weak = signed({"alg": "RS256", "kid": "r"}, claims(), keys.weak, "RS256")

    assert await lets_in(verifier, es256(keys))
    assert not await lets_in(verifier, rs256(keys))
    assert not await lets_in(verifier, by_weak)
    assert not await lets_in(
        verifier, keyed(lambda _: b"x" * 32, "HS256")(Kit(keys, ""))
    )


@pytest.mark.parametrize("more", [{}, {"use": "sig"}, {"alg": "RS256"}, {"x5t": "x"}])
async def test_key_says_what_it_is_for_or_not(
    keys: Keys, issuer: Endpoint, more: Json
) -> None:
    issuer.publish(jwk(keys.rsa, "r", **more))

    assert await lets_in(asking(issuer), rs256(keys))


async def test_ec_key_of_another_curve_is_left_out(
    keys: Keys, issuer: Endpoint
) -> None:
    other = jwk(keys.p384, "p")
    issuer.publish(other, other | {"alg": "ES256"}, jwk(keys.rsa, "r"))
    verifier = asking(issuer)

    assert await lets_in(verifier, rs256(keys))
    for algorithm in ("ES384", "ES256"):
        header = {"alg": algorithm, "kid": "p"}
        token = signed(header, claims(), keys.p384, algorithm)
        assert not await lets_in(verifier, token)


async def test_keys_that_are_all_unusable_are_said_to_be(
    keys: Keys, issuer: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.publish(jwk(keys.weak, "r"))

    assert not await lets_in(asking(issuer), rs256(keys))
    assert "2048 bits" in caplog.messages[0]


# --- configuration


def made(**changes: Any) -> JwtVerifier:
    honest = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "jwks_url": "https://issuer.example/keys",
    }
    return JwtVerifier(**(honest | changes))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("issuer", ""),
        ("issuer", " "),
        ("issuer", ISSUER + "\n"),
        ("issuer", "a|b"),
        ("audience", ""),
        ("audience", " agents"),
        ("audience", "\0"),
        ("claim", ""),
        ("claim", "iss"),
        ("claim", "aud"),
        ("claim", "exp"),
        ("claim", "nbf"),
        ("claim", "iat"),
        ("claim", "jti"),
        ("leeway_s", -1.0),
        ("leeway_s", MAX_LEEWAY_S + 1),
        ("leeway_s", float("nan")),
        ("leeway_s", float("inf")),
        ("jwks_url", None),
        ("jwks_url", ""),
        ("jwks_url", "issuer.example/keys"),
        ("jwks_url", "https://"),
        ("jwks_url", "https:///keys"),
        ("jwks_url", "https://[::1"),
        ("jwks_url", "https://issuer.example:port/keys"),
        ("jwks_url", "https://issuer.example/ke\nys"),
        ("jwks_url", "http://issuer.example/keys"),
        ("jwks_url", "http://127.0.0.1.example/keys"),
        ("jwks_url", "http://localhost.example/keys"),
        ("jwks_url", "http://127.0.0.1@issuer.example/keys"),
        ("jwks_url", "http://10.0.0.1/keys"),
        ("jwks_url", "file:///etc/passwd"),
        ("jwks_url", "ftp://127.0.0.1/keys"),
        ("jwks_url", "data:application/json,{}"),
    ],
)
def test_argument_that_will_not_do_is_named(argument: str, value: Any) -> None:
    made()
    with pytest.raises(ConfigError) as caught:
        made(**{argument: value})

    assert argument in str(caught.value)
    assert f"AGENT_WEBKIT_JWT_{argument.upper()}" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example/keys?v=1",
        "HTTPS://issuer.example:8443/keys",
        "https://10.0.0.1/keys",
        "http://127.0.0.1:8080/keys",
        "http://localhost/keys",
        "http://[::1]:8080/keys",
    ],
)
def test_jwks_url_is_https_or_on_this_machine(url: str) -> None:
    made(jwks_url=url)


@pytest.mark.parametrize("leeway_s", [0.0, MAX_LEEWAY_S])
def test_leeway_goes_from_nothing_to_its_most(leeway_s: float) -> None:
    made(leeway_s=leeway_s)


def test_one_of_url_and_key_is_needed(keys: Keys) -> None:
    for both in (
        {"jwks_url": "https://issuer.example/keys", "key": public_pem(keys.rsa)},
        {"jwks_url": None, "key": None},
        {"jwks_url": "", "key": ""},
    ):
        with pytest.raises(ConfigError) as caught:
            made(**both)
        assert "AGENT_WEBKIT_JWT_JWKS_URL" in str(caught.value)
        assert "AGENT_WEBKIT_JWT_KEY" in str(caught.value)


UNFIT: dict[str, tuple[Callable[[Keys], str], str]] = {
    "private, PKCS 8": (
        lambda keys: private_pem(keys.rsa, PrivateFormat.PKCS8),
        "private key",
    ),
    "private, PKCS 1": (
        lambda keys: private_pem(keys.rsa, PrivateFormat.TraditionalOpenSSL),
        "private key",
    ),
    "private, EC": (
        lambda keys: private_pem(keys.ec, PrivateFormat.TraditionalOpenSSL),
        "private key",
    ),
    "private, OpenSSH": (
        lambda keys: private_pem(keys.ec, PrivateFormat.OpenSSH),
        "private key",
    ),
    "private behind a certificate": (
        lambda keys: (
            certificate_pem(keys.rsa) + private_pem(keys.rsa, PrivateFormat.PKCS8)
        ),
        "private key",
    ),
    "weak": (lambda keys: public_pem(keys.weak), "2048 bits"),
    "weak, certified": (lambda keys: certificate_pem(keys.weak), "2048 bits"),
    "another curve": (lambda keys: public_pem(keys.p384), "P-256"),
    "another kind": (
        lambda keys: public_pem(ed25519.Ed25519PrivateKey.generate()),
        "P-256",
    ),
    "a file's name": (lambda keys: "/etc/ssl/issuer.pem", "PEM"),
    "a secret": (lambda keys: "a long enough secret", "PEM"),
    "a JWK": (lambda keys: json.dumps(jwk(keys.rsa)), "PEM"),
    "half": (lambda keys: public_pem(keys.rsa)[:100], "PEM"),
    "half a certificate": (lambda keys: certificate_pem(keys.rsa)[:100], "PEM"),
    "not text": (lambda keys: "\ud800", "PEM"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_key_that_will_not_do_is_explained_and_not_repeated(
    keys: Keys, name: str
) -> None:
    pem_of, why = UNFIT[name]
    pem = pem_of(keys)

    with pytest.raises(ConfigError) as caught:
        knowing(pem)

    text = str(caught.value)
    assert text.startswith("key (AGENT_WEBKIT_JWT_KEY) ")
    assert why in text
    assert not any(line and line in text for line in pem.splitlines())


@pytest.mark.parametrize("package", ["jwt", "cryptography"])
def test_without_the_packages_it_says_what_to_install(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from webkit_asgi.jwt_auth import JwtVerifier\n"
        "from webkit_core import ConfigError\n"
        "try: JwtVerifier(issuer='i', audience='a', key='k')\n"
        "except ConfigError as error: print(error)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert INSTALL in done.stdout
    assert "webkit-asgi[jwt]" in INSTALL
