from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from webkit_asgi.peers import PROBES, abort, watch_peer
from webkit_asgi.types import Message

TCP_OPTIONS = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the options have other names"
)


class Connection(asyncio.Protocol):
    """A request's ``send`` under uvicorn: a method of what owns the transport."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.made = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.made.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    async def send(self, message: Message) -> None:
        raise AssertionError("nothing is sent here")

    def option(self, name: str, level: int = socket.IPPROTO_TCP) -> int:
        sock = self.transport.get_extra_info("socket")
        return int(sock.getsockopt(level, getattr(socket, name)))


class Far(Connection):
    """The other end: it reads nothing, and does not close what was half closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Connection]:
    """A connection over the loopback, whose other end does nothing."""
    loop = asyncio.get_running_loop()
    far, near = Far(), Connection()
    server = await loop.create_server(lambda: far, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await loop.create_connection(lambda: near, "127.0.0.1", port)
    await far.made.wait()
    try:
        yield near
    finally:
        for end in (near, far):
            end.transport.abort()
            await end.lost.wait()
        server.close()
        await server.wait_closed()


class Owner:
    """Something that has a ``send``, and a transport or not."""

    def __init__(self, **has: Any) -> None:
        vars(self).update(has)

    async def send(self, message: Message) -> None:
        raise AssertionError("nothing is sent here")


class Transport:
    """A transport over a socket of some kind."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def get_extra_info(self, name: str) -> Any:
        return self._sock if name == "socket" else None


async def plain_send(message: Message) -> None:
    raise AssertionError("nothing is sent here")


WITHOUT_A_TRANSPORT = pytest.mark.parametrize(
    "send",
    [
        plain_send,
        Owner().send,
        Owner(transport=None).send,
        Owner(transport=object()).send,
    ],
    ids=["function", "no transport", "none", "another kind"],
)


# --- watch_peer


@on_linux
@pytest.mark.parametrize(
    ("gone_after_s", "interval_s", "timeout_ms"),
    [(60.0, 15, 60_000), (2.0, 1, 2000), (30.4, 8, 30_400), (0.01, 1, 1000)],
)
async def test_watch_peer_lets_the_kernel_give_a_peer_up_in_time(
    gone_after_s: float, interval_s: int, timeout_ms: int
) -> None:
    """The first probe and those without an answer take as long as a peer is given."""
    async with connected() as connection:
        assert connection.option("SO_KEEPALIVE", socket.SOL_SOCKET) == 0

        watch_peer(connection.send, gone_after_s)

        assert connection.option("SO_KEEPALIVE", socket.SOL_SOCKET) == 1
        assert {name: connection.option(name) for name in TCP_OPTIONS} == {
            "TCP_KEEPIDLE": interval_s,
            "TCP_KEEPINTVL": interval_s,
            "TCP_KEEPCNT": PROBES,
            "TCP_USER_TIMEOUT": timeout_ms,
        }


@WITHOUT_A_TRANSPORT
def test_watch_peer_without_a_transport_is_silent(send: Any) -> None:
    watch_peer(send, 60)


def test_watch_peer_of_a_transport_without_a_socket_is_silent() -> None:
    """Of a test client, or in memory."""
    watch_peer(Owner(transport=Transport(None)).send, 60)


def test_watch_peer_leaves_a_unix_socket_alone() -> None:
    """Its peer is on this machine: it does not vanish without a word."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        watch_peer(Owner(transport=Transport(one)).send, 60)

        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_watch_peer_that_has_left_already_is_silent() -> None:
    sock = socket.socket(socket.AF_INET)
    sock.close()

    watch_peer(Owner(transport=Transport(sock)).send, 60)


@pytest.mark.parametrize("missing", [*TCP_OPTIONS, "SO_KEEPALIVE"])
def test_watch_peer_leaves_out_what_the_platform_does_not_have(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delattr(socket, missing, raising=False)
    last = "TCP_USER_TIMEOUT" if missing != "TCP_USER_TIMEOUT" else "TCP_KEEPCNT"
    option = getattr(socket, last, None)
    with socket.socket(socket.AF_INET) as sock:
        watch_peer(Owner(transport=Transport(sock)).send, 60)

        if option is not None:
            assert sock.getsockopt(socket.IPPROTO_TCP, option) in (60_000, PROBES)


@on_linux
def test_watch_peer_of_the_newer_kind_of_address_does_the_same() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        watch_peer(Owner(transport=Transport(sock)).send, 60)

        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == PROBES


# --- abort


async def test_abort_drops_the_connection_at_once() -> None:
    """The other end reads nothing, so what is written stays where it is."""
    async with connected() as connection:
        connection.transport.write(b"x" * 20_000_000)
        assert connection.transport.get_write_buffer_size() > 0

        await abort(connection.send)

        assert connection.transport.is_closing()
        await connection.lost.wait()


async def test_abort_returns_when_the_server_has_heard_of_it() -> None:
    async with connected() as connection:
        heard: list[str] = []
        asyncio.get_running_loop().call_soon(heard.append, "a turn of the loop")

        await abort(connection.send)

        assert heard == ["a turn of the loop"]


@WITHOUT_A_TRANSPORT
async def test_abort_without_a_transport_does_nothing(send: Any) -> None:
    await abort(send)
