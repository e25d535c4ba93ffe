"""Resume over a real uvicorn socket: any course of publishing, reading and dropping."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from hypothesis import given, settings, strategies as st

from tests.sse_parser import ParsedEvent, SseParser
from webkit_asgi import Application, AuthConfig, Settings
from webkit_asgi.scripted_model import serve_in_thread
from webkit_asgi.types import Receive, Scope, Send
from webkit_core import Session
from webkit_core.testing import ScriptedFactory

WAIT_S = 20


class Served:
    """An application on uvicorn in another thread, and a way to its loop."""

    def __init__(self, buffer_events: int) -> None:
        limits = Settings(buffer_events=buffer_events)
        self.app = Application(
            AuthConfig(disabled=True), limits, ScriptedFactory(), None
        )
        self.loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        await self.app(scope, receive, send)

    def session(self) -> Session:
        (session,) = self.app.registry
        return session

    def do(self, work: Any) -> Any:
        """Run ``work`` on the server's loop and return what it returns."""
        done: Future[Any] = Future()
        assert self.loop is not None
        self.loop.call_soon_threadsafe(lambda: done.set_result(work()))
        return done.result(WAIT_S)

    def publish(self, count: int) -> None:
        log = self.session().log
        self.do(lambda: [log.append("note", {"n": n}) for n in range(count)])


@contextmanager
def serving(buffer_events: int) -> Iterator[tuple[Served, str]]:
    served = Served(buffer_events)
    with serve_in_thread(served) as url:
        yield served, url.removeprefix("http://")


class Reader:
    """A client that resumes where it left off, and says so when it cannot."""

    def __init__(self, address: str, session_id: str) -> None:
        self.address = address
        self.path = f"/sessions/{session_id}/stream"
        self.cursor: int | None = None
        self.resets = 0
        self.ended = False
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._parser = SseParser()

    def connect(self) -> http.client.HTTPResponse:
        if self._response is not None:
            return self._response
        headers = {} if self.cursor is None else {"Last-Event-ID": str(self.cursor)}
        connection = http.client.HTTPConnection(self.address, timeout=WAIT_S)
        connection.request("GET", self.path, headers=headers)
        response = connection.getresponse()
        if response.status == 412:
            told = json.load(response)
            assert self.cursor is not None
            assert told["oldest"] > self.cursor + 1, "a reset for nothing"
            connection.close()
            self.reset()
            return self.connect()
        assert response.status == 200
        self._connection, self._response = connection, response
        self._parser = SseParser()
        return response

    def read(self, chunk: int) -> None:
        """Take one chunk; what it completes has to follow what was seen before."""
        data = self.connect().read1(chunk)
        for event in self._parser.feed(data):
            self.take(event)
        if not data:
            self.drop()

    def take(self, event: ParsedEvent) -> None:
        if event.type == "error" and "evicted" in event.data:
            self.drop()
            self.reset()
            return
        seq = int(event.last_event_id)
        assert self.cursor is None or seq == self.cursor + 1, "a gap or a repeat"
        self.cursor = seq
        self.ended = event.type == "done"

    def reset(self) -> None:
        self.resets += 1
        self.cursor = None

    def drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._response = None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 12)),
        st.tuples(st.just("read"), st.integers(1, 400)),
        st.tuples(st.just("drop"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(buffer_events=st.integers(3, 30), course=steps)
def test_any_course_of_resumes_is_contiguous_or_explicitly_reset(
    buffer_events: int, course: list[tuple[str, int]]
) -> None:
    with serving(buffer_events) as (served, address):
        connection = http.client.HTTPConnection(address, timeout=WAIT_S)
        connection.request("POST", "/sessions", body=b"{}")
        session_id = json.load(connection.getresponse())["session_id"]
        reader = Reader(address, session_id)
        log = served.session().log

        for step, size in course:
            if step == "publish":
                served.publish(size)
            elif step == "drop":
                reader.drop()
            elif (reader.cursor or 0) < log.last_seq:
                reader.read(size)
        served.do(lambda: log.append("done", {}))
        served.do(log.close)
        while not reader.ended:
            reader.read(64)

        assert reader.cursor == log.last_seq
        if buffer_events > log.last_seq:
            assert reader.resets == 0
        reader.drop()
        connection.close()
