"""The (path, method) table.

Rules: a path is looked up first, then its method, so that 404 and 405 are told apart;
HEAD goes wherever GET does. Session paths are matched by hand: three shapes need no
pattern language.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from . import endpoints
from .auth import Role
from .endpoints import Server
from .exchange import Exchange
from .responses import Answer, MethodNotAllowed, NotFound

Endpoint = Callable[[Server, Exchange], Awaitable[Answer]]

ROLES: Final = {
    "/healthz": Role.ANYBODY,  # load balancers have no token
    "/readyz": Role.ANYBODY,
    "/openapi.json": Role.ANYBODY,  # tools that read it have no token
    "/metrics": Role.SCRAPER,
    "/admin/drain": Role.ADMIN,
}
"""Whom a path is for; all others are for users."""

_SESSION: Final = "/sessions/"

ROUTES: Final[dict[str, dict[str, Endpoint]]] = {
    "/healthz": {"GET": endpoints.health},
    "/readyz": {"GET": endpoints.ready},
    "/openapi.json": {"GET": endpoints.describe_api},
    "/metrics": {"GET": endpoints.scrape},
    "/admin/drain": {"POST": endpoints.drain},
    "/sessions": {"GET": endpoints.list_sessions, "POST": endpoints.create_session},
    "/sessions/{id}": {
        "GET": endpoints.show_session,
        "DELETE": endpoints.delete_session,
    },
    "/sessions/{id}/input": {"POST": endpoints.post_input},
    "/sessions/{id}/stream": {"GET": endpoints.stream},
}


def match(method: str, path: str) -> tuple[Endpoint, str]:
    """Return the endpoint of a request and the session id in its path, if any.

    Raises:
        NotFound: no such path.
        MethodNotAllowed: no such method there.
    """
    template, session_id = _template(path)
    methods = ROUTES.get(template)
    if methods is None:
        raise NotFound(f"no such path: {path}")
    endpoint = methods.get("GET" if method == "HEAD" else method)
    if endpoint is None:
        allowed = [*methods, "HEAD"] if "GET" in methods else [*methods]
        raise MethodNotAllowed(method, ", ".join(allowed))
    return endpoint, session_id


def _template(path: str) -> tuple[str, str]:
    if not path.startswith(_SESSION):
        return path, ""
    session_id, slash, rest = path[len(_SESSION) :].partition("/")
    if not session_id:
        return "", ""
    return f"/sessions/{{id}}{slash}{rest}", session_id
