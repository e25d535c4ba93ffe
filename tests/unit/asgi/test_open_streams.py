from __future__ import annotations

import pytest

from webkit_asgi.open_streams import OpenStreams, TooManyStreams
from webkit_asgi.responses import error_response


class Stream:
    """Counts how often it is given up, and leaves when it is, as streams do."""

    def __init__(self, among: OpenStreams) -> None:
        self.given_up = 0
        self._among = among
        among.add(self)

    def give_up(self) -> None:
        self.given_up += 1
        self._among.discard(self)


@pytest.mark.parametrize("most", [1, 3])
def test_there_is_room_for_so_many_and_no_more(most: int) -> None:
    streams = OpenStreams(most)
    for _ in range(most):
        streams.check_room()
        Stream(streams)

    for _ in range(2):
        with pytest.raises(TooManyStreams):
            streams.check_room()


def test_stream_that_ends_makes_room() -> None:
    streams = OpenStreams(1)
    stream = Stream(streams)

    streams.discard(stream)

    streams.check_room()


def test_stream_is_one_however_often_it_is_taken_in_or_let_go() -> None:
    streams = OpenStreams(2)
    stream = Stream(streams)
    streams.add(stream)
    streams.check_room()

    for _ in range(2):
        streams.discard(stream)

    Stream(streams)
    streams.check_room()


def test_room_that_was_looked_for_is_not_taken() -> None:
    """HEAD looks, and opens nothing."""
    streams = OpenStreams(1)

    for _ in range(3):
        streams.check_room()


def test_answer_is_503_and_says_how_many_and_when_to_come_again() -> None:
    response = error_response(TooManyStreams(1234))

    assert response.status == 503
    assert b'"too_many_streams"' in response.body
    assert b"1234 streams" in response.body
    assert int(dict(response.headers)[b"retry-after"]) > 0


def test_give_up_drops_every_stream_that_is_open() -> None:
    streams = OpenStreams(10)
    gone, *there = [Stream(streams) for _ in range(4)]
    streams.discard(gone)

    streams.give_up()

    assert [stream.given_up for stream in there] == [1, 1, 1]
    assert gone.given_up == 0


def test_give_up_without_a_stream_does_nothing() -> None:
    OpenStreams(1).give_up()


def test_server_does_not_go_away_until_it_says_so() -> None:
    assert not OpenStreams(1).going_away
