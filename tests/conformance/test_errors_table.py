"""Every error class has one meaning and one stable code."""

from __future__ import annotations

import ast
import re
from typing import Final

import pytest

from tests.conformance.sources import modules
from webkit_core import errors
from webkit_core.errors import WebkitError

CLASSES: Final = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, WebkitError)
]

CODES: Final = {
    "WebkitError": "internal_error",
    "InvalidInput": "invalid_input",
    "MalformedJSON": "malformed_json",
    "UnknownType": "unknown_type",
    "InvalidCursor": "invalid_cursor",
    "Refused": "refused",
    "SessionNotFound": "session_not_found",
    "SessionClosed": "session_closed",
    "SessionExpired": "session_expired",
    "SessionFailed": "session_failed",
    "SessionExists": "session_exists",
    "ConflictError": "already_resolved",
    "CursorError": "cursor_not_in_buffer",
    "EvictedError": "evicted",
    "CursorAheadError": "cursor_ahead",
    "Unavailable": "unavailable",
    "CapacityExceeded": "at_capacity",
    "TooManySessions": "too_many_sessions",
    "StartQueueTimeout": "start_queue_timeout",
    "BackpressureError": "inbound_queue_full",
    "Draining": "draining",
    "AgentError": "agent_error",
    "AgentStartError": "agent_start_failed",
    "AgentRefused": "agent_refused",
    "AgentTimeout": "agent_timeout",
    "LogClosed": "log_closed",
    "ConfigError": "misconfigured",
    "InvalidTransition": "invalid_transition",
}
"""The codes on the wire. A line may be added, never changed."""


def test_codes_are_those_that_clients_know() -> None:
    assert {kind.__name__: kind.code for kind in CLASSES} == CODES


@pytest.mark.parametrize("kind", CLASSES)
def test_error_class_has_a_snake_case_code_of_its_own(kind: type[WebkitError]) -> None:
    assert "code" in vars(kind)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)


def test_no_two_error_classes_share_a_code() -> None:
    codes = [kind.code for kind in CLASSES]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", CLASSES)
def test_error_class_says_what_it_means(kind: type[WebkitError]) -> None:
    assert vars(kind)["__doc__"]


@pytest.mark.parametrize("kind", CLASSES)
def test_error_class_that_is_worth_a_retry_says_when(kind: type[WebkitError]) -> None:
    if issubclass(kind, errors.Unavailable):
        assert 0 < kind.retry_after_s <= 60
    else:
        assert not hasattr(kind, "retry_after_s")


def drawn_tree() -> dict[str, str]:
    """Class to parent, as the docstring of the module draws it."""
    parents: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│ ├└─]*)([A-Z]\w+)", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        while stack and stack[-1][0] >= depth:
            stack.pop()
        if stack:
            parents[name] = stack[-1][1]
        stack.append((depth, name))
    return parents


def test_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn_tree() == {
        kind.__name__: kind.__base__.__name__
        for kind in CLASSES
        if kind is not WebkitError and kind.__base__ is not None
    }


def derived_elsewhere(package: str) -> list[ast.ClassDef]:
    """Classes outside the core's error module that derive from one in it."""
    names = {kind.__name__ for kind in CLASSES}
    return [
        node
        for name, path in modules(package).items()
        if (package, name) != ("webkit_core", "errors")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in names for base in node.bases)
    ]


def test_errors_of_the_core_are_defined_in_their_module_alone() -> None:
    assert [node.name for node in derived_elsewhere("webkit_core")] == []


def test_errors_of_the_server_have_codes_of_their_own() -> None:
    codes = list(CODES.values())
    for node in derived_elsewhere("webkit_asgi"):
        own = [
            statement.value.value
            for statement in node.body
            if isinstance(statement, ast.Assign)
            and isinstance(statement.value, ast.Constant)
            and ast.unparse(statement.targets[0]) == "code"
        ]
        assert len(own) == 1, f"{node.name} has no code of its own"
        codes += map(str, own)

    assert len(codes) == len(set(codes))
