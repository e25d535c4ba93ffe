from __future__ import annotations

import asyncio
import time

import pytest

from webkit_asgi import loop_lag
from webkit_asgi.loop_lag import INTERVAL_S, LoopLag

from .virtual_time import run_in_no_time


class HandMade:
    """Stands where ``time`` is: what it says the test has set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandMade:
    clock = HandMade()
    monkeypatch.setattr(loop_lag, "time", clock)
    return clock


async def ticks(count: int) -> None:
    """Return in the middle between a timer's turn and its next."""
    await asyncio.sleep(INTERVAL_S * (count + 0.5))


def test_lag_is_told_twice_a_second() -> None:
    lags: list[float] = []

    async def main() -> None:
        lag = LoopLag(lags.append)
        lag.start()
        await ticks(6)
        assert len(lags) == 6
        lag.stop()

    run_in_no_time(main())
    assert INTERVAL_S == 0.5


def test_lag_is_how_much_later_than_asked_for_the_timer_came(clock: HandMade) -> None:
    lags: list[float] = []

    async def main() -> None:
        lag = LoopLag(lags.append)
        lag.start()
        for late_s in (0.25, 0.0, 3.0):
            clock.now_s += INTERVAL_S + late_s
            await asyncio.sleep(INTERVAL_S)
            await asyncio.sleep(0)
        lag.stop()

    run_in_no_time(main())
    assert lags == pytest.approx([0.25, 0.0, 3.0])


def test_lag_is_never_below_zero(clock: HandMade) -> None:
    """Clocks of different makes do not agree to the last digit."""
    lags: list[float] = []

    async def main() -> None:
        lag = LoopLag(lags.append)
        lag.start()
        await ticks(1)
        lag.stop()

    run_in_no_time(main())
    assert lags == [0.0]


async def test_lag_of_a_loop_that_was_held_up_is_seen() -> None:
    lags: list[float] = []
    told = asyncio.Event()

    def record(lag_s: float) -> None:
        lags.append(lag_s)
        told.set()

    lag = LoopLag(record)
    lag.start()
    held_up_until_s = time.perf_counter() + INTERVAL_S + 0.1
    while time.perf_counter() < held_up_until_s:
        pass

    await told.wait()

    assert lags[0] >= 0.09
    lag.stop()


def test_start_twice_measures_once() -> None:
    lags: list[float] = []

    async def main() -> None:
        lag = LoopLag(lags.append)
        lag.start()
        lag.start()
        await ticks(4)
        lag.stop()
        await ticks(4)

    run_in_no_time(main())
    assert len(lags) == 4


def test_stop_ends_it_and_start_begins_again() -> None:
    lags: list[float] = []

    async def main() -> None:
        lag = LoopLag(lags.append)
        lag.start()
        lag.stop()
        lag.stop()
        await ticks(4)
        assert lags == []

        lag.start()
        await ticks(2)
        assert len(lags) == 2
        lag.stop()

    run_in_no_time(main())


def test_stop_without_start_does_nothing() -> None:
    LoopLag(lambda _: None).stop()


def test_start_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError):
        LoopLag(lambda _: None).start()
