"""Every state times every input: a row of the table, or ``InvalidTransition``."""

from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import given, strategies as st

from webkit_core.errors import InvalidTransition
from webkit_core.lifecycle import (
    ACCEPTS_PROMPT,
    ENDED,
    TRANSITIONS,
    TURN_RUNS,
    Input,
    Lifecycle,
    State,
)

PAIRS: Final = list(itertools.product(State, Input))
PAIR_IDS: Final = [f"{state}-{given_}" for state, given_ in PAIRS]


def path_to(target: State) -> list[Input]:
    """The shortest inputs that bring a new session to ``target``."""
    reached: dict[State, list[Input]] = {State.STARTING: []}
    queue = [State.STARTING]
    for state in queue:
        for given_ in Input:
            after = TRANSITIONS.get((state, given_))
            if after is not None and after not in reached:
                reached[after] = [*reached[state], given_]
                queue.append(after)
    return reached[target]


def lifecycle_in(state: State) -> Lifecycle:
    lifecycle = Lifecycle()
    for given_ in path_to(state):
        lifecycle.step(given_)
    assert lifecycle.state is state
    return lifecycle


@pytest.mark.parametrize(("state", "given_"), PAIRS, ids=PAIR_IDS)
def test_pair_is_a_row_or_an_invalid_transition(state: State, given_: Input) -> None:
    lifecycle = lifecycle_in(state)
    after = TRANSITIONS.get((state, given_))

    if after is None:
        with pytest.raises(InvalidTransition):
            lifecycle.step(given_)
        assert lifecycle.state is state
    else:
        assert lifecycle.step(given_) is (after is not state)
        assert lifecycle.state is after


@pytest.mark.parametrize(
    ("state", "given_"), [(s, i) for s in ENDED for i in Input], ids=str
)
def test_final_state_swallows_every_input(state: State, given_: Input) -> None:
    lifecycle = lifecycle_in(state)

    assert not lifecycle.step(given_)
    assert lifecycle.state is state


@pytest.mark.parametrize("state", [state for state in State if state not in ENDED])
def test_live_state_can_be_closed_and_can_fail(state: State) -> None:
    for given_, end in [(Input.CLOSED, State.CLOSED), (Input.FAILED, State.FAILED)]:
        lifecycle = lifecycle_in(state)

        assert lifecycle.step(given_)
        assert lifecycle.state is end


@pytest.mark.parametrize("state", State)
def test_prompt_is_accepted_exactly_where_no_turn_runs(state: State) -> None:
    accepted = (state, Input.PROMPTED) in TRANSITIONS and state not in ENDED

    assert accepted is (state in ACCEPTS_PROMPT)
    assert not (accepted and state in TURN_RUNS)


@pytest.mark.parametrize("state", sorted(ACCEPTS_PROMPT))
def test_prompt_starts_a_turn(state: State) -> None:
    assert TRANSITIONS[state, Input.PROMPTED] in TURN_RUNS


@pytest.mark.parametrize("state", sorted(TURN_RUNS))
def test_turn_end_frees_the_session_for_the_next_prompt(state: State) -> None:
    assert TRANSITIONS[state, Input.TURN_ENDED] in ACCEPTS_PROMPT


@pytest.mark.parametrize("state", [s for s in State if s is not State.STARTING])
@pytest.mark.parametrize(
    "given_",
    [
        Input.TURN_BEGAN,
        Input.ASKED,
        Input.ANSWERED,
        Input.INTERRUPTED,
        Input.TURN_ENDED,
    ],
)
def test_what_an_agent_or_a_client_may_do_at_any_time_has_a_row(
    state: State, given_: Input
) -> None:
    """Only a prompt and a second connect are ours to time."""
    assert (state, given_) in TRANSITIONS


@pytest.mark.parametrize("state", State)
def test_nothing_but_the_turns_end_or_the_sessions_ends_a_turn(state: State) -> None:
    if state in TURN_RUNS:
        leaving = {
            given_
            for given_ in Input
            if TRANSITIONS.get((state, given_), state) not in TURN_RUNS
        }
        assert leaving == {Input.TURN_ENDED, Input.CLOSED, Input.FAILED}
    else:
        assert TRANSITIONS.get((state, Input.TURN_ENDED), state) not in TURN_RUNS


@pytest.mark.parametrize(
    "state", [s for s in State if s not in ENDED and s is not State.INTERRUPTING]
)
def test_open_request_shows_in_the_state_and_goes_when_answered(state: State) -> None:
    """Interrupting says more than waiting, so it stays."""
    waiting = {State.WAITING, State.BACKGROUND_WAITING}
    asked = TRANSITIONS.get((state, Input.ASKED))

    if state is State.STARTING:
        assert asked is None
    else:
        assert asked in waiting
        assert TRANSITIONS[asked, Input.ANSWERED] not in waiting


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_reached(state: State) -> None:
    assert len(path_to(state)) <= 4


@given(st.lists(st.sampled_from(Input), max_size=40))
def test_any_inputs_leave_a_state_of_the_table_and_ends_are_final(
    inputs: list[Input],
) -> None:
    lifecycle = Lifecycle()
    ended: State | None = None
    for given_ in inputs:
        before = lifecycle.state
        try:
            changed = lifecycle.step(given_)
        except InvalidTransition:
            assert before not in ENDED
            changed = False
        assert changed is (lifecycle.state is not before)
        if ended is not None:
            assert lifecycle.state is ended
        elif lifecycle.state in ENDED:
            ended = lifecycle.state


@given(st.lists(st.sampled_from(Input), max_size=40))
def test_any_inputs_give_each_prompt_a_turn_of_its_own(inputs: list[Input]) -> None:
    """Between two accepted prompts the first one's turn has ended."""
    lifecycle = Lifecycle()
    turn_owed = False
    for given_ in inputs:
        try:
            lifecycle.step(given_)
        except InvalidTransition:
            continue
        if lifecycle.state in ENDED:
            return
        if given_ is Input.PROMPTED:
            assert not turn_owed
            turn_owed = True
        elif given_ is Input.TURN_ENDED:
            turn_owed = False
        assert not turn_owed or lifecycle.state in TURN_RUNS
