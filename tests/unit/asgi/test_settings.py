from __future__ import annotations

import logging
from typing import Any, get_args

import msgspec
import pytest

from webkit_asgi import Settings
from webkit_asgi.auth import JWT_VARIABLES
from webkit_asgi.settings import DEMO_VARIABLE, PREFIX
from webkit_core import ConfigError, PermissionMode

NAMES = Settings.__struct_fields__
RATES = ["inputs_per_s"]
SECONDS = [name for name in NAMES if name.endswith("_s") and name not in RATES]
SWITCHES = ["demo"]
TEXTS = [
    "cors_origins",
    "log_format",
    "cwd_root",
    "permission_modes",
    "state_dir",
    "agent_env",
]
COUNTS = [name for name in NAMES if name not in SECONDS + RATES + SWITCHES + TEXTS]

MAY_BE_ZERO = {
    "concurrent_starts",
    "drain_timeout_s",
    "inputs_per_s",
    "max_sessions_per_user",
}
"""0 is the number of cores, no time at all, and without limit."""

GOOD = {name: "json" if name == "log_format" else "1" for name in NAMES}


def variable(name: str) -> str:
    return PREFIX + name.upper()


def test_settings_are_those_that_are_documented() -> None:
    assert Settings() == Settings(
        idle_timeout_s=300.0,
        buffer_events=1000,
        buffer_bytes=4 * 1024 * 1024,
        keepalive_s=15.0,
        send_timeout_s=60.0,
        max_sessions=100,
        max_body_bytes=16 * 1024 * 1024,
        queued_messages=32,
        concurrent_starts=0,
        start_queue_s=30.0,
        drain_timeout_s=600.0,
        body_timeout_s=30.0,
        max_sessions_per_user=0,
        inputs_per_s=100.0,
        max_streams=10_000,
        permission_timeout_s=3600.0,
        turn_silence_s=900.0,
        tool_silence_s=3600.0,
        cwd_root="",
        permission_modes="default,acceptEdits,plan,dontAsk,auto",
        state_dir="",
        agent_env="",
        cors_origins="",
        log_format="text",
        demo=False,
    )
    assert len(NAMES) == 25


def test_settings_cannot_be_changed_while_the_server_runs() -> None:
    with pytest.raises(AttributeError):
        Settings().max_sessions = 1  # type: ignore[misc]  # what the test is about


@pytest.mark.parametrize("name", [*SECONDS, *COUNTS, *RATES])
def test_settings_with_a_unit_have_it_in_their_name(name: str) -> None:
    units = (
        "_s",
        "_bytes",
        "_events",
        "_sessions",
        "_messages",
        "_starts",
        "_streams",
        "_sessions_per_user",
    )

    assert name.endswith(units)
    assert name.endswith("_per_s") is (name in RATES)


def test_permission_modes_leave_out_the_one_that_asks_nobody() -> None:
    """A client cannot have its tools run unasked unless the operator says so."""
    modes = Settings().permission_modes.split(",")

    assert {*modes, "bypassPermissions"} == {*get_args(PermissionMode)}
    assert "bypassPermissions" not in modes


@pytest.mark.parametrize("name", NAMES)
def test_from_env_reads_the_variable_of_the_setting(name: str) -> None:
    """And of that setting alone."""
    found = Settings.from_env({variable(name): GOOD[name]})

    assert getattr(found, name) == (GOOD[name] if name in TEXTS else 1)
    assert found == msgspec.structs.replace(Settings(), **{name: getattr(found, name)})


@pytest.mark.parametrize("name", SECONDS + RATES)
def test_from_env_takes_fractions_of_seconds(name: str) -> None:
    assert getattr(Settings.from_env({variable(name): "0.25"}), name) == 0.25


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("0", False), ("false", False)]
)
def test_from_env_reads_a_switch(text: str, value: bool) -> None:
    assert Settings.from_env({DEMO_VARIABLE: text}).demo is value


@pytest.mark.parametrize("name", sorted(MAY_BE_ZERO))
def test_from_env_takes_zero_where_it_has_a_meaning(name: str) -> None:
    zero: dict[str, Any] = {name: 0}

    assert Settings.from_env({variable(name): "0"}) == Settings(**zero)
    assert Settings(**zero).checked() == Settings(**zero)


def test_from_env_takes_text_as_it_is() -> None:
    """What it means is for whoever uses it; a number is text too."""
    origins = " https://app.example, http://localhost:3000 "

    assert Settings.from_env({variable("cors_origins"): origins}) == Settings(
        cors_origins=origins
    )


@pytest.mark.parametrize("name", NAMES)
def test_from_env_takes_an_empty_variable_as_unset(name: str) -> None:
    assert Settings.from_env({variable(name): ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (name, text)
        for names, texts in (
            (SECONDS, ("0", "-1", "nan", "inf", "-inf", "1e9", "15s", "True", " 1")),
            (COUNTS, ("0", "-1", "1.5", "nan", "inf", "10k", "1,000", "0x10", "True")),
            (RATES, ("-1", "-0.1", "nan", "-inf", "1/s", "True", " 1")),
            (SWITCHES, ("yes", "2", "on", "-1")),
        )
        for name in names
        for text in texts
        if not (text == "0" and name in MAY_BE_ZERO)
    ],
)
def test_from_env_with_a_bad_value_names_the_variable(name: str, text: str) -> None:
    """And its value, and what it should be, among other variables that are right."""
    good = {variable(other): GOOD[other] for other in NAMES}
    environ = good | {variable(name): text}

    with pytest.raises(ConfigError) as caught:
        Settings.from_env(environ)

    assert str(caught.value).startswith(f"{variable(name)}={text!r}: expected ")
    assert "$" not in str(caught.value)


@pytest.mark.parametrize("text", ["JSON", "xml", "1", " json"])
def test_from_env_with_a_log_format_that_is_none_names_the_variable(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({variable("log_format"): text})

    assert str(caught.value) == (
        f"AGENT_WEBKIT_LOG_FORMAT={text!r}: must be one of text, json"
    )


@pytest.mark.parametrize("name", ["keepalive_s", "max_sessions", "log_format", "demo"])
def test_from_env_with_bytes_that_are_no_text_names_the_variable(name: str) -> None:
    """``os.environ`` holds them as lone surrogates."""
    with pytest.raises(ConfigError, match=variable(name)):
        Settings.from_env({variable(name): "\udcff"})


def test_checked_settings_in_range_are_the_same() -> None:
    settings = Settings(keepalive_s=1, max_sessions=2, demo=True)

    assert settings.checked() == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in SECONDS for value in (-1.0, float("nan"), 1e9)),
        *((name, value) for name in COUNTS for value in (-1, 1.5, "1")),
        *((name, value) for name in RATES for value in (-1.0, float("nan"), "1")),
        *((name, 0) for name in SECONDS + COUNTS if name not in MAY_BE_ZERO),
        ("demo", 1),
        ("cors_origins", ["https://app.example"]),
        ("cwd_root", None),
        ("state_dir", None),
        ("agent_env", ["AWS_*"]),
        ("permission_modes", ["plan"]),
        ("log_format", "xml"),
    ],
)
def test_checked_settings_out_of_range_are_named(name: str, value: Any) -> None:
    """What a program writes is not checked when it is written."""
    with pytest.raises(ConfigError, match=name):
        Settings(**{name: value}).checked()


def test_from_env_reports_a_variable_nobody_knows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = {
        "AGENT_WEBKIT_KEEP_ALIVE_S": "5",
        "AGENT_WEBKIT_AUTH_TOKEN": "a secret",
        "AGENT_WEBKIT_NO_AUTH": "0",
        "AGENT_WEBKIT_ADMIN_TOKEN": "another",
        "AGENT_WEBKIT_METRICS_TOKEN": "a third",
        **dict.fromkeys(JWT_VARIABLES, "1"),
        "KEEPALIVE_S": "5",
        "agent_webkit_keepalive_s": "5",
        **{variable(name): GOOD[name] for name in NAMES},
    }
    with caplog.at_level(logging.WARNING, "webkit_asgi.settings"):
        Settings.from_env(environ)

    assert [record.getMessage() for record in caplog.records] == [
        "unknown variable AGENT_WEBKIT_KEEP_ALIVE_S is ignored"
    ]


def test_from_env_without_argument_reads_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable("max_sessions"), "7")

    assert Settings.from_env().max_sessions == 7
