"""Rates: how often each principal may do something.

A bucket of tokens for each: it fills at the rate and holds two seconds' worth, so that
a burst is let through and a flood is not.

Rule: whoever has not been here for as long as a bucket takes to fill is forgotten, as
that makes no difference; so memory is bounded by who is active.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from webkit_core import ConfigError, Unavailable

BURST_S: Final = 2.0
MIN_PER_S: Final = 0.001


class TooManyRequests(Unavailable):
    """The principal does this too often."""

    code = "too_many_requests"

    def __init__(self, per_s: float, retry_after_s: int) -> None:
        super().__init__(per_s, retry_after_s)
        self.per_s = per_s
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"more than {self.per_s:g} a second"


class Rates:
    """See the module.

    Args:
        per_s: how many a second; 0 is without limit.
        clock: monotonic seconds; tests give their own.

    Raises:
        ConfigError: it is too few to mean anything.
    """

    def __init__(
        self, per_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if 0 < per_s < MIN_PER_S:
            raise ConfigError(
                f"at most {per_s:g} inputs a second is none; 0 is without limit"
            )
        self._per_s = per_s
        self._capacity = max(1.0, per_s * BURST_S)
        self._clock = clock
        # When each bucket will be full again; the earliest first, more or less.
        self._full_at_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at_s)

    def take(self, principal: str) -> None:
        """Count one.

        Raises:
            TooManyRequests: it was one too many, and does not count.
        """
        if not self._per_s:
            return
        now_s = self._clock()
        self._forget_full(now_s)
        full_at_s = max(now_s, self._full_at_s.pop(principal, now_s)) + 1 / self._per_s
        over_s = full_at_s - now_s - self._capacity / self._per_s
        if over_s > 1e-9:
            self._full_at_s[principal] = full_at_s - 1 / self._per_s
            raise TooManyRequests(self._per_s, max(1, math.ceil(over_s)))
        self._full_at_s[principal] = full_at_s

    def _forget_full(self, now_s: float) -> None:
        """Forget the buckets at the front that are full."""
        while self._full_at_s:
            principal = next(iter(self._full_at_s))
            if self._full_at_s[principal] > now_s:
                return
            del self._full_at_s[principal]
