from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from webkit_asgi import AuthConfig, Principal
from webkit_asgi.auth import (
    ADMIN_TOKEN_VARIABLE,
    ANYBODY,
    JWT_PREFIX,
    JWT_VARIABLES,
    METRICS_TOKEN_VARIABLE,
    NO_AUTH_VARIABLE,
    TOKEN_HOLDER,
    TOKEN_VARIABLE,
    VERIFIER_TIMEOUT_S,
    AuthUnavailable,
)
from webkit_asgi.responses import Unauthorized, status_of
from webkit_core import ConfigError

from .virtual_time import now_s, run_in_no_time

ANN = Principal("ann", 4_000_000_000.0)


def sent(authorization: bytes | None) -> dict[str, str]:
    """Return a request's headers, as the application hands them over."""
    if authorization is None:
        return {}
    return {"authorization": authorization.decode("latin-1")}


def bearer(token: str | None) -> dict[str, str]:
    return sent(None if token is None else f"Bearer {token}".encode())


class Verifier:
    """Knows one name, as the bearer's token; keeps what it was asked."""

    def __init__(self, principal: Principal | None = ANN) -> None:
        self.asked: list[Mapping[str, str]] = []
        self._principal = principal

    async def __call__(self, headers: Mapping[str, str]) -> Principal | None:
        self.asked.append(headers)
        known = headers.get("authorization") == "Bearer ann"
        return self._principal if known else None


# --- a token


@pytest.mark.parametrize(
    "authorization",
    [
        b"Bearer s3cret",
        b"bearer s3cret",
        b"BEARER s3cret",
        b"Bearer  s3cret",
        b"Bearer s3cret ",
    ],
)
async def test_principal_of_the_token_is_its_holder(authorization: bytes) -> None:
    auth = AuthConfig(token="s3cret")

    assert await auth.principal(sent(authorization)) == TOKEN_HOLDER


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"s3cret",
        b" s3cret",
        b"Basic s3cret",
        b"Bearers3cret",
        b"Bearer s3cre",
        b"Bearer s3cret2",
        b"Bearer S3CRET",
        b"Bearer s3cret s3cret",
        b"Bearer s3cret, Bearer s3cret",
        b"Bearer s3cr\xe9t",
        b"Bearer s3cret\x00",
        b"\xff\xfe s3cret",
    ],
)
async def test_principal_of_anything_else_is_unauthorized(
    authorization: bytes | None,
) -> None:
    with pytest.raises(Unauthorized, match="Authorization: Bearer"):
        await AuthConfig(token="s3cret").principal(sent(authorization))


async def test_token_beyond_ascii_is_compared_in_utf8() -> None:
    auth = AuthConfig(token="sécret")

    assert await auth.principal(sent("Bearer sécret".encode())) == TOKEN_HOLDER
    with pytest.raises(Unauthorized):
        await auth.principal(sent("Bearer sécret".encode("latin-1")))


@pytest.mark.parametrize("authorization", [None, b"", b"Basic eDp5", b"\xff"])
async def test_principal_when_disabled_is_anybody(authorization: bytes | None) -> None:
    assert await AuthConfig(disabled=True).principal(sent(authorization)) == ANYBODY


def test_disabled_is_only_what_was_disabled() -> None:
    assert AuthConfig(disabled=True).disabled
    assert not AuthConfig(token="s3cret").disabled
    assert not AuthConfig(verifier=Verifier()).disabled


def test_holder_of_a_token_is_not_whom_nobody_was_asked_for() -> None:
    """Else a session made without auth would belong to those with a token."""
    assert TOKEN_HOLDER.id != ANYBODY.id
    assert TOKEN_HOLDER.expires_at_s is ANYBODY.expires_at_s is None


@pytest.mark.parametrize("token", [None, ""])
def test_auth_config_without_token_says_what_to_set(token: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        AuthConfig(token=token)

    assert TOKEN_VARIABLE in str(caught.value)
    assert f"{NO_AUTH_VARIABLE}=1" in str(caught.value)


@pytest.mark.parametrize("token", ["s3cret", ""])
def test_auth_config_with_token_and_disabled_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="not both"):
        AuthConfig(token=token, disabled=True)


def test_auth_config_with_verifier_and_disabled_is_refused() -> None:
    with pytest.raises(ConfigError, match="not both"):
        AuthConfig(verifier=Verifier(), disabled=True)


@pytest.mark.parametrize("token", ["s3cret\n", " s3cret", " ", "\t", "s3\udcffcret"])
def test_from_env_with_a_token_nobody_can_send_is_refused(token: str) -> None:
    """Else every client gets 401, and the operator no hint: secrets are often read
    from files that end with a newline."""
    with pytest.raises(ConfigError, match=TOKEN_VARIABLE):
        AuthConfig.from_env({TOKEN_VARIABLE: token})


# --- several tokens


async def test_each_of_several_tokens_is_good() -> None:
    auth = AuthConfig(token="old new")

    for token in ("old", "new"):
        assert await auth.principal(bearer(token)) == TOKEN_HOLDER


@pytest.mark.parametrize("token", ["old new", "old", "new"])
async def test_holders_of_old_and_new_tokens_are_the_same(token: str) -> None:
    """Sessions outlive the rotation: they belong to whoever holds one of the tokens."""
    before = await AuthConfig(token="old").principal(bearer("old"))
    after = await AuthConfig(token=token).principal(bearer(token.split()[-1]))

    assert before == after


@pytest.mark.parametrize("given", ["old new", "oldnew", "ol", "ew", "", "other", None])
async def test_part_or_sum_of_several_tokens_is_none(given: str | None) -> None:
    with pytest.raises(Unauthorized):
        await AuthConfig(token="old new").principal(bearer(given))


async def test_token_that_was_rotated_away_is_none() -> None:
    with pytest.raises(Unauthorized):
        await AuthConfig(token="new").principal(bearer("old"))


@pytest.mark.parametrize("token", ["old  new", "old new ", " old new", "old\tnew"])
def test_several_tokens_with_an_odd_space_are_refused(token: str) -> None:
    """An empty token among them would let in whoever sends none."""
    with pytest.raises(ConfigError, match=TOKEN_VARIABLE):
        AuthConfig(token=token)


@pytest.mark.parametrize("variable", [ADMIN_TOKEN_VARIABLE, METRICS_TOKEN_VARIABLE])
async def test_operators_tokens_are_one_each(variable: str) -> None:
    """With a space in them, they are not two."""
    auth = AuthConfig.from_env({TOKEN_VARIABLE: "user", variable: "one two"})

    auth.check_scraper(bearer("one two"))
    for part in ("one", "two"):
        with pytest.raises(Unauthorized):
            auth.check_scraper(bearer(part))


# --- a verifier


async def test_verifier_says_who_it_is() -> None:
    assert await AuthConfig(verifier=Verifier()).principal(bearer("ann")) == ANN


async def test_verifier_is_asked_with_the_requests_headers() -> None:
    verifier = Verifier()
    headers = {**bearer("ann"), "x-user": "ann"}

    await AuthConfig(verifier=verifier).principal(headers)

    assert verifier.asked == [headers]


@pytest.mark.parametrize("token", ["bob", None])
async def test_verifier_that_knows_nobody_of_that_name_is_unauthorized(
    token: str | None,
) -> None:
    with pytest.raises(Unauthorized):
        await AuthConfig(verifier=Verifier()).principal(bearer(token))


async def test_verifier_is_not_asked_about_a_token_that_is_ours() -> None:
    verifier = Verifier()
    auth = AuthConfig(token="s3cret ann", verifier=verifier)

    assert await auth.principal(bearer("s3cret")) == TOKEN_HOLDER
    assert await auth.principal(bearer("ann")) == TOKEN_HOLDER
    assert verifier.asked == []


async def test_verifier_is_asked_about_everything_else() -> None:
    auth = AuthConfig(token="s3cret", verifier=Verifier())

    assert await auth.principal(bearer("ann")) == ANN
    with pytest.raises(Unauthorized):
        await auth.principal(bearer("bob"))


@pytest.mark.parametrize("error", [Unauthorized(), ZeroDivisionError("a bug")])
async def test_verifiers_error_is_raised_as_it_is(error: Exception) -> None:
    async def verifier(headers: Mapping[str, str]) -> Principal:
        raise error

    with pytest.raises(type(error)) as caught:
        await AuthConfig(verifier=verifier).principal(bearer("ann"))
    assert caught.value is error


@pytest.mark.parametrize(
    ("takes_s", "in_time"),
    [(VERIFIER_TIMEOUT_S * 0.99, True), (VERIFIER_TIMEOUT_S * 1.01, False)],
)
def test_verifier_has_its_time_and_no_more(takes_s: float, in_time: bool) -> None:
    async def verifier(headers: Mapping[str, str]) -> Principal:
        await asyncio.sleep(takes_s)
        return ANN

    async def main() -> None:
        auth = AuthConfig(verifier=verifier)
        if in_time:
            assert await auth.principal(bearer("ann")) == ANN
        else:
            with pytest.raises(AuthUnavailable):
                await auth.principal(bearer("ann"))
            assert now_s() == pytest.approx(VERIFIER_TIMEOUT_S)

    run_in_no_time(main())


async def test_verifier_whose_own_question_times_out_is_unavailable() -> None:
    async def verifier(headers: Mapping[str, str]) -> Principal:
        raise TimeoutError("the identity provider is at https://idp.internal")

    with pytest.raises(AuthUnavailable) as caught:
        await AuthConfig(verifier=verifier).principal(bearer("ann"))

    assert status_of(caught.value) == 503
    assert caught.value.code == "auth_unavailable"
    assert "internal" not in str(caught.value)


async def test_verifier_does_not_swallow_a_cancellation() -> None:
    asked = asyncio.Event()

    async def verifier(headers: Mapping[str, str]) -> Principal:
        asked.set()
        await asyncio.get_running_loop().create_future()
        return ANN

    asking = asyncio.ensure_future(AuthConfig(verifier=verifier).principal({}))
    await asked.wait()
    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking


# --- what the environment says


@pytest.mark.parametrize("no_auth", [None, "", "0"])
async def test_from_env_with_a_token_asks_for_it(no_auth: str | None) -> None:
    environ = {TOKEN_VARIABLE: "s3cret"}
    if no_auth is not None:
        environ[NO_AUTH_VARIABLE] = no_auth

    auth = AuthConfig.from_env(environ)

    assert await auth.principal(bearer("s3cret")) == TOKEN_HOLDER
    with pytest.raises(Unauthorized):
        await auth.principal(bearer("other"))


async def test_from_env_reads_several_tokens() -> None:
    auth = AuthConfig.from_env({TOKEN_VARIABLE: "old new"})

    for token in ("old", "new"):
        assert await auth.principal(bearer(token)) == TOKEN_HOLDER


@pytest.mark.parametrize("token", [None, ""])
def test_from_env_with_no_auth_lets_everybody_in(token: str | None) -> None:
    environ = {NO_AUTH_VARIABLE: "1"}
    if token is not None:
        environ[TOKEN_VARIABLE] = token

    assert AuthConfig.from_env(environ).disabled


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {TOKEN_VARIABLE: ""},
        {NO_AUTH_VARIABLE: "0"},
        {NO_AUTH_VARIABLE: ""},
        dict.fromkeys(JWT_VARIABLES, ""),
    ],
    ids=["nothing", "empty", "0", "empty no_auth", "empty JWT"],
)
def test_from_env_that_says_nothing_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"set {TOKEN_VARIABLE}"):
        AuthConfig.from_env(environ)


@pytest.mark.parametrize("value", ["true", "yes", "2", " 1", "off"])
def test_from_env_with_an_odd_no_auth_names_it(value: str) -> None:
    """What is meant to be "no" must not open the server, nor the other way round."""
    with pytest.raises(ConfigError, match=f"{NO_AUTH_VARIABLE}='{value}'"):
        AuthConfig.from_env({NO_AUTH_VARIABLE: value, TOKEN_VARIABLE: "s3cret"})


def test_from_env_with_token_and_no_auth_is_a_contradiction() -> None:
    with pytest.raises(ConfigError) as caught:
        AuthConfig.from_env({TOKEN_VARIABLE: "s3cret", NO_AUTH_VARIABLE: "1"})

    assert TOKEN_VARIABLE in str(caught.value)
    assert NO_AUTH_VARIABLE in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_from_env_without_argument_reads_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "of-the-process")
    for variable in (NO_AUTH_VARIABLE, *JWT_VARIABLES):
        monkeypatch.delenv(variable, raising=False)

    auth = AuthConfig.from_env()

    assert await auth.principal(bearer("of-the-process")) == TOKEN_HOLDER


# --- JSON web tokens

PUBLIC_KEY = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMXxVpp8zL056m0aGeZv8w144x/SU
3TMk3BRxUmGb7tHJY8g7FetWVFCIbYmWnLxv1S3sXHZXTHaQFpJdD4TgaQ==
-----END PUBLIC KEY-----
"""
JWT = {
    f"{JWT_PREFIX}ISSUER": "https://idp.example",
    f"{JWT_PREFIX}AUDIENCE": "webkit",
    f"{JWT_PREFIX}KEY": PUBLIC_KEY,
}


async def test_from_env_with_jwt_variables_lets_in_nobody_without_a_token() -> None:
    auth = AuthConfig.from_env(JWT)

    assert not auth.disabled
    for token in (None, "other", "a.b.c"):
        with pytest.raises(Unauthorized):
            await auth.principal(bearer(token))


async def test_from_env_takes_tokens_of_both_kinds() -> None:
    auth = AuthConfig.from_env({**JWT, TOKEN_VARIABLE: "s3cret"})

    assert await auth.principal(bearer("s3cret")) == TOKEN_HOLDER
    with pytest.raises(Unauthorized):
        await auth.principal(bearer("other"))


@pytest.mark.parametrize("name", JWT)
def test_from_env_without_one_of_the_jwt_variables_names_it(name: str) -> None:
    environ = {variable: value for variable, value in JWT.items() if variable != name}

    with pytest.raises(ConfigError, match=name):
        AuthConfig.from_env(environ)


@pytest.mark.parametrize("variable", JWT_VARIABLES)
def test_from_env_with_one_jwt_variable_alone_is_refused(variable: str) -> None:
    """Whoever sets one means to have them, though a static token would do."""
    environ = {TOKEN_VARIABLE: "s3cret", variable: "1"}

    with pytest.raises(ConfigError, match=JWT_PREFIX):
        AuthConfig.from_env(environ)


def test_from_env_with_a_key_and_a_url_of_keys_names_both() -> None:
    environ = {**JWT, f"{JWT_PREFIX}JWKS_URL": "https://idp.example/keys"}

    with pytest.raises(ConfigError) as caught:
        AuthConfig.from_env(environ)

    assert f"{JWT_PREFIX}JWKS_URL" in str(caught.value)
    assert f"{JWT_PREFIX}KEY" in str(caught.value)


def test_from_env_with_jwt_and_no_auth_is_a_contradiction() -> None:
    with pytest.raises(ConfigError) as caught:
        AuthConfig.from_env({**JWT, NO_AUTH_VARIABLE: "1"})

    assert f"{JWT_PREFIX}ISSUER" in str(caught.value)
    assert NO_AUTH_VARIABLE in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEEWAY_S", "half a minute"),
        ("LEEWAY_S", "-1"),
        ("LEEWAY_S", "nan"),
        ("LEEWAY_S", "1e9"),
        ("CLAIM", "exp"),
        ("ISSUER", "a|b"),
        ("AUDIENCE", " webkit"),
        ("KEY", "-----BEGIN PUBLIC KEY-----\nno\n-----END PUBLIC KEY-----"),
    ],
)
def test_from_env_with_a_bad_jwt_variable_names_it(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{JWT_PREFIX}{name}"):
        AuthConfig.from_env({**JWT, f"{JWT_PREFIX}{name}": value})


@pytest.mark.parametrize("one_line", [False, True])
def test_from_env_reads_a_key_with_its_line_breaks_written_out(one_line: bool) -> None:
    """Files of variables have no line breaks in a value."""
    key = PUBLIC_KEY.replace("\n", "\\n") if one_line else PUBLIC_KEY

    assert not AuthConfig.from_env({**JWT, f"{JWT_PREFIX}KEY": key}).disabled


def test_from_env_takes_an_empty_jwt_variable_as_unset() -> None:
    environ = {**dict.fromkeys(JWT_VARIABLES, ""), **JWT}

    assert not AuthConfig.from_env(environ).disabled


def test_from_env_says_no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        AuthConfig.from_env(
            {TOKEN_VARIABLE: "s3cret-1 s3cret-2", ADMIN_TOKEN_VARIABLE: "s3cret-3"}
        )

    assert "s3cret" not in caplog.text


# --- operators


def scrapes(auth: AuthConfig, token: str | None) -> bool:
    try:
        auth.check_scraper(bearer(token))
    except Unauthorized:
        return False
    return True


def operates(auth: AuthConfig, token: str | None) -> bool:
    try:
        auth.check_admin(bearer(token))
    except Unauthorized:
        return False
    return True


async def uses(auth: AuthConfig, token: str | None) -> bool:
    try:
        await auth.principal(bearer(token))
    except Unauthorized:
        return False
    return True


async def test_each_role_is_let_in_by_its_tokens() -> None:
    auth = AuthConfig(token="user new", admin_token="admin", metrics_token="metrics")
    tokens = ("user", "new", "admin", "metrics", "other", "", None)

    assert {token for token in tokens if await uses(auth, token)} == {"user", "new"}
    assert {token for token in tokens if operates(auth, token)} == {"admin"}
    assert {token for token in tokens if scrapes(auth, token)} == {
        "user",
        "new",
        "admin",
        "metrics",
    }


@pytest.mark.parametrize("token", [None, "", "other", "admin"])
async def test_disabled_still_asks_operators_for_their_token(token: str | None) -> None:
    """Whoever may talk to the agents may not therefore end them all."""
    auth = AuthConfig(disabled=True, admin_token="admin")

    assert operates(auth, token) == (token == "admin")
    assert await uses(auth, token)
    assert scrapes(auth, token)


@pytest.mark.parametrize("token", [None, "", "user"])
def test_nobody_is_an_operator_where_there_is_no_token_for_them(
    token: str | None,
) -> None:
    assert not operates(AuthConfig(token="user"), token)
    assert not operates(AuthConfig(disabled=True), token)


def test_without_operators_tokens_users_read_metrics() -> None:
    auth = AuthConfig(token="user")

    assert scrapes(auth, "user")
    assert not scrapes(auth, None)


def test_tenants_do_not_read_metrics() -> None:
    """They tell of everybody's sessions."""
    auth = AuthConfig(verifier=Verifier(), metrics_token="metrics")

    assert scrapes(auth, "metrics")
    assert not scrapes(auth, "ann")


def test_has_admin_is_whether_there_is_a_token_for_operators() -> None:
    assert AuthConfig(token="user", admin_token="admin").has_admin
    assert AuthConfig(disabled=True, admin_token="admin").has_admin
    assert not AuthConfig(token="user", metrics_token="metrics").has_admin


@pytest.mark.parametrize(
    ("token", "metrics_token"),
    [("s3cret", None), ("old s3cret", None), ("s3cret new", "m"), ("user", "s3cret")],
)
def test_operators_token_that_others_have_too_is_refused(
    token: str, metrics_token: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        AuthConfig(token=token, admin_token="s3cret", metrics_token=metrics_token)

    assert ADMIN_TOKEN_VARIABLE in str(caught.value)
    assert TOKEN_VARIABLE in str(caught.value)
    assert METRICS_TOKEN_VARIABLE in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_token_for_users_and_metrics_may_be_one() -> None:
    assert scrapes(AuthConfig(token="user", metrics_token="user"), "user")


@pytest.mark.parametrize("variable", [ADMIN_TOKEN_VARIABLE, METRICS_TOKEN_VARIABLE])
@pytest.mark.parametrize("token", ["s3cret\n", " s3cret", "\t", "s3\udcffcret"])
def test_from_env_with_an_operators_token_nobody_can_send_is_refused(
    variable: str, token: str
) -> None:
    with pytest.raises(ConfigError, match=variable):
        AuthConfig.from_env({TOKEN_VARIABLE: "user", variable: token})


@pytest.mark.parametrize(
    "users", [{TOKEN_VARIABLE: "user"}, {NO_AUTH_VARIABLE: "1"}, JWT]
)
def test_from_env_reads_the_operators_tokens(users: dict[str, str]) -> None:
    auth = AuthConfig.from_env(
        {**users, ADMIN_TOKEN_VARIABLE: "admin", METRICS_TOKEN_VARIABLE: "metrics"}
    )

    assert operates(auth, "admin")
    assert not operates(auth, "metrics")
    assert scrapes(auth, "metrics")


def test_from_env_takes_an_empty_operators_token_as_unset() -> None:
    auth = AuthConfig.from_env(
        {TOKEN_VARIABLE: "user", ADMIN_TOKEN_VARIABLE: "", METRICS_TOKEN_VARIABLE: ""}
    )

    assert not auth.has_admin
    assert not scrapes(auth, "")


def test_from_env_with_operators_tokens_alone_is_refused() -> None:
    """They say nothing of who may talk to the agents."""
    with pytest.raises(ConfigError, match=f"set {TOKEN_VARIABLE}"):
        AuthConfig.from_env({ADMIN_TOKEN_VARIABLE: "a", METRICS_TOKEN_VARIABLE: "m"})
