"""Requests made from the document, right and wrong, and what every answer must be."""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import quote, urlencode

from hypothesis import strategies as st
from msgspec import Struct

from tests.unit.asgi.driver import TOKEN, Call
from webkit_asgi.routes import ROUTES

from .schemas import DOCUMENT, Schema, anything, fits, misfit, spoiled, values

ADMIN_TOKEN: Final = "an-admin-token"
METRICS_TOKEN: Final = "a-metrics-token"
TOKENS: Final = {
    "token": TOKEN,
    "adminToken": ADMIN_TOKEN,
    "metricsToken": METRICS_TOKEN,
}
MAX_BODY_BYTES: Final = 4000

Parameters = dict[str, str]


class Request(Struct, kw_only=True):
    """A request; ``session`` is a number for one that lives, or else an id."""

    method: str
    path: str
    session: int | str
    token: str | None
    headers: Parameters
    query: Parameters
    body: bytes

    def path_with(self, session_id: str) -> str:
        """Return the path as a server hands it on: decoded."""
        return self.path.replace("{id}", session_id)

    @property
    def query_string(self) -> bytes:
        return urlencode(self.query, quote_via=quote).encode()

    @property
    def operation(self) -> Schema | None:
        """What the document says of it; HEAD is what GET is."""
        method = "get" if self.method == "HEAD" else self.method.lower()
        known = self.method.isupper() and self.path in DOCUMENT["paths"]
        return DOCUMENT["paths"][self.path].get(method) if known else None


# --- drawing


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    """Texts for a header or a query: such that fit, and others."""
    latin = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"))
    fitting = values(schema).map(str).filter(_is_sendable)
    return st.one_of(
        fitting,
        fitting.map("{}!".format),
        st.integers(-2, 30).map(str),
        st.sampled_from(["", "0", "-1", "1.0", "007", "²", "9007199254740992", "a b"]),
        latin,
    )


def _is_sendable(text: str) -> bool:
    """Whether a header can say it."""
    return all(ord(character) < 256 for character in text) and not {*"\r\n\0"} & {*text}


def _bodies(schema: Schema, examples: list[Any]) -> st.SearchStrategy[bytes]:
    def encoded(drawn: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
        return drawn.map(lambda value: json.dumps(value).encode())

    return st.one_of(
        encoded(st.sampled_from(examples)),
        encoded(values(schema)),
        encoded(spoiled(schema)),
        encoded(anything()),
        st.binary(max_size=20),
        st.just(b'"' + b"x" * MAX_BODY_BYTES + b'"'),
    )


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request that has a place in the document, or nearly has."""
    path = draw(
        st.sampled_from([*DOCUMENT["paths"], "/sessions/{id}/input", "/nowhere"])
    )
    described = DOCUMENT["paths"].get(path, {})
    known = [method.upper() for method in described] * 4
    others = ["HEAD", "PUT", "PATCH", "OPTIONS", "TRACE", "DELETE", "POST", "get", ""]
    request = Request(
        method=draw(st.sampled_from(known + others)),
        path=path,
        session=draw(
            st.integers(0, 3) | st.text(st.characters(codec="utf-8"), min_size=1)
        ),
        token=draw(st.sampled_from([TOKEN] * 12 + [*TOKENS.values(), "wrong", None])),
        headers={},
        query={},
        body=draw(st.binary(max_size=5)),
    )
    if path == "/admin/drain":
        request.token = draw(st.sampled_from([TOKEN] * 9 + [ADMIN_TOKEN, None]))
    operation = request.operation or {}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] != "path" and draw(st.booleans()):
            where = request.headers if parameter["in"] == "header" else request.query
            where[parameter["name"]] = draw(_texts(parameter["schema"]))
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        examples = [example["value"] for example in content["examples"].values()]
        request.body = draw(_bodies(content["schema"], examples))
    return request


# --- judging


def wrong(request: Request, call: Call) -> str:
    """What is wrong with an answer by the document; nothing when all is right."""
    if (call.status == 401) is not _is_unauthorized(request):
        return f"{call.status}, with the token {request.token!r}"
    described = _described(request, call.status)
    if described is None:
        return f"{call.status} is not in the document: {call.body[:200]!r}"
    if call.status == 500:
        return f"a mistake of the server: {call.body[:200]!r}"
    missing = {name.lower() for name in described.get("headers", ())} - set(
        call.headers
    )
    if missing:
        return f"no {missing}"
    if request.method == "HEAD":
        return f"a body: {call.body!r}" if call.body else ""
    return _wrong_body(described, call)


def _is_unauthorized(request: Request) -> bool:
    described = next(iter(DOCUMENT["paths"].get(request.path, {}).values()), None)
    choices = [{"token": []}] if described is None else described["security"]
    accepted = {TOKENS[name] for choice in choices for name in choice}
    return bool(accepted) and request.token not in accepted


def _described(request: Request, status: int) -> Schema | None:
    found: Schema | None
    operation = request.operation
    if operation is not None:
        found = operation["responses"].get(str(status))
        return found
    if status == 401:
        found = DOCUMENT["paths"]["/sessions"]["get"]["responses"]["401"]
        return found
    expected = (
        ("MethodNotAllowed", 405) if request.path in ROUTES else ("NotFound", 404)
    )
    return (
        DOCUMENT["components"]["responses"][expected[0]]
        if status == expected[1]
        else None
    )


def _wrong_body(described: Schema, call: Call) -> str:
    if "content" not in described:
        sent = call.headers.get("content-type")
        return "" if sent is None and not call.body else f"a body: {sent} {call.body!r}"
    ((media_type, content),) = described["content"].items()
    if call.headers["content-type"].partition(";")[0] != media_type:
        return f"{call.headers['content-type']} is not {media_type}"
    if media_type == "application/json":
        return misfit(content["schema"], call.json)
    if media_type == "text/event-stream":
        return _wrong_events(content["x-events"], call)
    return misfit(content["schema"], call.body.decode())


def _wrong_events(schemas: Schema, call: Call) -> str:
    for event in call.events:
        if event.type not in schemas:
            return f"{event.type} is not in the document"
        if found := misfit(schemas[event.type], json.loads(event.data)):
            return f"{event.type}: {found}"
    return ""


def is_valid(request: Request) -> bool | None:
    """Whether the document allows the request; None is that it leaves that open."""
    operation = request.operation or {}
    parameters = {p["name"]: p["schema"] for p in operation.get("parameters", ())}
    given = request.headers | request.query
    if request.headers.get("Last-Event-ID"):
        given.pop("last_event_id", None)  # the header wins
    verdicts = [_text_fits(parameters[name], text) for name, text in given.items()]
    if "requestBody" in operation:
        verdicts.append(_body_fits(operation["requestBody"], request.body))
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _text_fits(schema: Schema, text: str) -> bool | None:
    if re.fullmatch("0[0-9]+", text):
        return None  # a number is not written that way, but can be read
    number = re.fullmatch("0|-?[1-9][0-9]*", text)
    return fits(schema, text) or (number is not None and fits(schema, int(text)))


def _body_fits(described: Schema, body: bytes) -> bool | None:
    if not body:
        return not described["required"]
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        value = json.loads(body.decode())
    except (ValueError, RecursionError):
        return False
    return fits(described["content"]["application/json"]["schema"], value)
