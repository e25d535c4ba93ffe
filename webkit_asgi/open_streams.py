"""OpenStreams: the streams of one server: how many there may be, and their end.

Rule: a stream is in here from its first byte to its last, so that none is forgotten
when the server ends.
"""

from __future__ import annotations

from typing import Protocol

from webkit_core import Unavailable


class Droppable(Protocol):
    """A stream, as far as this needs to know it."""

    def give_up(self) -> None:
        """Drop the client, whatever it has not taken yet."""


class TooManyStreams(Unavailable):
    """As many streams are open as this server holds."""

    code = "too_many_streams"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.limit} streams are open, as many as may be"


class OpenStreams:
    """The streams of one server, which can be told that it is going away.

    Args:
        most: how many may be open at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.going_away = False
        """Whether clients shall not come back soon."""
        self._streams: set[Droppable] = set()

    def check_room(self) -> None:
        """Check that one more may be opened.

        Raises:
            TooManyStreams: as many are open as may be.
        """
        if len(self._streams) >= self._most:
            raise TooManyStreams(self._most)

    def add(self, stream: Droppable) -> None:
        """Take a stream in that begins."""
        self._streams.add(stream)

    def discard(self, stream: Droppable) -> None:
        """Let a stream go that has ended."""
        self._streams.discard(stream)

    def give_up(self) -> None:
        """Drop every client that has not taken its stream's end."""
        for stream in tuple(self._streams):
            stream.give_up()
