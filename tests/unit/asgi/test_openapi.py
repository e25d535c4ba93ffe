from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, get_args

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.conformance.sources import PACKAGES, imports, modules
from tests.contract.schemas import fits, misfit
from tests.unit.asgi.driver import serving
from tests.unit.asgi.test_responses import SAMPLES
from webkit_asgi import exchange, openapi
from webkit_asgi.auth import AuthConfig
from webkit_asgi.metrics import CONTENT_TYPE
from webkit_asgi.openapi import document, document_response
from webkit_asgi.operations import OPERATIONS
from webkit_asgi.responses import error_response, status_of
from webkit_asgi.routes import ROUTES
from webkit_core import (
    Inbound,
    InvalidCursor,
    decode_create,
    decode_inbound,
    errors,
    protocol,
    sse,
)
from webkit_core.errors import WebkitError

DOCUMENT: Final = document()

NOWHERE: Final = {
    "agent_error": "what others are made of",
    "cursor_not_in_buffer": "what others are made of",
    "invalid_transition": "our own mistake",
    "log_closed": "our own mistake",
    "misconfigured": "the server does not start",
    "not_implemented": "what others are made of",
    "refused": "what others are made of",
    "session_exists": "the server chooses the ids",
}
"""Codes that no request is answered with, and why."""


def operations_of(described: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def codes_in(response: dict[str, Any]) -> set[str]:
    schema = response["content"]["application/json"]["schema"]
    bodies = schema.get("anyOf", [schema])
    return {
        code
        for body in bodies
        for code in body["allOf"][1]["properties"]["code"]["enum"]
    }


def errors_of(operation: dict[str, Any]) -> dict[int, set[str]]:
    return {
        int(status): codes_in(response)
        for status, response in operation["responses"].items()
        if int(status) >= 400
    }


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def served_modules() -> set[str]:
    """Return what the application imports, and what that imports."""
    files = {f"{p}.{name}": path for p in PACKAGES for name, path in modules(p).items()}
    found: set[str] = set()
    waiting = {"webkit_asgi.application"}
    while waiting:
        name = waiting.pop()
        found.add(name)
        path = files[name if name in files else f"{name}.__init__"]
        waiting |= {n for n in imports(path) if n.startswith(PACKAGES)} - found
    return found


def every_error() -> set[type[WebkitError]]:
    """Return every error of what is served."""
    served = served_modules()
    found = {WebkitError}
    waiting = [WebkitError]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__ in served:
                found.add(kind)
    return found


def test_document_is_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()

    assert DOCUMENT["openapi"] == "3.1.0"


def test_document_has_every_route_and_no_other() -> None:
    routes = {(method, path) for path in ROUTES for method in ROUTES[path]}

    assert {(method, path) for method, path, _ in operations_of(DOCUMENT)} == routes


def test_operations_have_names_of_their_own() -> None:
    names = [described["operationId"] for _, _, described in operations_of(DOCUMENT)]

    assert len(names) == len(set(names))


def test_parameters_in_the_path_are_those_of_the_path() -> None:
    for _, path, described in operations_of(DOCUMENT):
        given = {
            p["name"] for p in described.get("parameters", ()) if p["in"] == "path"
        }

        assert given == set(re.findall(r"{(\w+)}", path))


def test_every_reference_leads_somewhere() -> None:
    found = re.findall(r'"(?:\$ref|[a-zA-Z_]+)": "(#/[^"]+)"', json.dumps(DOCUMENT))

    assert len(found) > 50
    for reference in found:
        target = DOCUMENT
        for part in reference[2:].split("/"):
            target = target[part]


# --- errors


def test_every_error_is_where_it_can_come_out() -> None:
    documented = {
        code
        for _, _, described in operations_of(DOCUMENT)
        for codes in errors_of(described).values()
        for code in codes
    }
    for response in DOCUMENT["components"]["responses"].values():
        documented |= codes_in(response)

    assert {kind.code for kind in every_error()} - NOWHERE.keys() == documented
    assert not documented & NOWHERE.keys()


def test_errors_have_the_status_that_they_are_answered_with() -> None:
    status_by_code = {type(error).code: status_of(error) for error, _, _ in SAMPLES}

    for _, _, described in operations_of(DOCUMENT):
        for status, codes in errors_of(described).items():
            assert {status_by_code.get(code, status) for code in codes} == {status}


@pytest.mark.parametrize(
    "error", [sample[0] for sample in SAMPLES], ids=lambda error: error.code
)
def test_error_is_answered_as_is_documented(error: WebkitError) -> None:
    response = error_response(error)
    places = [
        described["responses"][str(response.status)]
        for _, _, described in operations_of(DOCUMENT)
        if error.code in errors_of(described).get(response.status, ())
    ]
    places += [
        described
        for described in DOCUMENT["components"]["responses"].values()
        if error.code in codes_in(described)
    ]

    assert places or error.code in NOWHERE
    sent = {name.decode().title() for name, _ in response.headers}
    for described in places:
        content = described["content"]["application/json"]
        assert misfit(content["schema"], json.loads(response.body)) == ""
        assert {name.title() for name in described.get("headers", ())} == sent - {
            "Content-Type",
            "Content-Length",
        }


def test_error_without_its_fields_is_not_as_documented() -> None:
    schema = operation("GET", "/sessions/{id}/stream")["responses"]["412"]["content"]
    body = {"detail": "x", "code": "evicted", "oldest": 3, "last": 2}
    schema = schema["application/json"]["schema"]

    assert misfit(schema, body) == ""
    assert misfit(schema, body | {"code": "refused"})
    assert misfit(schema, body | {"oldest": 0})
    assert misfit(schema, {key: body[key] for key in ("detail", "code", "last")})


def test_every_operation_may_meet_a_mistake_of_ours() -> None:
    for _, _, described in operations_of(DOCUMENT):
        assert "internal_error" in errors_of(described)[500]


# --- who may


TOKENS: Final = {"token": "u", "adminToken": "a", "metricsToken": "m"}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("scheme", [*TOKENS, None])
async def test_security_is_what_is_asked_for(path: str, scheme: str | None) -> None:
    auth = AuthConfig(token="u", admin_token="a", metrics_token="m")
    described = next(iter(DOCUMENT["paths"][path].values()))
    accepted = {name for choice in described["security"] for name in choice}
    token = None if scheme is None else TOKENS[scheme]

    async with serving(auth=auth) as server:
        method = next(iter(ROUTES[path]))
        call = await server.ask(method, path, token=token)

    assert (call.status != 401) is (not accepted or scheme in accepted)
    assert (401 in errors_of(described)) is bool(accepted)
    assert accepted <= DOCUMENT["components"]["securitySchemes"].keys()


# --- bodies


def test_stream_has_every_event() -> None:
    answer = operation("GET", "/sessions/{id}/stream")["responses"]["200"]
    events = answer["content"]["text/event-stream"]["x-events"]
    kinds = {
        kind.EVENT: kind
        for kind in protocol.Event.__subclasses__()
        if kind.__module__ == protocol.__name__
    }

    assert events.keys() == kinds.keys()
    for name, kind in kinds.items():
        component = DOCUMENT["components"]["schemas"][events[name]["$ref"][21:]]
        assert component["properties"].keys() == {
            field.encode_name for field in msgspec.structs.fields(kind)
        }


def test_session_answers_what_its_description_says() -> None:
    described = DOCUMENT["components"]["schemas"]["SessionDescription"]

    assert set(described["required"]) == described["properties"].keys()
    assert described["properties"]["pending"]["items"]["discriminator"]["mapping"] == {
        "permission_request": "#/components/schemas/OpenPermission",
        "ask_user_question": "#/components/schemas/OpenQuestion",
    }


def test_metrics_are_the_text_that_they_are() -> None:
    answer = operation("GET", "/metrics")["responses"]["200"]

    assert list(answer["content"]) == [CONTENT_TYPE.decode().partition(";")[0]]


@pytest.mark.parametrize(
    ("name", "field", "expected"),
    [
        ("CreateSession", "model", {"minLength": 1, "maxLength": 200}),
        ("CreateSession", "cwd", {"minLength": 1, "maxLength": 4096}),
        ("UserMessage", "content", {"minLength": 1}),
        ("PermissionResponse", "message", {"maxLength": 65_536}),
        ("QuestionResponse", "correlation_id", {"minLength": 1, "maxLength": 200}),
    ],
)
def test_limits_of_fields_come_through(
    name: str, field: str, expected: dict[str, int]
) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    described = schema["properties"][field]
    choices = described.get("anyOf", [described])

    assert schema["additionalProperties"] is False
    assert any(expected.items() <= choice.items() for choice in choices)


def test_what_types_check_by_hand_is_described() -> None:
    by_hand = {
        kind
        for kind in vars(protocol).values()
        if isinstance(kind, type) and "__post_init__" in vars(kind)
    }

    assert by_hand == openapi.CHECKED_BESIDES.keys()


def test_subscriber_is_named_as_the_server_takes_it() -> None:
    pattern = exchange._SUBSCRIBER_ID.pattern

    for described in (
        operation("POST", "/sessions/{id}/input"),
        operation("GET", "/sessions/{id}/stream"),
    ):
        by_name = {p["name"]: p["schema"] for p in described["parameters"]}
        assert by_name["X-Subscriber-Id"]["pattern"] == f"^{pattern}$"


@pytest.mark.parametrize("number", [-1, 0, 1, sse.MAX_SEQ, sse.MAX_SEQ + 1])
def test_cursor_is_a_number_that_the_server_takes(number: int) -> None:
    by_name = {
        p["name"]: p["schema"]
        for p in operation("GET", "/sessions/{id}/stream")["parameters"]
    }
    try:
        taken = sse.parse_last_event_id(str(number)) == number
    except InvalidCursor:
        taken = False

    assert fits(by_name["Last-Event-ID"], number) is taken
    assert fits(by_name["last_event_id"], number) is taken


def test_examples_are_bodies_of_every_type() -> None:
    kinds = set()
    for (method, path), row in OPERATIONS.items():
        assert bool(row.examples) is (row.body is not None)
        for name, example in row.examples.items():
            body = operation(method, path)["requestBody"]["content"]["application/json"]
            assert body["examples"][name] == {"value": example}
            assert misfit(body["schema"], example) == ""
            decode = decode_create if path == "/sessions" else decode_inbound
            kinds.add(type(decode(json.dumps(example).encode())))

    assert kinds == {protocol.CreateSession, *get_args(Inbound)}


def test_session_that_was_made_leads_to_all_that_can_be_done_with_it() -> None:
    links = operation("POST", "/sessions")["responses"]["200"]["links"]

    assert {link["operationId"] for link in links.values()} == {
        row.id for (_, path), row in OPERATIONS.items() if "{id}" in path
    }


# --- the answer


def test_answer_is_the_document_and_made_once() -> None:
    response = document_response()

    assert json.loads(response.body) == DOCUMENT
    assert dict(response.headers)[b"content-type"] == b"application/json"
    assert document_response() is response


@pytest.mark.parametrize(
    ("root_path", "url"), [("", "/"), ("/", "/"), ("/agents", "/agents"), ("/a/", "/a")]
)
def test_document_says_where_the_server_is_mounted(root_path: str, url: str) -> None:
    assert document(root_path)["servers"] == [{"url": url}]
    assert document(root_path)["paths"] == DOCUMENT["paths"]


def test_errors_are_named_by_class_and_not_by_status() -> None:
    for row in OPERATIONS.values():
        assert all(answer.status < 400 for answer in row.answers)
        assert len(row.errors) == len(set(row.errors))
        assert set(row.errors) <= every_error() - {WebkitError, errors.ConfigError}
