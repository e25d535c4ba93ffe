from __future__ import annotations

import pytest

from webkit_core.errors import InvalidTransition
from webkit_core.lifecycle import TURN_RUNS, Input, Lifecycle, State


def walked(*inputs: Input) -> Lifecycle:
    lifecycle = Lifecycle()
    for given in inputs:
        lifecycle.step(given)
    return lifecycle


In, S = Input, State

WALKS = [
    ("new", [], S.STARTING),
    ("connected", [In.CONNECTED], S.IDLE),
    ("prompted", [In.CONNECTED, In.PROMPTED], S.RUNNING),
    ("turn-done", [In.CONNECTED, In.PROMPTED, In.TURN_BEGAN, In.TURN_ENDED], S.IDLE),
    ("asked", [In.CONNECTED, In.PROMPTED, In.ASKED], S.WAITING),
    ("asked-twice", [In.CONNECTED, In.PROMPTED, In.ASKED, In.ASKED], S.WAITING),
    ("answered", [In.CONNECTED, In.PROMPTED, In.ASKED, In.ANSWERED], S.RUNNING),
    ("interrupted", [In.CONNECTED, In.PROMPTED, In.INTERRUPTED], S.INTERRUPTING),
    ("interrupted-waiting", [In.CONNECTED, In.PROMPTED, In.ASKED, In.INTERRUPTED],
     S.INTERRUPTING),
    ("interrupted-then-answered",
     [In.CONNECTED, In.PROMPTED, In.ASKED, In.INTERRUPTED, In.ANSWERED],
     S.INTERRUPTING),
    ("interrupt-done",
     [In.CONNECTED, In.PROMPTED, In.INTERRUPTED, In.TURN_ENDED], S.IDLE),
    ("interrupt-while-idle", [In.CONNECTED, In.INTERRUPTED], S.IDLE),
    ("interrupt-while-starting", [In.INTERRUPTED], S.STARTING),
    ("own-turn", [In.CONNECTED, In.TURN_BEGAN], S.RUNNING),
    ("own-turn-done", [In.CONNECTED, In.TURN_BEGAN, In.TURN_ENDED], S.IDLE),
    ("late-result", [In.CONNECTED, In.TURN_ENDED], S.IDLE),
    ("background-question", [In.CONNECTED, In.ASKED], S.BACKGROUND_WAITING),
    ("background-question-outlives-the-turn",
     [In.CONNECTED, In.PROMPTED, In.ASKED, In.TURN_ENDED], S.BACKGROUND_WAITING),
    ("background-answered", [In.CONNECTED, In.ASKED, In.ANSWERED], S.IDLE),
    ("prompt-beside-a-background-question", [In.CONNECTED, In.ASKED, In.PROMPTED],
     S.WAITING),
    ("closed-while-starting", [In.CLOSED], S.CLOSED),
    ("failed-while-starting", [In.FAILED], S.FAILED),
    ("closed", [In.CONNECTED, In.PROMPTED, In.CLOSED], S.CLOSED),
    ("failed", [In.CONNECTED, In.PROMPTED, In.FAILED], S.FAILED),
    ("closed-then-failed", [In.CLOSED, In.FAILED], S.CLOSED),
    ("failed-then-closed", [In.FAILED, In.CLOSED], S.FAILED),
    ("last-words-after-the-end", [In.CLOSED, In.TURN_ENDED, In.ASKED], S.CLOSED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "state"),
    [pytest.param(inputs, state, id=name) for name, inputs, state in WALKS],
)
def test_lifecycle_walk_ends_in_the_state(inputs: list[Input], state: State) -> None:
    assert walked(*inputs).state is state


def test_step_tells_whether_the_state_changed() -> None:
    lifecycle = Lifecycle()

    assert lifecycle.step(Input.CONNECTED)
    assert not lifecycle.step(Input.INTERRUPTED)
    assert lifecycle.step(Input.PROMPTED)
    assert not lifecycle.step(Input.TURN_BEGAN)


@pytest.mark.parametrize(
    ("inputs", "refused"),
    [
        ([], Input.PROMPTED),
        ([Input.CONNECTED], Input.CONNECTED),
        ([Input.CONNECTED, Input.PROMPTED], Input.PROMPTED),
        ([Input.CONNECTED, Input.PROMPTED, Input.ASKED], Input.PROMPTED),
        ([Input.CONNECTED, Input.PROMPTED, Input.INTERRUPTED], Input.PROMPTED),
    ],
)
def test_step_without_a_row_raises_and_leaves_the_state(
    inputs: list[Input], refused: Input
) -> None:
    lifecycle = walked(*inputs)
    before = lifecycle.state

    with pytest.raises(InvalidTransition) as caught:
        lifecycle.step(refused)

    assert (caught.value.state, caught.value.given) == (before, refused)
    assert caught.value.__suppress_context__
    assert lifecycle.state is before


def test_states_in_which_a_result_is_owed() -> None:
    assert {S.RUNNING, S.WAITING, S.INTERRUPTING} == TURN_RUNS


def test_state_values_are_what_goes_on_the_wire() -> None:
    assert [str(state) for state in State] == [
        "starting",
        "idle",
        "running",
        "waiting",
        "background_waiting",
        "interrupting",
        "closed",
        "failed",
    ]
