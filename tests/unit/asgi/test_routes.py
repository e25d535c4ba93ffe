from __future__ import annotations

import pytest

from webkit_asgi import endpoints
from webkit_asgi.auth import Role
from webkit_asgi.responses import MethodNotAllowed, NotFound
from webkit_asgi.routes import ROLES, ROUTES, Endpoint, match


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "session_id"),
    [
        ("GET", "/healthz", endpoints.health, ""),
        ("GET", "/readyz", endpoints.ready, ""),
        ("GET", "/metrics", endpoints.scrape, ""),
        ("POST", "/admin/drain", endpoints.drain, ""),
        ("GET", "/sessions", endpoints.list_sessions, ""),
        ("POST", "/sessions", endpoints.create_session, ""),
        ("GET", "/sessions/abc", endpoints.show_session, "abc"),
        ("DELETE", "/sessions/abc", endpoints.delete_session, "abc"),
        ("POST", "/sessions/abc/input", endpoints.post_input, "abc"),
        ("GET", "/sessions/abc/stream", endpoints.stream, "abc"),
        ("GET", "/sessions/{id}", endpoints.show_session, "{id}"),
        ("GET", "/sessions/a b é", endpoints.show_session, "a b é"),
    ],
)
def test_match_of_a_route_is_its_endpoint_and_the_session(
    method: str, path: str, endpoint: Endpoint, session_id: str
) -> None:
    assert match(method, path) == (endpoint, session_id)


@pytest.mark.parametrize(
    "path", [path.format(id="abc") for path in ROUTES if "GET" in ROUTES[path]]
)
def test_match_of_head_is_that_of_get(path: str) -> None:
    assert match("HEAD", path) == match("GET", path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/healthz/",
        "/Healthz",
        "/metrics/",
        "/admin",
        "/admin/",
        "/admin/drain/",
        "/session",
        "/sessions/",
        "//sessions",
        "/sessions//stream",
        "/sessions/abc/",
        "/sessions/abc/stream/",
        "/sessions/abc/streams",
        "/sessions/abc/input/stream",
        "/sessions/abc//stream",
        "sessions",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_match_of_no_path_is_not_found_by_any_method(method: str, path: str) -> None:
    with pytest.raises(NotFound) as caught:
        match(method, path)

    assert str(caught.value) == f"no such path: {path}"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/readyz", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("GET", "/admin/drain", "POST"),
        ("HEAD", "/admin/drain", "POST"),
        ("PUT", "/sessions", "GET, POST, HEAD"),
        ("POST", "/sessions/abc", "GET, DELETE, HEAD"),
        ("GET", "/sessions/abc/input", "POST"),
        ("HEAD", "/sessions/abc/input", "POST"),
        ("POST", "/sessions/abc/stream", "GET, HEAD"),
        ("get", "/sessions", "GET, POST, HEAD"),
        ("OPTIONS", "/sessions", "GET, POST, HEAD"),
        ("", "/sessions", "GET, POST, HEAD"),
    ],
)
def test_match_of_no_method_says_which_there_are(
    method: str, path: str, allow: str
) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        match(method, path)

    assert caught.value.allow == allow


def paths_of(role: Role) -> set[str]:
    return {path for path, its_role in ROLES.items() if its_role is role}


def test_paths_for_anybody_are_routes_that_only_read() -> None:
    assert paths_of(Role.ANYBODY) == {"/healthz", "/readyz", "/openapi.json"}
    assert all(set(ROUTES[path]) == {"GET"} for path in paths_of(Role.ANYBODY))


def test_paths_for_operators_are_those_that_say_so() -> None:
    assert paths_of(Role.SCRAPER) == {"/metrics"}
    assert paths_of(Role.ADMIN) == {path for path in ROUTES if "/admin" in path}


def test_roles_are_those_of_paths_that_are_routes() -> None:
    """A role of a path that is misspelled would leave the path to every user."""
    assert ROLES.keys() <= ROUTES.keys()
