"""``create_app``, and ``app`` as an operator starts it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import webkit_asgi
from webkit_asgi import Application, AuthConfig, Settings, create_app
from webkit_asgi.auth import (
    ADMIN_TOKEN_VARIABLE,
    METRICS_TOKEN_VARIABLE,
    NO_AUTH_VARIABLE,
    TOKEN_VARIABLE,
)
from webkit_asgi.logs import PACKAGES, JsonLines
from webkit_asgi.misconfigured import Misconfigured
from webkit_asgi.settings import DEMO_VARIABLE
from webkit_core import ConfigError, Deadlines
from webkit_core.testing import ScriptedFactory

from .driver import PATIENCE_S, Call
from .principals import ANN, by_name
from .virtual_time import now_s, run_in_no_time


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing."""
    for name in [name for name in os.environ if name.startswith("AGENT_WEBKIT_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def fresh() -> Iterator[None]:
    """``webkit_asgi.app`` has not been asked for yet."""
    before = vars(webkit_asgi).pop("app", None)
    yield
    vars(webkit_asgi).pop("app", None)
    if before is not None:
        vars(webkit_asgi)["app"] = before


async def status(app: Application, token: str | None) -> int:
    return (await Call(app, "GET", "/sessions", token=token).done()).status


@pytest.fixture
async def ended() -> AsyncIterator[list[Application]]:
    """Applications that are shut down after the test."""
    apps: list[Application] = []
    yield apps
    for app in apps:
        await app.shutdown()


async def test_create_app_reads_the_environment(
    environ: pytest.MonkeyPatch, ended: list[Application]
) -> None:
    environ.setenv(TOKEN_VARIABLE, "s3cret")
    environ.setenv("AGENT_WEBKIT_MAX_SESSIONS", "7")

    app = create_app(sdk_factory=ScriptedFactory())
    ended.append(app)

    assert app.settings == Settings(max_sessions=7)
    assert await status(app, "s3cret") == 200
    assert await status(app, "other") == 401


async def test_create_app_takes_arguments_before_the_environment(
    environ: pytest.MonkeyPatch, ended: list[Application]
) -> None:
    environ.setenv(TOKEN_VARIABLE, "s3cret")
    environ.setenv(NO_AUTH_VARIABLE, "nonsense")
    environ.setenv("AGENT_WEBKIT_MAX_SESSIONS", "nonsense")
    settings = Settings(keepalive_s=1)

    app = create_app(
        auth=AuthConfig(token="mine"), settings=settings, sdk_factory=ScriptedFactory()
    )
    ended.append(app)

    assert app.settings == settings
    assert await status(app, "mine") == 200
    assert await status(app, "s3cret") == 401


async def test_create_app_uses_the_factory_given(ended: list[Application]) -> None:
    factory = ScriptedFactory()
    app = create_app(auth=AuthConfig(disabled=True), sdk_factory=factory)
    ended.append(app)

    assert (await Call(app, "POST", "/sessions").done()).status == 200

    assert len(factory.agents) == 1


def test_create_app_without_authentication_is_refused() -> None:
    with pytest.raises(ConfigError, match=TOKEN_VARIABLE):
        create_app()


def test_create_app_with_a_wrong_setting_names_it(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("AGENT_WEBKIT_KEEPALIVE_S", "soon")

    with pytest.raises(ConfigError, match="AGENT_WEBKIT_KEEPALIVE_S='soon'"):
        create_app(auth=AuthConfig(disabled=True))


def test_create_app_with_settings_out_of_range_names_the_setting() -> None:
    with pytest.raises(ConfigError, match="keepalive_s"):
        create_app(
            auth=AuthConfig(disabled=True),
            settings=Settings(keepalive_s=0),
            sdk_factory=ScriptedFactory(),
        )


def test_create_app_with_an_origin_that_is_none_names_the_variable(
    environ: pytest.MonkeyPatch,
) -> None:
    environ.setenv("AGENT_WEBKIT_CORS_ORIGINS", "app.example")

    with pytest.raises(ConfigError, match=r"CORS_ORIGINS: 'app\.example'"):
        create_app(auth=AuthConfig(disabled=True), sdk_factory=ScriptedFactory())


async def test_create_app_reads_the_operators_tokens(
    environ: pytest.MonkeyPatch, ended: list[Application]
) -> None:
    environ.setenv(TOKEN_VARIABLE, "s3cret")
    environ.setenv(ADMIN_TOKEN_VARIABLE, "admin")
    environ.setenv(METRICS_TOKEN_VARIABLE, "scraper")
    app = create_app(sdk_factory=ScriptedFactory())
    ended.append(app)

    assert (await Call(app, "GET", "/metrics", token="scraper").done()).status == 200
    drain = await Call(app, "POST", "/admin/drain", token="admin").done()
    assert drain.status == 202


async def test_create_app_hands_the_checks_over(ended: list[Application]) -> None:
    async def store() -> None:
        """All is well."""

    app = create_app(
        auth=AuthConfig(disabled=True),
        sdk_factory=ScriptedFactory(),
        checks={"store": store},
    )
    ended.append(app)

    assert (await Call(app, "GET", "/readyz").done()).json["checks"] == ["store"]


async def test_create_app_tells_the_providers_given(ended: list[Application]) -> None:
    reader, spans = InMemoryMetricReader(), InMemorySpanExporter()
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
    app = create_app(
        auth=AuthConfig(disabled=True),
        sdk_factory=ScriptedFactory(),
        meter_provider=meter_provider,
        tracer_provider=tracer_provider,
    )
    ended.append(app)

    await Call(app, "POST", "/sessions").done()

    assert [span.name for span in spans.get_finished_spans()] == ["create"]
    assert app.metrics.provider is meter_provider
    data = reader.get_metrics_data()
    assert data is not None
    assert '"agent_webkit.sessions.created"' in data.to_json()


def logged_by_us() -> list[logging.Handler]:
    return [h for name in PACKAGES for h in logging.getLogger(name).handlers]


def test_create_app_leaves_logging_to_the_embedder(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("AGENT_WEBKIT_LOG_FORMAT", "json")
    environ.setattr(logging.getLogger(), "handlers", [])

    create_app(auth=AuthConfig(disabled=True), sdk_factory=ScriptedFactory())

    assert logged_by_us() == []


# --- app


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("form", ["", "text", "json"])
def test_app_lets_itself_be_heard_as_the_settings_say(
    environ: pytest.MonkeyPatch, form: str
) -> None:
    environ.setenv(NO_AUTH_VARIABLE, "1")
    environ.setenv("AGENT_WEBKIT_LOG_FORMAT", form)
    environ.setattr(logging.getLogger(), "handlers", [])
    for name in PACKAGES:
        environ.setattr(logging.getLogger(name), "handlers", [])
        environ.setattr(logging.getLogger(name), "level", logging.NOTSET)

    assert isinstance(webkit_asgi.app, Application)

    in_json = [isinstance(h.formatter, JsonLines) for h in logged_by_us()]
    assert in_json == [form == "json"] * len(PACKAGES)


@pytest.mark.usefixtures("fresh")
def test_app_is_built_when_it_is_asked_for_and_once(
    environ: pytest.MonkeyPatch,
) -> None:
    assert "app" not in vars(webkit_asgi)
    environ.setenv(NO_AUTH_VARIABLE, "1")

    from webkit_asgi import app

    assert isinstance(app, Application)
    assert webkit_asgi.app is app


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        (TOKEN_VARIABLE, ""),
        (NO_AUTH_VARIABLE, "perhaps"),
        ("AGENT_WEBKIT_MAX_SESSIONS", "0"),
        ("AGENT_WEBKIT_DEMO", "perhaps"),
        ("AGENT_WEBKIT_CORS_ORIGINS", "app.example"),
        ("AGENT_WEBKIT_LOG_FORMAT", "xml"),
        (ADMIN_TOKEN_VARIABLE, "with a newline\n"),
        ("AGENT_WEBKIT_KEEPALIVE_S", "\udcff"),
        (TOKEN_VARIABLE, "\udcff"),
    ],
)
def test_app_with_a_wrong_setting_is_no_traceback(
    environ: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """It is an application that refuses to start; see its own tests."""
    environ.setenv(name, value)

    assert isinstance(webkit_asgi.app, Misconfigured)
    assert webkit_asgi.app is webkit_asgi.app


@pytest.mark.usefixtures("fresh")
def test_other_names_are_none() -> None:
    with pytest.raises(AttributeError, match="'application_'"):
        _ = webkit_asgi.application_
    assert "app" not in vars(webkit_asgi)


# --- the demo


async def greeting_of(app: Application, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the token that a demo's greeting shows."""
    await app.startup()
    await app.shutdown()
    found = re.search(r"Authorization: Bearer ([^']+)'", capsys.readouterr().out)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    "said",
    [{}, {TOKEN_VARIABLE: ""}, {NO_AUTH_VARIABLE: ""}, {NO_AUTH_VARIABLE: "0"}],
    ids=["nothing", "empty token", "empty no-auth", "auth"],
)
async def test_demo_makes_a_token_up_unless_one_is_set(
    environ: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: dict[str, str],
) -> None:
    """What is empty is not set, and ``NO_AUTH=0`` asks for one."""
    environ.setenv(DEMO_VARIABLE, "1")
    for name, value in said.items():
        environ.setenv(name, value)

    first, second = create_app(), create_app()
    tokens = [await greeting_of(app, capsys) for app in (first, second)]

    assert tokens[0] != tokens[1]
    assert len(tokens[0]) >= 20
    assert await status(first, tokens[0]) == 200
    assert await status(first, tokens[1]) == 401
    assert await status(first, None) == 401


async def test_demo_shows_the_token_that_is_set(
    environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environ.setenv(DEMO_VARIABLE, "1")
    environ.setenv(TOKEN_VARIABLE, "s3cret")

    app = create_app()

    assert await greeting_of(app, capsys) == "s3cret"
    assert await status(app, "s3cret") == 200


async def test_demo_ends_with_the_application(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And takes with it what its agents left."""
    environ.setattr(tempfile, "tempdir", str(tmp_path))
    environ.setenv(DEMO_VARIABLE, "1")
    app = create_app()
    await app.startup()
    assert len(os.listdir(tmp_path)) == 1

    await app.shutdown()

    assert os.listdir(tmp_path) == []


async def test_demo_without_authentication_lets_everybody_in(
    environ: pytest.MonkeyPatch,
) -> None:
    environ.setenv(DEMO_VARIABLE, "1")
    environ.setenv(NO_AUTH_VARIABLE, "1")

    assert await status(create_app(), None) == 200


async def test_demo_gives_way_to_an_agent_of_ones_own(
    environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environ.setenv(DEMO_VARIABLE, "1")
    factory = ScriptedFactory()
    app = create_app(auth=AuthConfig(disabled=True), sdk_factory=factory)
    await app.startup()

    await Call(app, "POST", "/sessions").done()

    await app.shutdown()
    assert len(factory.agents) == 1
    assert capsys.readouterr().out == ""


# --- who is who, and what they may


async def test_create_app_takes_a_verifier(
    environ: pytest.MonkeyPatch, ended: list[Application]
) -> None:
    """With the operators' tokens of the environment, and without its users'."""
    environ.setenv(TOKEN_VARIABLE, "s3cret")
    environ.setenv(ADMIN_TOKEN_VARIABLE, "admin")
    environ.setenv(METRICS_TOKEN_VARIABLE, "scraper")

    app = create_app(auth=by_name, sdk_factory=ScriptedFactory())
    ended.append(app)

    assert await status(app, ANN) == 200
    assert await status(app, "s3cret") == 401
    for path, token in (("/admin/drain", "admin"), ("/metrics", "scraper")):
        method = "POST" if token == "admin" else "GET"
        assert (await Call(app, method, path, token=token).done()).status < 400
        assert (await Call(app, method, path, token=ANN).done()).status == 401


async def test_create_app_takes_an_empty_operators_token_beside_a_verifier_as_unset(
    environ: pytest.MonkeyPatch, ended: list[Application]
) -> None:
    environ.setenv(ADMIN_TOKEN_VARIABLE, "")
    environ.setenv(METRICS_TOKEN_VARIABLE, "")

    app = create_app(auth=by_name, sdk_factory=ScriptedFactory())
    ended.append(app)

    assert (await Call(app, "POST", "/admin/drain", token=ANN).done()).status == 404
    assert (await Call(app, "GET", "/metrics", token="").done()).status == 401


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AGENT_WEBKIT_CWD_ROOT", "/no/such/directory"),
        ("AGENT_WEBKIT_CWD_ROOT", "relative"),
        ("AGENT_WEBKIT_PERMISSION_MODES", "default,yolo"),
        ("AGENT_WEBKIT_INPUTS_PER_S", "-1"),
        ("AGENT_WEBKIT_MAX_STREAMS", "0"),
        ("AGENT_WEBKIT_BODY_TIMEOUT_S", "0"),
    ],
)
def test_create_app_with_a_wrong_limit_names_the_variable(
    environ: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    environ.setenv(variable, value)

    with pytest.raises(ConfigError, match=variable):
        create_app(auth=AuthConfig(disabled=True), sdk_factory=ScriptedFactory())


ASKING = b'{"type": "user_message", "content": "hello"}'


async def asked(app: Application, factory: ScriptedFactory) -> asyncio.Task[Any]:
    """Let the agent of a new session ask for a tool, in a turn."""
    created = await Call(app, "POST", "/sessions").done()
    path = created.headers["location"]
    assert (await Call(app, "POST", f"{path}/input", ASKING).done()).status == 204
    agent = factory.agents[-1]
    await agent.prompted()
    return asyncio.ensure_future(agent.ask("toolu_1", command="ls"))


@pytest.mark.parametrize("ruling", ["allow", "deny"])
async def test_create_app_takes_a_policy_that_decides_before_people_are_asked(
    ended: list[Application], ruling: Literal["allow", "deny"]
) -> None:
    ruled: list[tuple[str, dict[str, Any]]] = []

    def policy(tool_name: str, tool_input: dict[str, Any]) -> Literal["allow", "deny"]:
        ruled.append((tool_name, tool_input))
        return ruling

    factory = ScriptedFactory()
    app = create_app(auth=AuthConfig(disabled=True), sdk_factory=factory, policy=policy)
    ended.append(app)

    with anyio.fail_after(PATIENCE_S):
        decided = await (await asked(app, factory))

    assert decided.behavior == ruling
    assert ruled == [("Bash", {"command": "ls"})]
    factory.agents[0].end()


@pytest.mark.parametrize("by", ["argument", "settings", "both"])
def test_permission_nobody_gives_in_time_is_denied(by: str) -> None:
    """In the time of the argument, or else of the settings."""

    async def main() -> None:
        factory = ScriptedFactory()
        app = create_app(
            auth=AuthConfig(disabled=True),
            sdk_factory=factory,
            settings=Settings(permission_timeout_s=50 if by == "settings" else 500),
            deadlines=None if by == "settings" else Deadlines(permission_s=50),
        )
        asking = await asked(app, factory)
        began_s = now_s()

        assert (await asking).behavior == "deny"

        assert now_s() - began_s == pytest.approx(50, abs=1)
        factory.agents[0].end()
        await app.shutdown()

    run_in_no_time(main())
