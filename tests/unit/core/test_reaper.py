from __future__ import annotations

import asyncio

import pytest

from tests.unit.asgi.virtual_time import now_s, run_in_no_time
from webkit_core.reaper import Reaper


class Rounds:
    """When the rounds were, and how each of them ends."""

    def __init__(self, interval_s: float = 10.0) -> None:
        self.at_s: list[float] = []
        self.takes_s = 0.0
        self.error: BaseException | None = None
        self.reaper = Reaper(interval_s, self.reap)

    async def reap(self) -> int:
        self.at_s.append(now_s())
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return 0


def tasks() -> int:
    return len(asyncio.all_tasks())


def test_round_comes_at_every_interval_and_not_at_once() -> None:
    async def main() -> list[float]:
        rounds = Rounds()
        rounds.reaper.start()
        await asyncio.sleep(35)
        rounds.reaper.stop()
        return rounds.at_s

    assert run_in_no_time(main()) == pytest.approx([10, 20, 30])


def test_interval_is_the_rest_between_two_rounds() -> None:
    async def main() -> list[float]:
        rounds = Rounds()
        rounds.takes_s = 5.0
        rounds.reaper.start()
        await asyncio.sleep(45)
        rounds.reaper.stop()
        return rounds.at_s

    assert run_in_no_time(main()) == pytest.approx([10, 25, 40])


def test_start_is_idempotent() -> None:
    async def main() -> None:
        rounds = Rounds()
        for _ in range(3):
            rounds.reaper.start()
        assert tasks() == 2
        await asyncio.sleep(15)
        rounds.reaper.start()
        await asyncio.sleep(10)
        assert rounds.at_s == pytest.approx([10, 20])
        assert tasks() == 2
        rounds.reaper.stop()

    run_in_no_time(main())


def test_stopped_it_does_no_more_rounds_and_leaves_no_task_behind() -> None:
    async def main() -> None:
        rounds = Rounds()
        rounds.reaper.start()
        await asyncio.sleep(15)
        rounds.reaper.stop()
        rounds.reaper.stop()
        await asyncio.sleep(50)
        assert rounds.at_s == pytest.approx([10])
        assert tasks() == 1

    run_in_no_time(main())


def test_stopped_in_mid_round_it_ends_the_round(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        rounds = Rounds()
        rounds.takes_s = 5.0
        rounds.reaper.start()
        await asyncio.sleep(12)
        rounds.reaper.stop()
        await asyncio.sleep(0)
        assert tasks() == 1

    run_in_no_time(main())
    assert caplog.records == []


def test_stopped_before_it_was_started_it_can_be_started() -> None:
    async def main() -> None:
        rounds = Rounds()
        rounds.reaper.stop()
        rounds.reaper.start()
        await asyncio.sleep(15)
        rounds.reaper.stop()
        rounds.reaper.start()
        await asyncio.sleep(15)
        rounds.reaper.stop()
        assert rounds.at_s == pytest.approx([10, 25])

    run_in_no_time(main())


def test_round_that_raises_is_logged_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        rounds = Rounds()
        rounds.error = RuntimeError("boom")
        rounds.reaper.start()
        await asyncio.sleep(25)
        assert rounds.at_s == pytest.approx([10, 20])
        rounds.error = None
        await asyncio.sleep(10)
        rounds.reaper.stop()
        assert rounds.at_s == pytest.approx([10, 20, 30])

    run_in_no_time(main())
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_round_that_breaks_off_is_not_the_last() -> None:
    """Somebody cancelled what the round waited for; nobody stopped the reaper."""

    async def main() -> None:
        rounds = Rounds()
        rounds.error = asyncio.CancelledError()
        rounds.reaper.start()
        await asyncio.sleep(25)
        rounds.reaper.stop()
        assert rounds.at_s == pytest.approx([10, 20])

    run_in_no_time(main())
