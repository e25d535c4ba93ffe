"""Gauges: what is looked up when somebody collects, so that an event costs nothing.

Sessions, subscribers, events and bytes are numbers that the sessions have anyway. A
registry makes a snapshot of them, and each instrument here is a number of it.

Rules: collecting may happen in any thread, so a snapshot reads whole numbers and
copies what it iterates over; a source that is gone is not collected from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Protocol
from weakref import ref

from msgspec import Struct
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from .lifecycle import State

SCOPE: Final = "agent_webkit"
"""What every metric's name begins with."""

_Callback = Callable[[CallbackOptions], Iterable[Observation]]


class Traffic:
    """What streams have sent, as plain numbers: the only counting per event."""

    __slots__ = ("bytes", "frames")

    def __init__(self) -> None:
        self.bytes = 0
        self.frames = 0


class Snapshot(Struct, kw_only=True):
    """What a registry's sessions are and have done, at one moment."""

    live: int
    starting: int
    states: Counter[str]
    subscribers: int
    events: int
    events_evicted: int
    frames: int
    bytes: int
    ask_ages_s: list[float]
    agent_bytes: list[int]


class Source(Protocol):
    """What can be collected from: a registry."""

    def snapshot(self, *, agents: bool = False) -> Snapshot:
        """Return what is the case; the agents' memory only if it is asked for."""


class Gauges:
    """The instruments of one meter; see the module."""

    def __init__(self, meter: Meter) -> None:
        # Replaced and never changed: it may be iterated over in another thread.
        self._sources: tuple[ref[Source], ...] = ()
        gauge = meter.create_observable_gauge
        counter = meter.create_observable_counter
        total = self._total
        gauge(
            f"{SCOPE}.sessions.live",
            [total(lambda now: now.live)],
            "{session}",
            "Sessions that hold an agent or wait for one: what the cap counts.",
        )
        gauge(
            f"{SCOPE}.sessions.starting",
            [total(lambda now: now.starting)],
            "{session}",
            "Sessions whose agent is not up yet.",
        )
        gauge(
            f"{SCOPE}.sessions.by_state",
            [self._states],
            "{session}",
            "Sessions by state, those included that have ended and can be read.",
        )
        gauge(
            f"{SCOPE}.subscribers",
            [total(lambda now: now.subscribers)],
            "{subscriber}",
            "Open streams.",
        )
        counter(
            f"{SCOPE}.events.appended",
            [total(lambda now: now.events)],
            "{event}",
            "Events that sessions have logged.",
        )
        counter(
            f"{SCOPE}.events.evicted",
            [total(lambda now: now.events_evicted)],
            "{event}",
            "Events that have left their buffer for newer ones.",
        )
        counter(
            f"{SCOPE}.frames.sent",
            [total(lambda now: now.frames)],
            "{frame}",
            "Events written to streams.",
        )
        counter(
            f"{SCOPE}.sent",
            [total(lambda now: now.bytes)],
            "By",
            "Bytes of events written to streams.",
        )
        gauge(
            f"{SCOPE}.permissions.pending",
            [total(lambda now: len(now.ask_ages_s))],
            "{request}",
            "Permissions and questions that wait for people.",
        )
        gauge(
            f"{SCOPE}.permissions.oldest",
            [self._oldest_ask],
            "s",
            "How long the oldest of them has waited.",
        )
        gauge(
            f"{SCOPE}.agent.memory",
            [self._agent_memory],
            "By",
            "Private memory of the agents' processes: their sum, and the largest.",
        )

    def watch(self, source: Source) -> None:
        """Collect from ``source`` too, for as long as it lives."""
        known = (k for k in self._sources if k() not in (None, source))
        self._sources = (*known, ref(source))

    def _total(self, value: Callable[[Snapshot], int]) -> _Callback:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(sum(value(now) for now in self._snapshots()))]

        return observe

    def _states(self, _: CallbackOptions) -> Iterable[Observation]:
        # All of them, always: a state that nobody is in counts 0, not nothing.
        states: Counter[str] = Counter({state.value: 0 for state in State})
        for now in self._snapshots():
            states.update(now.states)
        return [Observation(n, {"state": state}) for state, n in states.items()]

    def _oldest_ask(self, _: CallbackOptions) -> Iterable[Observation]:
        ages_s = [age_s for now in self._snapshots() for age_s in now.ask_ages_s]
        return [Observation(max(ages_s, default=0.0))]

    def _agent_memory(self, _: CallbackOptions) -> Iterable[Observation]:
        sizes = [
            size for now in self._snapshots(agents=True) for size in now.agent_bytes
        ]
        return [
            Observation(sum(sizes), {"stat": "sum"}),
            Observation(max(sizes, default=0), {"stat": "max"}),
        ]

    def _snapshots(self, *, agents: bool = False) -> list[Snapshot]:
        sources = (known() for known in self._sources)
        return [s.snapshot(agents=agents) for s in sources if s is not None]
