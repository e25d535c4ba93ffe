"""The socket behind a stream, as far as a server lets us at it.

ASGI has no word for it. Under uvicorn, ``send`` is a method of what owns the transport;
under other servers nothing here has an effect.

Rules: what cannot be done is left out in silence; nothing here waits for the peer.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from .types import Send

PROBES: Final = 3
"""Keepalive probes without an answer before the kernel gives a peer up."""


def watch_peer(send: Send, gone_after_s: float) -> None:
    """Let the kernel give up a peer that vanished without a word.

    A keepalive comment fits the kernel's buffer, so no write ever blocks on a peer
    whose network is gone: by default it is noticed after a quarter of an hour.

    Args:
        send: the request's ``send``.
        gone_after_s: how long a peer may acknowledge nothing.
    """
    sock = _transport(send, "get_extra_info")
    sock = None if sock is None else sock.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    interval_s = max(1, round(gone_after_s / (PROBES + 1)))
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", interval_s),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", interval_s),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", PROBES),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", max(1000, round(gone_after_s * 1000))),
    ):
        if (option := getattr(socket, name, None)) is not None:
            try:
                sock.setsockopt(level, option, value)
            except OSError:  # the peer has left already
                return


async def abort(send: Send) -> None:
    """Drop the connection of a client that does not read.

    A graceful close would wait for the client for ever.
    """
    transport = _transport(send, "abort")
    if transport is not None:
        transport.abort()
        await asyncio.sleep(0)  # the server hears of it before we return


def has_left(send: Send, error: Exception) -> bool:
    """Return whether ``send`` raised because the client is gone.

    Servers may raise an OSError then (ASGI HTTP 2.4). uvloop raises a RuntimeError
    when a connection broke while nothing was read from it.
    """
    transport = _transport(send, "is_closing")
    closed = transport is not None and bool(transport.is_closing())
    return closed or isinstance(error, OSError)


def _transport(send: Send, ability: str) -> Any:
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    return transport if hasattr(transport, ability) else None
