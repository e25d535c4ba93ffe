"""The states of a session and what moves it between them: one table.

A turn begins when a prompt is handed to the agent (or when the agent begins by
itself, woken by a background task) and ends with the agent's result. While a
permission or question is open, the session waits for people.

Rules: everything that decides a state is in this file; the file knows nothing of
tasks, clocks or I/O. A pair without a row is a bug and raises. CLOSED and FAILED are
final and swallow what still arrives, because an agent's last words may come late.

Invariant: a prompt is handed over only in a state of :data:`ACCEPTS_PROMPT`, so that
every prompt gets a turn of its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .errors import InvalidTransition


class State(StrEnum):
    """Where a session is. The value is what goes on the wire."""

    STARTING = "starting"
    """The agent's process is being started."""
    IDLE = "idle"
    """Nothing runs; the next prompt may go in."""
    RUNNING = "running"
    """A turn runs."""
    WAITING = "waiting"
    """A turn runs and a permission or question is open."""
    BACKGROUND_WAITING = "background_waiting"
    """No turn runs, but a background task has asked something."""
    INTERRUPTING = "interrupting"
    """An interrupt was sent; the turn's end has not arrived yet."""
    CLOSED = "closed"
    """Over, on purpose."""
    FAILED = "failed"
    """Over, because the agent died or did not behave."""


class Input(StrEnum):
    """What happens to a session."""

    CONNECTED = "connected"
    """The agent is up."""
    PROMPTED = "prompted"
    """A prompt was handed to the agent."""
    TURN_BEGAN = "turn_began"
    """The agent is at work: the first message of a turn arrived."""
    ASKED = "asked"
    """At least one permission or question is open."""
    ANSWERED = "answered"
    """None is open any more."""
    INTERRUPTED = "interrupted"
    """Somebody wants the turn to stop."""
    TURN_ENDED = "turn_ended"
    """The turn's result arrived."""
    CLOSED = "closed"
    """The session ends on purpose."""
    FAILED = "failed"
    """The agent is gone or given up on."""


_S, _I = State, Input

TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (_S.STARTING, _I.CONNECTED): _S.IDLE,
    (_S.STARTING, _I.INTERRUPTED): _S.STARTING,
    #
    (_S.IDLE, _I.PROMPTED): _S.RUNNING,
    (_S.IDLE, _I.TURN_BEGAN): _S.RUNNING,
    (_S.IDLE, _I.ASKED): _S.BACKGROUND_WAITING,
    (_S.IDLE, _I.ANSWERED): _S.IDLE,
    (_S.IDLE, _I.INTERRUPTED): _S.IDLE,
    (_S.IDLE, _I.TURN_ENDED): _S.IDLE,
    #
    (_S.RUNNING, _I.TURN_BEGAN): _S.RUNNING,
    (_S.RUNNING, _I.ASKED): _S.WAITING,
    (_S.RUNNING, _I.ANSWERED): _S.RUNNING,
    (_S.RUNNING, _I.INTERRUPTED): _S.INTERRUPTING,
    (_S.RUNNING, _I.TURN_ENDED): _S.IDLE,
    #
    (_S.WAITING, _I.TURN_BEGAN): _S.WAITING,
    (_S.WAITING, _I.ASKED): _S.WAITING,
    (_S.WAITING, _I.ANSWERED): _S.RUNNING,
    (_S.WAITING, _I.INTERRUPTED): _S.INTERRUPTING,
    # A background task's question outlives the main turn.
    (_S.WAITING, _I.TURN_ENDED): _S.BACKGROUND_WAITING,
    #
    (_S.BACKGROUND_WAITING, _I.PROMPTED): _S.WAITING,
    (_S.BACKGROUND_WAITING, _I.TURN_BEGAN): _S.WAITING,
    (_S.BACKGROUND_WAITING, _I.ASKED): _S.BACKGROUND_WAITING,
    (_S.BACKGROUND_WAITING, _I.ANSWERED): _S.IDLE,
    # The CLI acknowledges an interrupt between turns and does nothing.
    (_S.BACKGROUND_WAITING, _I.INTERRUPTED): _S.BACKGROUND_WAITING,
    (_S.BACKGROUND_WAITING, _I.TURN_ENDED): _S.BACKGROUND_WAITING,
    #
    (_S.INTERRUPTING, _I.TURN_BEGAN): _S.INTERRUPTING,
    (_S.INTERRUPTING, _I.ASKED): _S.INTERRUPTING,
    (_S.INTERRUPTING, _I.ANSWERED): _S.INTERRUPTING,
    (_S.INTERRUPTING, _I.INTERRUPTED): _S.INTERRUPTING,
    (_S.INTERRUPTING, _I.TURN_ENDED): _S.IDLE,
}

ENDED: Final = frozenset({State.CLOSED, State.FAILED})
"""Final states."""

ACCEPTS_PROMPT: Final = frozenset({State.IDLE, State.BACKGROUND_WAITING})
"""States in which the next prompt may be handed to the agent."""

TURN_RUNS: Final = frozenset({State.RUNNING, State.WAITING, State.INTERRUPTING})
"""States in which a turn is under way and a result is owed."""

for _state in State:
    if _state not in ENDED:
        TRANSITIONS[_state, Input.CLOSED] = State.CLOSED
        TRANSITIONS[_state, Input.FAILED] = State.FAILED
for _state in ENDED:
    for _input in Input:
        TRANSITIONS[_state, _input] = _state


class Lifecycle:
    """One session's state."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = State.STARTING

    @property
    def state(self) -> State:
        """The state the session is in."""
        return self._state

    def step(self, given: Input) -> bool:
        """Take one input; return whether the state changed.

        Raises:
            InvalidTransition: the table has no row for it; the state stays.
        """
        try:
            after = TRANSITIONS[self._state, given]
        except KeyError:
            raise InvalidTransition(self._state, given) from None
        changed = after is not self._state
        self._state = after
        return changed
