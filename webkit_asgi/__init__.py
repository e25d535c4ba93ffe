"""A framework-free ASGI callable over :mod:`webkit_core`.

``uvicorn webkit_asgi:app`` serves what the environment says; :func:`create_app` makes
an application to embed or mount.
"""

from __future__ import annotations

import os
import secrets
from typing import Any

from webkit_core import ConfigError, SdkFactory

from .application import Application
from .auth import NO_AUTH_VARIABLE, TOKEN_VARIABLE, AuthConfig
from .misconfigured import Misconfigured
from .settings import Settings

__all__ = ("Application", "AuthConfig", "Settings", "app", "create_app")


def create_app(
    *,
    auth: AuthConfig | None = None,
    sdk_factory: SdkFactory | None = None,
    settings: Settings | None = None,
) -> Application:
    """Return an ASGI application.

    Args:
        auth: who may talk to it; by default what the environment says.
        sdk_factory: ``async (config, can_use_tool) -> connected agent``; by default a
            Claude Code CLI per session.
        settings: limits and times; by default what the environment says.

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
    return Application(auth, settings, sdk_factory, demo)


def __getattr__(name: str) -> Any:
    """Build ``app`` from the environment when it is first asked for (PEP 562)."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        application: Application | Misconfigured = create_app()
    except ConfigError as error:
        application = Misconfigured(error)
    globals()["app"] = application
    return application
