from __future__ import annotations

import pytest

from webkit_asgi.rates import BURST_S, Rates, TooManyRequests
from webkit_asgi.responses import error_response
from webkit_core import ConfigError


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(rates: Rates, principal: str, tries: int) -> int:
    """Return how many of so many tries at once are let through."""
    count = 0
    for _ in range(tries):
        try:
            rates.take(principal)
        except TooManyRequests:
            continue
        count += 1
    return count


# --- how many


@pytest.mark.parametrize("per_s", [1.0, 3.0, 100.0, 2.5])
def test_burst_is_two_seconds_worth(clock: Clock, per_s: float) -> None:
    assert BURST_S == 2
    assert taken(Rates(per_s, clock), "ann", 1000) == int(per_s * 2)


@pytest.mark.parametrize("per_s", [0.5, 0.1, 0.001])
def test_burst_is_one_where_the_rate_is_slow(clock: Clock, per_s: float) -> None:
    """Else nothing would ever be let through."""
    assert taken(Rates(per_s, clock), "ann", 10) == 1


@pytest.mark.parametrize("per_s", [0.25, 1.0, 10.0])
def test_after_the_burst_as_many_are_let_through_as_the_rate_says(
    clock: Clock, per_s: float
) -> None:
    rates = Rates(per_s, clock)
    taken(rates, "ann", 100)

    count = 0
    for _ in range(400):
        clock.now_s += 0.25
        count += taken(rates, "ann", 5)

    assert count == pytest.approx(100 * per_s, abs=1)


def test_one_more_is_let_through_exactly_when_its_time_has_come(clock: Clock) -> None:
    rates = Rates(4.0, clock)
    assert taken(rates, "ann", 9) == 8

    clock.now_s += 0.2499
    assert taken(rates, "ann", 1) == 0
    clock.now_s += 0.0001
    assert taken(rates, "ann", 2) == 1


def test_what_was_refused_does_not_count(clock: Clock) -> None:
    """Whoever asks too often is not kept out for longer by that."""
    rates = Rates(1.0, clock)
    taken(rates, "ann", 1000)

    clock.now_s += 1

    assert taken(rates, "ann", 2) == 1


@pytest.mark.parametrize("away_s", [2.0, 3.0, 1e6])
def test_quiet_time_saves_no_more_than_a_burst(clock: Clock, away_s: float) -> None:
    rates = Rates(5.0, clock)
    taken(rates, "ann", 100)

    clock.now_s += away_s

    assert taken(rates, "ann", 100) == 10


def test_quiet_time_saves_no_more_though_others_were_not_quiet(clock: Clock) -> None:
    """Who has been refused is still remembered, and so is who came after them."""
    rates = Rates(10.0, clock)
    taken(rates, "bob", 100)
    taken(rates, "ann", 1)

    clock.now_s += 1.9

    assert taken(rates, "ann", 100) == 20


def test_zero_is_without_limit(clock: Clock) -> None:
    rates = Rates(0, clock)

    assert taken(rates, "ann", 10_000) == 10_000
    assert len(rates) == 0


# --- what is said


@pytest.mark.parametrize(
    ("per_s", "retry_after_s"), [(100.0, 1), (1.0, 1), (0.5, 2), (0.1, 10), (0.3, 4)]
)
def test_retry_after_is_when_one_more_is_let_through(
    clock: Clock, per_s: float, retry_after_s: int
) -> None:
    rates = Rates(per_s, clock)
    taken(rates, "ann", 1000)

    with pytest.raises(TooManyRequests) as caught:
        rates.take("ann")

    assert caught.value.retry_after_s == retry_after_s
    clock.now_s += retry_after_s
    rates.take("ann")


def test_retry_after_is_less_when_time_has_gone_by(clock: Clock) -> None:
    rates = Rates(0.1, clock)
    rates.take("ann")
    clock.now_s += 7.5

    with pytest.raises(TooManyRequests) as caught:
        rates.take("ann")

    assert caught.value.retry_after_s == 3


def test_answer_is_429_and_says_the_rate_and_when_to_come_again(clock: Clock) -> None:
    rates = Rates(0.25, clock)
    rates.take("ann")

    with pytest.raises(TooManyRequests, match=r"more than 0\.25 a second") as caught:
        rates.take("ann")

    response = error_response(caught.value)
    assert response.status == 429
    assert dict(response.headers)[b"retry-after"] == b"4"
    assert b'"too_many_requests"' in response.body


# --- who


def test_principals_have_a_rate_each(clock: Clock) -> None:
    rates = Rates(1.0, clock)
    assert taken(rates, "ann", 100) == 2

    assert taken(rates, "bob", 100) == 2
    assert taken(rates, "", 100) == 2


def test_principal_that_is_refused_is_not_let_in_by_another(clock: Clock) -> None:
    rates = Rates(1.0, clock)
    taken(rates, "ann", 100)

    for index in range(100):
        rates.take(f"another {index}")

    assert taken(rates, "ann", 1) == 0


def test_principal_that_goes_on_is_not_forgotten(clock: Clock) -> None:
    """Others come and go between its requests."""
    rates = Rates(1.0, clock)
    count = 0
    for index in range(400):
        clock.now_s += 0.25
        rates.take(f"another {index}")
        count += taken(rates, "ann", 3)

    assert count == pytest.approx(100 + 2, abs=1)


# --- memory


def test_principals_are_forgotten_when_that_makes_no_difference(clock: Clock) -> None:
    rates = Rates(1.0, clock)
    for index in range(1000):
        rates.take(f"principal {index}")
    assert len(rates) == 1000

    clock.now_s += 1
    rates.take("one more")

    assert len(rates) == 1


def test_memory_is_that_of_who_is_active(clock: Clock) -> None:
    rates = Rates(10.0, clock)
    for index in range(10_000):
        clock.now_s += 0.01
        taken(rates, f"principal {index}", 100)

        assert len(rates) <= BURST_S / 0.01 + 1


def test_principal_that_is_refused_is_forgotten_too(clock: Clock) -> None:
    rates = Rates(1.0, clock)
    for index in range(100):
        taken(rates, f"principal {index}", 50)

    clock.now_s += BURST_S
    rates.take("one more")

    assert len(rates) == 1


def test_principal_that_goes_on_does_not_keep_the_others_in_memory(
    clock: Clock,
) -> None:
    rates = Rates(10.0, clock)
    for index in range(5000):
        clock.now_s += 0.01
        taken(rates, "ann", 5)
        rates.take(f"another {index}")

        assert len(rates) <= BURST_S / 0.01 + 2


@pytest.mark.parametrize("per_s", [1e-320, 0.0009])
def test_rate_that_is_as_good_as_none_is_no_setting(per_s: float) -> None:
    with pytest.raises(ConfigError, match="0 is without limit"):
        Rates(per_s)
