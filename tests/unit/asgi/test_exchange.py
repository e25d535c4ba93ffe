from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from tests.unit.core.stepping import settle
from webkit_asgi.exchange import BodyTooLarge, ClientDisconnected, Exchange
from webkit_asgi.types import Message
from webkit_core import InvalidCursor, InvalidInput

from .driver import PATIENCE_S, no_more_tasks_than, running


def exchange(
    *headers: tuple[bytes, bytes], messages: Iterable[Message] = (), **scope: Any
) -> Exchange:
    inbox = iter(messages)

    async def receive() -> Message:
        return next(inbox)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    return Exchange({"headers": list(headers), **scope}, receive, send)


def chunks(*parts: bytes) -> list[Message]:
    last = len(parts) - 1
    return [
        {"type": "http.request", "body": part, "more_body": index < last}
        for index, part in enumerate(parts)
    ]


# --- headers and query


def test_header_is_the_first_of_its_name() -> None:
    asked = exchange((b"a", b"1"), (b"b", b"2"), (b"b", b"3"))

    assert asked.header(b"b") == b"2"
    assert asked.header(b"c") is None


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (b"", None),
        (b"other=1", None),
        (b"name=1", "1"),
        (b"name=1&name=2", "2"),
        (b"name=", ""),
        (b"name", ""),
        (b"a=b&name=%31%32&c", "12"),
        (b"name=%ff", "�"),
        (b"\xff=\xfe&name=1", "1"),
        (b"&&=&%&name=1", "1"),
    ],
)
def test_query_is_the_last_of_its_name(query: bytes, value: str | None) -> None:
    assert exchange(query_string=query).query("name") == value


def test_query_of_a_scope_without_one_is_none() -> None:
    """ASGI lets a server leave it out."""
    assert exchange().query("name") is None


def test_url_of_a_session_begins_with_where_the_app_is_mounted() -> None:
    assert exchange().url_of("abc") == b"/sessions/abc"
    assert exchange(root_path="").url_of("abc") == b"/sessions/abc"
    assert exchange(root_path="/api/v1").url_of("abc") == b"/api/v1/sessions/abc"


def test_url_of_a_session_is_fit_for_a_header() -> None:
    """``root_path`` comes decoded; a URL in a header is ASCII without spaces."""
    url = exchange(root_path="/my café").url_of("abc")

    assert url == b"/my%20caf%C3%A9/sessions/abc"


# --- body


@pytest.mark.parametrize("parts", [[b""], [b"abc"], [b"a", b"", b"bc"], [b"abc", b""]])
async def test_body_is_all_parts_in_order(parts: list[bytes]) -> None:
    assert await exchange(messages=chunks(*parts)).body(3, PATIENCE_S) == b"".join(
        parts
    )


async def test_body_of_a_message_without_fields_is_empty() -> None:
    """ASGI lets a server leave them out."""
    assert (
        await exchange(messages=[{"type": "http.request"}]).body(3, PATIENCE_S) == b""
    )


async def test_body_within_the_announced_limit_is_read() -> None:
    asked = exchange((b"content-length", b"3"), messages=chunks(b"abc"))

    assert await asked.body(3, PATIENCE_S) == b"abc"


@pytest.mark.parametrize("length", [b"4", b"004", b"9" * 18, b"9" * 20, b"9" * 5000])
async def test_body_announced_too_long_is_refused_unread(length: bytes) -> None:
    """The inbox is empty: reading would fail."""
    with pytest.raises(BodyTooLarge, match="longer than 3 bytes"):
        await exchange((b"content-length", length)).body(3, PATIENCE_S)


@pytest.mark.parametrize(
    "length",
    [b"", b"-1", b"-9999", b"+9", b"9.0", b"1e9", b"0x99", b" 9", b"\xb2", b"no", b"2"],
)
async def test_body_with_an_absurd_length_is_counted(length: bytes) -> None:
    absurd = (b"content-length", length)

    assert (
        await exchange(absurd, messages=chunks(b"a", b"bc")).body(3, PATIENCE_S)
        == b"abc"
    )
    with pytest.raises(BodyTooLarge):
        await exchange(absurd, messages=chunks(b"a", b"bc", b"d")).body(3, PATIENCE_S)


async def test_body_too_long_is_refused_at_the_part_that_is_too_much() -> None:
    """What would come after is not asked for."""
    endless = [{"type": "http.request", "body": b"ab", "more_body": True}] * 2

    with pytest.raises(BodyTooLarge, match="longer than 3 bytes"):
        await exchange(messages=endless).body(3, PATIENCE_S)


@pytest.mark.parametrize("before", [0, 2])
async def test_body_of_a_client_that_left_is_no_body(before: int) -> None:
    parts = [{"type": "http.request", "body": b"a", "more_body": True}] * before

    with pytest.raises(ClientDisconnected):
        await exchange(messages=[*parts, {"type": "http.disconnect"}]).body(
            3, PATIENCE_S
        )


# --- work that ends when the client leaves


class Client:
    """Says nothing more until it leaves."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.exchange = Exchange({"headers": []}, self.inbox.get, self.inbox.put)

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})


async def test_unless_left_returns_what_the_work_does() -> None:
    before = running()

    async def work() -> str:
        await settle()
        return "done"

    assert await Client().exchange.unless_left(work()) == "done"
    assert await no_more_tasks_than(before)


async def test_unless_left_raises_what_the_work_does() -> None:
    async def work() -> None:
        raise InvalidInput("wrong")

    with pytest.raises(InvalidInput, match="wrong"):
        await Client().exchange.unless_left(work())


async def test_unless_left_cancels_the_work_of_a_client_that_leaves() -> None:
    client = Client()
    happened: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            happened.append("cancelled")
            raise

    waiting = asyncio.ensure_future(client.exchange.unless_left(work()))
    await settle()
    client.leave()

    with pytest.raises(ClientDisconnected):
        await waiting
    await settle()
    assert happened == ["cancelled"]


async def test_unless_left_goes_on_when_the_client_says_something_else() -> None:
    client, finish = Client(), asyncio.Event()
    waiting = asyncio.ensure_future(client.exchange.unless_left(finish.wait()))
    client.inbox.put_nowait({"type": "http.request"})
    await settle()
    assert not waiting.done()

    finish.set()

    assert await waiting


async def test_unless_left_hears_that_the_client_leaves_after_something_else() -> None:
    client = Client()
    work = asyncio.Event().wait()
    waiting = asyncio.ensure_future(client.exchange.unless_left(work))
    client.inbox.put_nowait({"type": "http.request"})
    await settle()

    client.leave()
    await settle()

    assert waiting.done()
    with pytest.raises(ClientDisconnected):
        await waiting


async def test_unless_left_that_is_cancelled_cancels_the_work() -> None:
    before = running()
    work = asyncio.Event().wait()
    waiting = asyncio.ensure_future(Client().exchange.unless_left(work))
    await settle()

    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await no_more_tasks_than(before)


# --- subscriber and cursor


@pytest.mark.parametrize("text", ["a", "tab-1", "A.b_c-9", "x" * 64])
def test_subscriber_id_is_the_clients(text: str) -> None:
    asked = exchange((b"x-subscriber-id", text.encode()))

    assert asked.subscriber_id() == text
    assert asked.subscriber_id_or_new() == text


@pytest.mark.parametrize(
    "value", [b"", b"x" * 65, b"a b", b"a\n", b"a\r\nset-cookie: x", b"\xe9", b"a/b"]
)
def test_subscriber_id_with_other_characters_is_refused(value: bytes) -> None:
    asked = exchange((b"x-subscriber-id", value))

    for method in (asked.subscriber_id, asked.subscriber_id_or_new):
        with pytest.raises(InvalidInput, match="X-Subscriber-Id"):
            method()


def test_subscriber_id_that_is_not_given_is_made_up_for_a_stream_alone() -> None:
    made = {exchange().subscriber_id_or_new() for _ in range(100)}

    assert exchange().subscriber_id() is None
    assert len(made) == 100
    for name in made:
        again = exchange((b"x-subscriber-id", name.encode()))
        assert again.subscriber_id() == name


def cursor(header: bytes | None, query: bytes = b"") -> int | None:
    headers = [] if header is None else [(b"last-event-id", header)]
    return exchange(*headers, query_string=query).cursor()


@pytest.mark.parametrize(
    ("header", "query", "after"),
    [
        (None, b"", None),
        (None, b"last_event_id=", None),
        (b"", b"", None),
        (b"0", b"", 0),
        (b"7", b"", 7),
        (b"007", b"", 7),
        (None, b"last_event_id=7", 7),
        (b"", b"last_event_id=7", 7),
        (b"9", b"last_event_id=7", 9),
        (b"0", b"last_event_id=7", 0),
        (b"9", b"last_event_id=garbage", 9),
        (b"9007199254740991", b"", 2**53 - 1),
    ],
)
def test_cursor_is_the_headers_before_the_querys(
    header: bytes | None, query: bytes, after: int | None
) -> None:
    assert cursor(header, query) == after


@pytest.mark.parametrize(
    "text", [b"x", b"-1", b"1.0", b"1 ", b"\xb2", b"9007199254740992", b"9" * 5000]
)
def test_cursor_that_is_no_number_is_refused_wherever_it_stands(text: bytes) -> None:
    with pytest.raises(InvalidCursor, match="Last-Event-ID"):
        cursor(text)
    with pytest.raises(InvalidCursor, match="Last-Event-ID"):
        cursor(None, b"last_event_id=" + text)
    with pytest.raises(InvalidCursor, match="Last-Event-ID"):
        cursor(text, b"last_event_id=1")
