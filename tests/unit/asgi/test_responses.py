from __future__ import annotations

import json

import pytest

from webkit_asgi import exchange, responses
from webkit_asgi.exchange import BodyTooLarge, Exchange
from webkit_asgi.responses import (
    NO_CONTENT,
    STATUS_BY_ERROR,
    MethodNotAllowed,
    NotFound,
    Response,
    Unauthorized,
    error_response,
    json_response,
    status_of,
)
from webkit_asgi.types import Message
from webkit_core import errors
from webkit_core.errors import WebkitError

SAMPLES = [
    (errors.InvalidInput("`mode` is wrong"), 400, "`mode` is wrong"),
    (errors.MalformedJSON("not JSON"), 400, "not JSON"),
    (errors.UnknownType("unknown `type`"), 400, "unknown `type`"),
    (errors.InvalidCursor("not a number"), 400, "not a number"),
    (errors.AgentRefused("no"), 400, "no"),
    (Unauthorized(), 401, "Authorization: Bearer"),
    (errors.Refused("not here"), 403, "not here"),
    (errors.SessionNotFound("abc"), 404, "'abc'"),
    (errors.SessionClosed("abc"), 404, "'abc' is closed"),
    (errors.SessionFailed("abc", "it died"), 404, "it died"),
    (NotFound("no such path: /x"), 404, "/x"),
    (MethodNotAllowed("PUT", "GET, HEAD"), 405, "GET, HEAD"),
    (errors.ConflictError("toolu_1", "allow"), 409, "'toolu_1'"),
    (errors.EvictedError(3, 7, 9), 412, "event 4"),
    (errors.CursorAheadError(10, 7, 9), 412, "event 10"),
    (BodyTooLarge(1234), 413, "1234 bytes"),
    (WebkitError("oops"), 500, "oops"),
    (errors.AgentStartError("no CLI"), 503, "no CLI"),
    (errors.AgentTimeout("too slow"), 503, "too slow"),
    (errors.CapacityExceeded(5), 503, "Server at capacity"),
    (errors.BackpressureError(5), 503, "limit of 5"),
    (errors.Draining(), 503, "draining"),
]

each_error = pytest.mark.parametrize(
    ("error", "status", "words"),
    SAMPLES,
    ids=[type(error).__name__ for error, _, _ in SAMPLES],
)


def headers_of(response: Response) -> dict[bytes, bytes]:
    assert len(dict(response.headers)) == len(response.headers)
    return dict(response.headers)


@each_error
def test_error_response_says_what_is_wrong_and_by_which_code(
    error: WebkitError, status: int, words: str
) -> None:
    response = error_response(error)
    body = json.loads(response.body)

    assert response.status == status == status_of(error)
    assert words in body["detail"]
    assert body["code"] == error.code
    assert headers_of(response)[b"content-type"] == b"application/json"
    assert int(headers_of(response)[b"content-length"]) == len(response.body)


@each_error
def test_error_response_has_the_header_that_its_status_asks_for(
    error: WebkitError, status: int, words: str
) -> None:
    """RFC 9110: 401 has WWW-Authenticate, 405 has Allow; and ours: 503, Retry-After."""
    found = headers_of(error_response(error))
    found.pop(b"content-type")
    found.pop(b"content-length")

    assert set(found) == {
        401: {b"www-authenticate"},
        405: {b"allow"},
        503: {b"retry-after"},
    }.get(status, set())


def test_error_response_of_an_authentication_names_the_scheme() -> None:
    assert headers_of(error_response(Unauthorized()))[b"www-authenticate"] == b"Bearer"


def test_error_response_of_a_method_lists_the_right_ones() -> None:
    found = headers_of(error_response(MethodNotAllowed("PUT", "GET, HEAD")))

    assert found[b"allow"] == b"GET, HEAD"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.CapacityExceeded(5), 5),
        (errors.Draining(), 5),
        (errors.BackpressureError(5), 1),
        (errors.AgentTimeout("x"), 5),
    ],
)
def test_error_response_of_what_may_pass_says_when_to_ask_again(
    error: WebkitError, seconds: int
) -> None:
    assert headers_of(error_response(error))[b"retry-after"] == b"%d" % seconds


@pytest.mark.parametrize(
    "error", [errors.EvictedError(3, 7, 9), errors.CursorAheadError(10, 7, 9)]
)
def test_error_response_of_a_cursor_says_what_is_held(error: WebkitError) -> None:
    body = json.loads(error_response(error).body)

    assert (body["oldest"], body["last"]) == (7, 9)


@each_error
def test_error_response_has_no_more_fields_than_clients_know(
    error: WebkitError, status: int, words: str
) -> None:
    fields = {"detail", "code"} | ({"oldest", "last"} if status == 412 else set())

    assert set(json.loads(error_response(error).body)) == fields


def test_error_response_with_text_that_was_cut_in_a_character_is_json() -> None:
    """What an agent reports may hold half a surrogate pair: JSON from a cut string."""
    body = json.loads(error_response(errors.AgentRefused("cut: \ud83d")).body)

    assert body["detail"] == "cut: �"


def all_errors() -> list[type[WebkitError]]:
    found: dict[type[WebkitError], None] = {}
    for module in (errors, responses, exchange):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, WebkitError):
                found[value] = None
    del found[errors.ConfigError]  # never meets a request: see misconfigured
    return list(found)


@pytest.mark.parametrize("kind", all_errors())
def test_status_table_has_a_row_of_meaning_for_every_error(
    kind: type[WebkitError],
) -> None:
    """A row of its own or an ancestor's; the root's 500 only for our own mistakes."""
    ours = {WebkitError, errors.LogClosed, errors.InvalidTransition}
    rows = [STATUS_BY_ERROR[base] for base in kind.__mro__ if base in STATUS_BY_ERROR]

    assert rows
    assert (rows[0] == 500) is (kind in ours)


def test_json_response_keeps_the_headers_given() -> None:
    response = json_response({"ä": [1]}, 201, [(b"location", b"/x")])

    assert response.status == 201
    assert response.body == '{"ä":[1]}'.encode()
    assert headers_of(response)[b"location"] == b"/x"
    assert headers_of(response)[b"content-length"] == b"10"


async def sent_by(response: Response, method: str = "GET") -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nothing is left to receive")

    async def send(message: Message) -> None:
        sent.append(message)

    await response.answer(Exchange({"method": method}, receive, send))
    return sent


async def test_response_sends_start_and_whole_body() -> None:
    assert await sent_by(Response(418, [(b"x", b"y")], b"teapot")) == [
        {"type": "http.response.start", "status": 418, "headers": [(b"x", b"y")]},
        {"type": "http.response.body", "body": b"teapot"},
    ]


async def test_response_to_head_keeps_the_length_and_sends_no_body() -> None:
    start, body = await sent_by(json_response([]), "HEAD")

    assert (b"content-length", b"2") in start["headers"]
    assert body == {"type": "http.response.body", "body": b""}


async def test_response_hands_out_headers_that_middleware_may_add_to() -> None:
    """``message["headers"].append(…)`` is common; the next client must not see it."""
    start, _ = await sent_by(NO_CONTENT)
    start["headers"].append((b"set-cookie", b"of one client"))

    try:
        assert (await sent_by(NO_CONTENT))[0]["headers"] == []
    finally:
        NO_CONTENT.headers.clear()
