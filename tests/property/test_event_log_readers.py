"""A reader sees contiguous numbers, or one explicit ``EvictedError``; never less."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.sse_parser import SseParser
from webkit_core.errors import CursorAheadError, EvictedError, LogClosed
from webkit_core.event_log import EventLog, LoggedEvent


class Client:
    """An EventSource: knows the last id it has seen, and what came with each."""

    def __init__(self, last_id: int) -> None:
        self.first = last_id
        self.seen: list[tuple[int, str, Any]] = []
        self.connect()

    @property
    def last_id(self) -> int:
        return self.seen[-1][0] if self.seen else self.first

    def connect(self) -> None:
        """Resume behind the last id; what was received in part is lost."""
        self.cursor = self.last_id
        self.parser = SseParser(last_event_id=str(self.last_id))

    def receive(self, data: bytes) -> None:
        for event in self.parser.feed(data):
            seq = int(event.last_event_id)
            self.seen.append((seq, event.type, json.loads(event.data)))


class Puller:
    """A consumer of ``subscribe`` that asks for one event after the other."""

    def __init__(self, log: EventLog, after_seq: int) -> None:
        self.first = after_seq
        self.events = cast(
            "AsyncGenerator[LoggedEvent, None]", log.subscribe(after_seq)
        )
        self.seen: list[LoggedEvent] = []
        self.pull: asyncio.Task[LoggedEvent] | None = None
        self.end: str | None = None

    @property
    def cursor(self) -> int:
        return self.seen[-1].seq if self.seen else self.first


class LogModel(RuleBasedStateMachine):
    """One small log, clients that lose their connection, embedders that iterate."""

    @initialize(max_size=st.integers(1, 8), max_bytes=st.sampled_from([60, 400, 10**6]))
    def start(self, max_size: int, max_bytes: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.log = EventLog(max_size, max_bytes)
        self.appended: list[tuple[int, str, Any]] = []
        self.clients = [Client(0)]
        self.pullers = [Puller(self.log, 0)]

    def turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def held(self, after_seq: int) -> bool:
        """Whether what follows ``after_seq`` is still there."""
        return after_seq + 1 >= self.log.oldest_seq

    @rule(
        name=st.sampled_from(["message_delta", "result", "x"]),
        text=st.text(max_size=40),
        count=st.integers(1, 10),
    )
    def append(self, name: str, text: str, count: int) -> None:
        for number in range(count):
            data = {"text": text, "n": number}
            if self.log.closed:
                with pytest.raises(LogClosed):
                    self.log.append(name, data)
                return
            seq = self.log.append(name, data).seq
            self.appended.append((seq, name, data))
            assert seq == len(self.appended)

    @rule(back=st.integers(0, 10))
    def connect(self, back: int) -> None:
        self.clients.append(Client(max(0, self.log.last_seq - back)))

    @rule(data=st.data(), whole=st.booleans())
    def read_some(self, data: st.DataObject, whole: bool) -> None:
        """One read; the connection may be lost in the middle of its bytes."""
        client = data.draw(st.sampled_from(self.clients))
        if not self.held(client.cursor):
            with pytest.raises(EvictedError) as caught:
                self.log.read(client.cursor)
            assert caught.value.after_seq == client.cursor
            # The client is told, and starts over with what there is.
            self.clients.remove(client)
            self.clients.append(Client(caught.value.oldest - 1))
            return
        chunk, cursor = self.log.read(client.cursor)
        assert (not chunk) is (client.cursor == self.log.last_seq)
        assert not chunk or bytes(chunk[-2:]) == b"\n\n"
        if whole:
            client.receive(bytes(chunk))
            client.cursor = cursor
            assert client.last_id == cursor
        else:
            client.receive(bytes(chunk[: data.draw(st.integers(0, len(chunk)))]))
            client.connect()

    @rule(ahead=st.integers(1, 5))
    def resume_ahead(self, ahead: int) -> None:
        with pytest.raises(CursorAheadError):
            self.log.read(self.log.last_seq + ahead)

    @rule(back=st.integers(0, 10))
    def subscribe(self, back: int) -> None:
        self.pullers.append(Puller(self.log, max(0, self.log.last_seq - back)))

    @precondition(lambda self: any(p.end is None for p in self.pullers))
    @rule(data=st.data(), times=st.integers(1, 4))
    def pull(self, data: st.DataObject, times: int) -> None:
        puller = data.draw(st.sampled_from([p for p in self.pullers if p.end is None]))
        for _ in range(times):
            if puller.end is None:
                self.pull_one(puller)

    def pull_one(self, puller: Puller) -> None:
        """Ask for one event, and check that it is right to get, or not to get, it."""
        if puller.pull is None:
            puller.pull = self.loop.create_task(next_event(puller.events))
        for _ in range(4):
            self.turn()
        pull, cursor = puller.pull, puller.cursor
        if not pull.done():
            assert cursor == self.log.last_seq
            assert not self.log.closed
            return
        puller.pull = None
        error = pull.exception()
        if error is None:
            puller.seen.append(pull.result())
        elif isinstance(error, EvictedError):
            assert (error.after_seq, self.held(cursor)) == (cursor, False)
            puller.end = "evicted"
        else:
            assert isinstance(error, StopAsyncIteration)
            assert self.log.closed
            assert cursor == self.log.last_seq
            puller.end = "closed"

    @precondition(lambda self: any(p.pull is not None for p in self.pullers))
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """A consumer goes away while it waits."""
        puller = data.draw(
            st.sampled_from([p for p in self.pullers if p.pull is not None])
        )
        assert puller.pull is not None
        puller.pull.cancel()
        self.turn()
        self.turn()
        self.pullers.remove(puller)

    @precondition(lambda self: len(self.appended) > 12)
    @rule()
    def close(self) -> None:
        self.log.close()

    @invariant()
    def what_was_seen_is_contiguous_and_true(self) -> None:
        for client in self.clients:
            count = len(client.seen)
            assert client.seen == self.appended[client.first : client.first + count]
        for puller in self.pullers:
            got = [(event.seq, event.event, event.data) for event in puller.seen]
            assert got == self.appended[puller.first : puller.first + len(got)]

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        try:
            self.drain()
        finally:
            self.loop.close()

    def drain(self) -> None:
        """After the end everybody gets what is left, then the end, or the gap."""
        self.log.close()
        for client in self.clients:
            client.connect()
            if self.held(client.cursor):
                while client.cursor != self.log.last_seq:
                    chunk, client.cursor = self.log.read(client.cursor)
                    client.receive(bytes(chunk))
                assert client.last_id == self.log.last_seq
        for puller in self.pullers:
            while puller.end is None:
                self.pull_one(puller)
        self.what_was_seen_is_contiguous_and_true()


async def next_event(events: AsyncGenerator[LoggedEvent, None]) -> LoggedEvent:
    return await anext(events)


LogModel.TestCase.settings = settings(stateful_step_count=30)
TestLogModel = LogModel.TestCase
