"""A framework-free ASGI callable over :mod:`webkit_core`.

``uvicorn webkit_asgi:app`` serves what the environment says; :func:`create_app` makes
an application to embed or mount.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from webkit_core import ConfigError, Deadlines, Policy, SdkFactory

from .application import Application
from .auth import (
    ADMIN_TOKEN_VARIABLE,
    METRICS_TOKEN_VARIABLE,
    NO_AUTH_VARIABLE,
    TOKEN_VARIABLE,
    AuthConfig,
)
from .health import Check
from .logs import set_up_logging
from .misconfigured import Misconfigured
from .principal import Principal, Verifier
from .settings import Settings

__all__ = ("Application", "AuthConfig", "Principal", "Settings", "app", "create_app")


def create_app(
    *,
    auth: AuthConfig | Verifier | None = None,
    sdk_factory: SdkFactory | None = None,
    settings: Settings | None = None,
    deadlines: Deadlines | None = None,
    policy: Policy | None = None,
    checks: Mapping[str, Check] | None = None,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Application:
    """Return an ASGI application.

    Args:
        auth: who may talk to it, or ``async (headers) -> Principal or None`` that says
            who does; by default what the environment says.
        sdk_factory: ``async (config, can_use_tool) -> connected agent``; by default a
            Claude Code CLI per session.
        settings: limits and times; by default what the environment says.
        deadlines: how long agents may take to do what they are asked, and people to
            answer; by default what the settings say.
        policy: ``(tool_name, input) -> "allow", "deny" or "ask"``: what the server
            decides about a tool before people are asked.
        checks: named coroutine functions that raise when the server is not ready, for
            ``GET /readyz``.
        meter_provider: where metrics go; by default what the process has set, or else
            nowhere but ``GET /metrics``.
        tracer_provider: where spans go; by default what the process has set.

    Raises:
        ConfigError: a setting is out of range, the environment says something wrong,
            or nothing about auth.
    """
    settings = Settings.from_env() if settings is None else settings.checked()
    environ = dict(os.environ)
    demo = None
    if settings.demo and sdk_factory is None:
        from .demo import Demo

        no_auth = environ.get(NO_AUTH_VARIABLE) or "0"
        if auth is None and no_auth == "0" and not environ.get(TOKEN_VARIABLE):
            environ[TOKEN_VARIABLE] = secrets.token_urlsafe(16)
        demo = Demo(environ.get(TOKEN_VARIABLE, "<your token>"))
    if auth is None:
        auth = AuthConfig.from_env(environ)
    elif not isinstance(auth, AuthConfig):
        auth = AuthConfig(
            verifier=auth,
            admin_token=environ.get(ADMIN_TOKEN_VARIABLE) or None,
            metrics_token=environ.get(METRICS_TOKEN_VARIABLE) or None,
        )
    return Application(
        auth,
        settings,
        sdk_factory,
        demo,
        deadlines=deadlines,
        policy=policy,
        checks=checks,
        meter_provider=meter_provider,
        tracer_provider=tracer_provider,
    )


def __getattr__(name: str) -> Any:
    """Build ``app`` from the environment when it is first asked for (PEP 562)."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        settings = Settings.from_env()
        set_up_logging(settings.log_format)
        application: Application | Misconfigured = create_app(settings=settings)
    except ConfigError as error:
        application = Misconfigured(error)
    globals()["app"] = application
    return application
