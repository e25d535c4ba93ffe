from __future__ import annotations

import asyncio

import anyio
import pytest

from tests.unit.core.stepping import settle
from webkit_asgi import idempotency
from webkit_asgi.idempotency import (
    MAX_KEY_CHARS,
    MAX_REMEMBERED,
    REMEMBERED_S,
    Idempotency,
)
from webkit_asgi.responses import (
    NO_CONTENT,
    KeyReused,
    Response,
    error_response,
    json_response,
)
from webkit_core import InvalidInput

from .driver import PATIENCE_S, no_more_tasks_than, running

SCOPE = ("ann", "POST", "/sessions")
KEY = b"a-key"
REPLAYED = (b"idempotency-replayed", b"true")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Work:
    """Something to do once; each time, the answer says how often it was begun.

    Attributes:
        begun: how often.
        cancelled: how often it was cancelled in the middle.
        gate: it waits for this.
        error: it fails with this.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def __call__(self) -> Response:
        self.begun += 1
        answer = json_response({"number": self.begun})
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(clock: Clock) -> Idempotency:
    return Idempotency(clock)


@pytest.fixture
async def work() -> Work:
    return Work()


def asking(
    kept: Idempotency, work: Work, key: bytes | None = KEY, body: bytes = b"{}"
) -> asyncio.Task[Response]:
    return asyncio.ensure_future(kept.once(SCOPE, key, body, work))


async def answer_of(task: asyncio.Task[Response]) -> Response:
    with anyio.fail_after(PATIENCE_S):
        return await task


# --- once


async def test_without_a_key_it_is_done_each_time(
    kept: Idempotency, work: Work
) -> None:
    answers = [await kept.once(SCOPE, None, b"{}", work) for _ in range(3)]

    assert work.begun == 3
    assert [answer.body for answer in answers] == [
        b'{"number":1}',
        b'{"number":2}',
        b'{"number":3}',
    ]
    assert REPLAYED not in answers[-1].headers
    assert len(kept) == 0


async def test_same_key_and_body_have_one_effect_and_one_answer(
    kept: Idempotency, work: Work
) -> None:
    first, *others = [await kept.once(SCOPE, KEY, b"{}", work) for _ in range(3)]

    assert work.begun == 1
    assert REPLAYED not in first.headers
    for other in others:
        assert (other.status, other.body) == (first.status, first.body)
        assert other.headers == [*first.headers, REPLAYED]


async def test_answer_that_all_share_is_not_changed_by_a_replay(
    kept: Idempotency,
) -> None:
    async def work() -> Response:
        return NO_CONTENT

    headers = [*NO_CONTENT.headers]
    await kept.once(SCOPE, KEY, b"{}", work)
    await kept.once(SCOPE, KEY, b"{}", work)

    assert NO_CONTENT.headers == headers


async def test_two_at_once_have_one_effect_and_one_answer(
    kept: Idempotency, work: Work
) -> None:
    work.gate.clear()
    tasks = [asking(kept, work) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in tasks)

    work.gate.set()
    first, *others = [await answer_of(task) for task in tasks]

    assert work.begun == 1
    assert REPLAYED not in first.headers
    assert [other.body for other in others] == [first.body] * 2
    assert all(REPLAYED in other.headers for other in others)


@pytest.mark.parametrize("at_work", [False, True])
async def test_same_key_for_another_body_is_refused(
    kept: Idempotency, work: Work, at_work: bool
) -> None:
    """Whether the first has had its effect or not."""
    if at_work:
        work.gate.clear()
    first = asking(kept, work, body=b'{"model": "a"}')
    await settle()

    with pytest.raises(KeyReused):
        await kept.once(SCOPE, KEY, b'{"model": "b"}', work)

    work.gate.set()
    await answer_of(first)
    assert work.begun == 1
    again = await kept.once(SCOPE, KEY, b'{"model": "a"}', work)
    assert again.body == b'{"number":1}'


def test_refusal_is_422() -> None:
    response = error_response(KeyReused())

    assert response.status == 422
    assert b'"idempotency_key_reused"' in response.body
    assert b"Idempotency-Key" in response.body


async def test_body_is_compared_byte_by_byte(kept: Idempotency, work: Work) -> None:
    await kept.once(SCOPE, KEY, bytearray(b"{}"), work)
    await kept.once(SCOPE, KEY, b"{}", work)

    for other in (b"", b"{} ", b"{}\0"):
        with pytest.raises(KeyReused):
            await kept.once(SCOPE, KEY, other, work)
    assert work.begun == 1


# --- what a key belongs to


@pytest.mark.parametrize(
    "other",
    [
        ("bob", "POST", "/sessions"),
        ("", "POST", "/sessions"),
        ("ann", "PUT", "/sessions"),
        ("ann", "POST", "/sessions/abc/input"),
        ("ann", "POST", "/sessions/"),
    ],
)
async def test_key_of_another_scope_is_another_key(
    kept: Idempotency, work: Work, other: tuple[str, ...]
) -> None:
    """Even for another body, which would be refused."""
    first = await kept.once(SCOPE, KEY, b"{}", work)

    answer = await kept.once(other, KEY, b"[]", work)

    assert (work.begun, answer.body) == (2, b'{"number":2}')
    assert REPLAYED not in answer.headers
    assert (await kept.once(SCOPE, KEY, b"{}", work)).body == first.body


@pytest.mark.parametrize("other", [b"A-KEY", b"a-key2", b"a-ke", b"a-key ", b"\xe9"])
async def test_keys_are_compared_byte_by_byte(
    kept: Idempotency, work: Work, other: bytes
) -> None:
    await kept.once(SCOPE, KEY, b"{}", work)

    await kept.once(SCOPE, other, b"{}", work)

    assert work.begun == 2


async def test_parts_of_a_scope_do_not_run_together(
    kept: Idempotency, work: Work
) -> None:
    """An id that ends with another's method is not that other."""
    await kept.once(("ann", "POST", "/sessions"), KEY, b"{}", work)

    await kept.once(("annPOST", "", "/sessions"), KEY, b"{}", work)

    assert work.begun == 2


@pytest.mark.parametrize("key", [b"", b"x" * (MAX_KEY_CHARS + 1), b"x" * 100_000])
async def test_key_that_is_empty_or_too_long_is_invalid(
    kept: Idempotency, work: Work, key: bytes
) -> None:
    with pytest.raises(InvalidInput, match=f"1 to {MAX_KEY_CHARS}"):
        await kept.once(SCOPE, key, b"{}", work)

    assert (work.begun, len(kept)) == (0, 0)


@pytest.mark.parametrize("key", [b"x", b"x" * MAX_KEY_CHARS, b"\xff\x80 \t"])
async def test_key_of_any_bytes_in_bounds_is_good(
    kept: Idempotency, work: Work, key: bytes
) -> None:
    for _ in range(2):
        await kept.once(SCOPE, key, b"{}", work)

    assert work.begun == 1


# --- what fails


async def test_failure_is_not_remembered(kept: Idempotency, work: Work) -> None:
    """It can be tried again; as somebody else's body, too."""
    work.error = InvalidInput("wrong")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="wrong"):
            await kept.once(SCOPE, KEY, b"{}", work)
        assert len(kept) == 0
    assert work.begun == 2

    work.error = None
    answer = await kept.once(SCOPE, KEY, b'{"right": true}', work)

    assert (answer.body, work.begun) == (b'{"number":3}', 3)
    assert REPLAYED not in answer.headers


async def test_failure_is_everybodys_who_waited(kept: Idempotency, work: Work) -> None:
    work.gate.clear()
    work.error = InvalidInput("wrong")
    tasks = [asking(kept, work) for _ in range(3)]
    await settle()

    work.gate.set()

    for task in tasks:
        with pytest.raises(InvalidInput, match="wrong"):
            await answer_of(task)
    assert work.begun == 1


async def test_failure_does_not_forget_what_was_begun_since(
    kept: Idempotency, clock: Clock, work: Work
) -> None:
    """The first was over its time when it failed."""
    slow, quick = Work(), work
    slow.gate.clear()
    slow.error = InvalidInput("wrong")
    first = asking(kept, slow)
    await settle()
    clock.now_s += REMEMBERED_S
    second = await kept.once(SCOPE, KEY, b"{}", quick)

    slow.gate.set()
    with pytest.raises(InvalidInput):
        await answer_of(first)

    again = await kept.once(SCOPE, KEY, b"{}", quick)
    assert (again.body, quick.begun) == (second.body, 1)


# --- who leaves


async def test_work_goes_on_when_who_asked_has_left(
    kept: Idempotency, work: Work
) -> None:
    """And they hear of it when they ask again."""
    work.gate.clear()
    asked = asking(kept, work)
    await settle()

    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    again = asking(kept, work)
    await settle()
    work.gate.set()

    answer = await answer_of(again)
    assert (work.begun, work.cancelled) == (1, 0)
    assert answer.body == b'{"number":1}'
    assert REPLAYED in answer.headers


async def test_work_goes_on_when_one_of_those_who_wait_has_left(
    kept: Idempotency, work: Work
) -> None:
    work.gate.clear()
    first, second = asking(kept, work), asking(kept, work)
    await settle()

    second.cancel()
    await asyncio.wait({second})
    work.gate.set()

    assert (await answer_of(first)).body == b'{"number":1}'
    assert (work.begun, work.cancelled) == (1, 0)


async def test_failure_that_nobody_waits_for_is_forgotten_without_a_word(
    kept: Idempotency, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    before = running()
    work.gate.clear()
    work.error = InvalidInput("wrong")
    asked = asking(kept, work)
    await settle()
    asked.cancel()
    await asyncio.wait({asked})

    work.gate.set()

    assert await no_more_tasks_than(before)
    await settle()
    assert len(kept) == 0
    assert caplog.records == []


async def test_without_a_key_the_work_ends_with_who_asked(
    kept: Idempotency, work: Work
) -> None:
    work.gate.clear()
    asked = asking(kept, work, key=None)
    await settle()

    asked.cancel()
    await asyncio.wait({asked})

    assert work.cancelled == 1


# --- memory


@pytest.mark.parametrize(
    ("later_s", "begun"), [(REMEMBERED_S - 0.001, 1), (REMEMBERED_S, 2)]
)
async def test_answer_is_remembered_for_its_time(
    kept: Idempotency, clock: Clock, work: Work, later_s: float, begun: int
) -> None:
    await kept.once(SCOPE, KEY, b"{}", work)

    clock.now_s += later_s
    await kept.once(SCOPE, KEY, b"{}", work)

    assert work.begun == begun


async def test_replay_does_not_make_the_time_longer(
    kept: Idempotency, clock: Clock, work: Work
) -> None:
    for _ in range(3):
        await kept.once(SCOPE, KEY, b"{}", work)
        clock.now_s += REMEMBERED_S / 2

    assert work.begun == 2


async def test_everything_that_is_over_its_time_is_forgotten(
    kept: Idempotency, clock: Clock, work: Work
) -> None:
    """Also what was asked with other keys."""
    for index in range(100):
        await kept.once(SCOPE, b"%d" % index, b"{}", work)
        clock.now_s += 1
    assert len(kept) == 100

    clock.now_s += REMEMBERED_S - 50
    await kept.once(SCOPE, KEY, b"{}", work)

    assert len(kept) == 50


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """As many as are remembered, with less work for the test."""
    monkeypatch.setattr(idempotency, "MAX_REMEMBERED", 3)
    return 3


async def test_no_more_are_remembered_than_may_be(
    kept: Idempotency, work: Work, few: int
) -> None:
    """The one that came first is forgotten first."""
    keys = [b"%d" % index for index in range(few + 2)]
    for key in keys:
        await kept.once(SCOPE, key, b"{}", work)
        assert len(kept) <= few

    assert await replayed(kept, work, keys[-few:]) == [True] * few
    assert await replayed(kept, work, keys[:1]) == [False]


async def replayed(kept: Idempotency, work: Work, keys: list[bytes]) -> list[bool]:
    answers = [await kept.once(SCOPE, key, b"{}", work) for key in keys]
    return [REPLAYED in answer.headers for answer in answers]


async def test_replay_forgets_nobody(kept: Idempotency, work: Work, few: int) -> None:
    keys = [b"%d" % index for index in range(few)]
    for key in keys:
        await kept.once(SCOPE, key, b"{}", work)

    for _ in range(3):
        assert await replayed(kept, work, keys) == [True] * few


@pytest.mark.usefixtures("few")
async def test_work_that_is_forgotten_is_answered_all_the_same(
    kept: Idempotency, work: Work
) -> None:
    slow = Work()
    slow.gate.clear()
    asked = asking(kept, slow)
    await settle()
    for index in range(10):
        await kept.once(SCOPE, b"%d" % index, b"{}", work)

    slow.gate.set()

    assert (await answer_of(asked)).body == b'{"number":1}'
    assert slow.cancelled == 0


def test_bounds_are_an_hour_and_ten_thousand() -> None:
    assert (REMEMBERED_S, MAX_REMEMBERED) == (3600, 10_000)
