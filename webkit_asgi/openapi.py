"""``GET /openapi.json``: what the server takes and answers, as OpenAPI 3.1.

Made from the table in :mod:`.operations`, the types that decode requests and encode
answers, and the tables of statuses and roles; nothing is said twice.

Rules: an error's status is :data:`.responses.STATUS_BY_ERROR`'s, its code the class's,
whom a path is for is what the routes say. What a type checks and its schema cannot know
is in :data:`CHECKED_BESIDES`. Invariant: an answer that the document does not have is a
mistake, of the document or of the server.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from webkit_core import (
    PROTOCOL_VERSION,
    CursorError,
    PermissionResponse,
    Unavailable,
    WebkitError,
    protocol,
)

from .answers import CursorErrorBody, ErrorBody
from .auth import AuthUnavailable, Role
from .operations import OPERATIONS, Errors, Operation, Parameter, Success
from .responses import (
    STATUS_BY_ERROR,
    MethodNotAllowed,
    NotFound,
    Response,
    Unauthorized,
    json_response,
)
from .stream import EventStream

Json = dict[str, Any]

EVENTS: Final[dict[str, type[protocol.Event]]] = {
    kind.EVENT: kind
    for kind in vars(protocol).values()
    if isinstance(kind, type)
    and issubclass(kind, protocol.Event)
    and kind is not protocol.Event
}
"""What a stream carries, by name."""

_NULL: Final[Json] = {"type": "null"}

CHECKED_BESIDES: Final[dict[type, Json]] = {
    protocol.ImageSource: {
        "properties": {
            "data": {
                "contentEncoding": "base64",
                "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}"
                "|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$",
            }
        }
    },
    PermissionResponse: {
        "if": {"properties": {"behavior": {"const": "allow"}}},
        "then": {"properties": {"message": _NULL, "interrupt": _NULL}},
        "else": {"properties": {"updated_input": _NULL, "updated_permissions": _NULL}},
    },
}
"""What ``__post_init__`` of a type refuses, as a schema that goes into the type's."""

SCHEMES: Final = {
    Role.USER: ("token", "The server's token."),
    Role.SCRAPER: ("metricsToken", "The token of whoever scrapes metrics."),
    Role.ADMIN: ("adminToken", "The operators' token."),
}
"""Security schemes: who they are for, their name and what they are."""

_ACCEPTED: Final = {
    Role.ANYBODY: (),
    Role.USER: (Role.USER,),
    Role.SCRAPER: (Role.USER, Role.SCRAPER, Role.ADMIN),
    Role.ADMIN: (Role.ADMIN,),
}
"""Whose token a path of a role takes."""

ERROR_HEADERS: Final[dict[type[WebkitError], tuple[str, str]]] = {
    Unauthorized: ("WWW-Authenticate", "The scheme that is asked for: Bearer."),
    MethodNotAllowed: ("Allow", "The methods that the path has."),
    Unavailable: ("Retry-After", "After how many seconds asking again makes sense."),
}
"""A header that every answer has which has the status of that error."""

DESCRIPTION: Final = """\
Many long-lived agent sessions: HTTP to control them, Server-Sent Events to watch them.

An error is `{"detail", "code"}`; the code is stable. Besides the answers listed, a path
that is not here is 404 `not_found`, and a method that a path does not have is 405
`method_not_allowed`, with `Allow` (see the components' responses). HEAD goes wherever
GET does. Bodies are JSON whatever their `Content-Type` says.
"""

_REF: Final = "#/components/schemas/"


@lru_cache(8)
def document_response(root_path: str = "") -> Response:
    """Return the answer that is the document of a server mounted at ``root_path``."""
    return json_response(document(root_path))


def document(root_path: str = "") -> Json:
    """Return the document."""
    schemas = _Schemas(_types())
    paths: Json = {}
    for (method, path), operation in OPERATIONS.items():
        described = _operation(path, operation, schemas)
        paths.setdefault(path, {})[method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "webkit",
            "version": PROTOCOL_VERSION,
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root_path.rstrip("/") or "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {
                kind.__name__: _error_answer((kind,), schemas)
                for kind in (NotFound, MethodNotAllowed)
            },
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": words}
                for name, words in SCHEMES.values()
            },
        },
    }


def status_of_class(kind: type[WebkitError]) -> int:
    """Return the HTTP status of errors of a class."""
    return next(
        STATUS_BY_ERROR[base] for base in kind.__mro__ if base in STATUS_BY_ERROR
    )


# --- schemas


class _Schemas:
    """The schemas of types: those that have a name are components."""

    def __init__(self, types: Iterable[Any]) -> None:
        self._types = list(types)
        self._schemas, self.components = msgspec.json.schema_components(
            self._types, ref_template=_REF + "{name}"
        )
        for component in self.components.values():
            if "description" in component:
                component["description"] = inspect.cleandoc(component["description"])
        for kind, besides in CHECKED_BESIDES.items():
            _merge(self.components[kind.__name__], besides)

    def of(self, kind: Any) -> Json:
        """Return the schema of a type, or a reference to it."""
        return self._schemas[self._types.index(kind)]


def _types() -> Iterator[Any]:
    """Return every type of which the document has a schema."""
    yield from EVENTS.values()
    yield from (ErrorBody, CursorErrorBody)
    for operation in OPERATIONS.values():
        bodies = {answer.body for answer in operation.answers}
        yield from bodies - {None, EventStream}
        yield from (parameter.type for parameter in operation.parameters)
        if operation.body is not None:
            yield operation.body


def _merge(schema: Json, besides: Mapping[str, Any]) -> None:
    for key, value in besides.items():
        if isinstance(schema.get(key), dict):
            _merge(schema[key], value)
        else:
            schema[key] = value


# --- operations


def _operation(path: str, operation: Operation, schemas: _Schemas) -> Json:
    # Not above: the routes import the endpoints, one of which sends this document.
    from .routes import ROLES

    role = ROLES.get(path, Role.USER)
    everywhere: tuple[type[WebkitError], ...] = ()
    if role is Role.USER:
        everywhere = (Unauthorized, AuthUnavailable)
    elif role is not Role.ANYBODY:
        everywhere = (Unauthorized,)
    described: Json = {
        "operationId": operation.id,
        "summary": operation.summary,
        "security": [{SCHEMES[accepted][0]: []} for accepted in _ACCEPTED[role]],
    }
    if operation.parameters:
        described["parameters"] = [
            _parameter(parameter, schemas) for parameter in operation.parameters
        ]
    if operation.body is not None:
        described["requestBody"] = _request_body(operation, schemas)
    described["responses"] = {
        **{str(a.status): _success(a, schemas) for a in operation.answers},
        **{
            str(status): _error_answer(kinds, schemas)
            for status, kinds in _by_status(
                (WebkitError, *everywhere, *operation.errors)
            )
        },
    }
    return described


def _parameter(parameter: Parameter, schemas: _Schemas) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.description,
        "schema": schemas.of(parameter.type),
    }


def _request_body(operation: Operation, schemas: _Schemas) -> Json:
    return {
        "required": operation.body_required,
        "content": {
            "application/json": {
                "schema": schemas.of(operation.body),
                "examples": {
                    name: {"value": value} for name, value in operation.examples.items()
                },
            }
        },
    }


def _success(answer: Success, schemas: _Schemas) -> Json:
    described: Json = {"description": answer.description}
    if answer.headers:
        described["headers"] = dict(_headers(answer.headers.items()))
    if answer.body is not None:
        media_type = answer.content_type.partition(b";")[0].decode()
        described["content"] = {media_type: _content(answer, schemas)}
    if answer.links:
        described["links"] = dict(_links())
    return described


def _content(answer: Success, schemas: _Schemas) -> Json:
    if answer.body is not EventStream:
        return {"schema": schemas.of(answer.body)}
    # 3.1 has no schema for what comes one after the other.
    return {"x-events": {name: schemas.of(kind) for name, kind in EVENTS.items()}}


def _links() -> Iterator[tuple[str, Json]]:
    """Return what can be done with the session that an answer names."""
    for (_, path), operation in OPERATIONS.items():
        if "{id}" in path:
            parameters = {"id": "$response.body#/session_id"}
            yield operation.id, {"operationId": operation.id, "parameters": parameters}


def _headers(described: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Json]]:
    for name, words in described:
        # Required: it is in every answer of that status.
        yield (
            name,
            {"description": words, "required": True, "schema": {"type": "string"}},
        )


# --- errors


def _by_status(errors: Errors) -> list[tuple[int, Errors]]:
    """Return errors by their status, both in order."""
    found: dict[int, Errors] = {}
    for kind in sorted(errors, key=lambda kind: kind.code):
        status = status_of_class(kind)
        found[status] = (*found.get(status, ()), kind)
    return sorted(found.items())


def _error_answer(kinds: Errors, schemas: _Schemas) -> Json:
    """Return the answer that errors of one status are told by."""
    by_body: dict[type[ErrorBody], list[str]] = {}
    for kind in kinds:
        body = CursorErrorBody if issubclass(kind, CursorError) else ErrorBody
        by_body.setdefault(body, []).append(kind.code)
    bodies = [
        {"allOf": [schemas.of(body), {"properties": {"code": {"enum": codes}}}]}
        for body, codes in by_body.items()
    ]
    schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
    described: Json = {
        "description": "\n".join(f"- `{k.code}`: {_meaning(k)}" for k in kinds),
        "content": {"application/json": {"schema": schema}},
    }
    status = status_of_class(kinds[0])
    headers = [h for k, h in ERROR_HEADERS.items() if status_of_class(k) == status]
    if headers:
        described["headers"] = dict(_headers(headers))
    return described


def _meaning(kind: type[WebkitError]) -> str:
    """Return the first sentence of what an error class says of itself."""
    if kind is WebkitError:
        return "The server made a mistake; its log says which."
    return (inspect.getdoc(kind) or "").partition("\n")[0]
