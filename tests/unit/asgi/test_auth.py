from __future__ import annotations

import pytest

from webkit_asgi import AuthConfig
from webkit_asgi.auth import (
    ADMIN_TOKEN_VARIABLE,
    METRICS_TOKEN_VARIABLE,
    NO_AUTH_VARIABLE,
    TOKEN_VARIABLE,
    Role,
)
from webkit_asgi.responses import Unauthorized
from webkit_core import ConfigError


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
def test_check_with_the_token_passes(authorization: bytes) -> None:
    AuthConfig(token="s3cret").check(authorization)


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
        b"Bearer s3cr\xe9t",
        b"Bearer s3cret\x00",
        b"\xff\xfe s3cret",
    ],
)
def test_check_with_anything_else_is_unauthorized(authorization: bytes | None) -> None:
    with pytest.raises(Unauthorized, match="Authorization: Bearer"):
        AuthConfig(token="s3cret").check(authorization)


def test_check_with_a_token_beyond_ascii_compares_its_utf8() -> None:
    auth = AuthConfig(token="sécret")

    auth.check("Bearer sécret".encode())
    with pytest.raises(Unauthorized):
        auth.check("Bearer sécret".encode("latin-1"))


@pytest.mark.parametrize("authorization", [None, b"", b"Basic eDp5", b"\xff"])
def test_check_when_disabled_lets_everybody_in(authorization: bytes | None) -> None:
    AuthConfig(disabled=True).check(authorization)


def test_disabled_is_only_what_was_disabled() -> None:
    assert AuthConfig(disabled=True).disabled
    assert not AuthConfig(token="s3cret").disabled


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


@pytest.mark.parametrize("token", ["s3cret\n", " s3cret", " ", "\t", "s3\udcffcret"])
def test_from_env_with_a_token_nobody_can_send_is_refused(token: str) -> None:
    """Else every client gets 401, and the operator no hint: secrets are often read
    from files that end with a newline."""
    with pytest.raises(ConfigError, match=TOKEN_VARIABLE):
        AuthConfig.from_env({TOKEN_VARIABLE: token})


@pytest.mark.parametrize("no_auth", [None, "", "0"])
def test_from_env_with_a_token_asks_for_it(no_auth: str | None) -> None:
    environ = {TOKEN_VARIABLE: "s3cret"}
    if no_auth is not None:
        environ[NO_AUTH_VARIABLE] = no_auth

    auth = AuthConfig.from_env(environ)

    auth.check(b"Bearer s3cret")
    with pytest.raises(Unauthorized):
        auth.check(b"Bearer other")


@pytest.mark.parametrize("token", [None, ""])
def test_from_env_with_no_auth_lets_everybody_in(token: str | None) -> None:
    environ = {NO_AUTH_VARIABLE: "1"}
    if token is not None:
        environ[TOKEN_VARIABLE] = token

    assert AuthConfig.from_env(environ).disabled


@pytest.mark.parametrize(
    "environ",
    [{}, {TOKEN_VARIABLE: ""}, {NO_AUTH_VARIABLE: "0"}, {NO_AUTH_VARIABLE: ""}],
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


def test_from_env_without_argument_reads_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "of the process")
    monkeypatch.delenv(NO_AUTH_VARIABLE, raising=False)

    AuthConfig.from_env().check(b"Bearer of the process")


# --- roles


def bearer(token: str | None) -> bytes | None:
    return None if token is None else f"Bearer {token}".encode()


def lets_in(auth: AuthConfig, role: Role, token: str | None) -> bool:
    try:
        auth.check(bearer(token), role)
    except Unauthorized:
        return False
    return True


@pytest.mark.parametrize(
    ("role", "let_in"),
    [
        (Role.ANYBODY, {"user", "admin", "metrics", "other", None}),
        (Role.USER, {"user"}),
        (Role.SCRAPER, {"user", "admin", "metrics"}),
        (Role.ADMIN, {"admin"}),
    ],
    ids=lambda value: value.name if isinstance(value, Role) else "",
)
def test_check_lets_each_role_in_by_its_tokens(
    role: Role, let_in: set[str | None]
) -> None:
    auth = AuthConfig(token="user", admin_token="admin", metrics_token="metrics")
    tokens = ("user", "admin", "metrics", "other", None)

    assert {token for token in tokens if lets_in(auth, role, token)} == let_in


@pytest.mark.parametrize("token", [None, "", "other", "admin"])
def test_check_when_disabled_still_asks_operators_for_their_token(
    token: str | None,
) -> None:
    """Whoever may talk to the agents may not therefore end them all."""
    auth = AuthConfig(disabled=True, admin_token="admin")

    assert lets_in(auth, Role.ADMIN, token) == (token == "admin")
    assert lets_in(auth, Role.USER, token)
    assert lets_in(auth, Role.SCRAPER, token)


def test_check_without_operators_tokens_lets_users_read_metrics() -> None:
    auth = AuthConfig(token="user")

    assert lets_in(auth, Role.SCRAPER, "user")
    assert not lets_in(auth, Role.SCRAPER, None)


def test_check_without_a_role_is_that_of_a_user() -> None:
    auth = AuthConfig(token="user", admin_token="admin", metrics_token="metrics")

    auth.check(b"Bearer user")
    for other in (b"Bearer admin", b"Bearer metrics"):
        with pytest.raises(Unauthorized):
            auth.check(other)


def test_has_admin_is_whether_there_is_a_token_for_operators() -> None:
    assert AuthConfig(token="user", admin_token="admin").has_admin
    assert AuthConfig(disabled=True, admin_token="admin").has_admin
    assert not AuthConfig(token="user", metrics_token="metrics").has_admin


def test_auth_config_with_one_token_for_users_and_operators_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        AuthConfig(token="s3cret", admin_token="s3cret")

    assert ADMIN_TOKEN_VARIABLE in str(caught.value)
    assert TOKEN_VARIABLE in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("variable", [ADMIN_TOKEN_VARIABLE, METRICS_TOKEN_VARIABLE])
@pytest.mark.parametrize("token", ["s3cret\n", " s3cret", "\t", "s3\udcffcret"])
def test_from_env_with_an_operators_token_nobody_can_send_is_refused(
    variable: str, token: str
) -> None:
    with pytest.raises(ConfigError, match=variable):
        AuthConfig.from_env({TOKEN_VARIABLE: "user", variable: token})


@pytest.mark.parametrize("users", [{TOKEN_VARIABLE: "user"}, {NO_AUTH_VARIABLE: "1"}])
def test_from_env_reads_the_operators_tokens(users: dict[str, str]) -> None:
    auth = AuthConfig.from_env(
        {**users, ADMIN_TOKEN_VARIABLE: "admin", METRICS_TOKEN_VARIABLE: "metrics"}
    )

    assert lets_in(auth, Role.ADMIN, "admin")
    assert not lets_in(auth, Role.ADMIN, "metrics")
    assert lets_in(auth, Role.SCRAPER, "metrics")


def test_from_env_takes_an_empty_operators_token_as_unset() -> None:
    auth = AuthConfig.from_env(
        {TOKEN_VARIABLE: "user", ADMIN_TOKEN_VARIABLE: "", METRICS_TOKEN_VARIABLE: ""}
    )

    assert not auth.has_admin
    assert not lets_in(auth, Role.SCRAPER, "")


def test_from_env_with_operators_tokens_alone_is_refused() -> None:
    """They say nothing of who may talk to the agents."""
    with pytest.raises(ConfigError, match=f"set {TOKEN_VARIABLE}"):
        AuthConfig.from_env({ADMIN_TOKEN_VARIABLE: "a", METRICS_TOKEN_VARIABLE: "m"})
