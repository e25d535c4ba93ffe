from __future__ import annotations

import pytest

from webkit_core.agent import Killable, SessionConfig


def test_session_config_by_default_leaves_all_choices_to_the_agent() -> None:
    config = SessionConfig()

    assert (config.model, config.permission_mode, config.cwd) == (None, None, None)
    assert config.deltas == {"text", "tool_input"}


def test_session_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        SessionConfig().model = "other"  # type: ignore[misc]


def test_session_config_takes_names_only() -> None:
    with pytest.raises(TypeError):
        SessionConfig("a-model")  # type: ignore[call-arg]


class Process:
    """An agent with a process of its own."""

    def kill(self) -> None: ...

    def last_words(self) -> str:
        return "out of memory"


class Silent:
    """An agent that can be killed but says nothing."""

    def kill(self) -> None: ...


@pytest.mark.parametrize(("agent", "killable"), [(Process(), True), (Silent(), False)])
def test_killable_is_recognised_by_its_methods(agent: object, killable: bool) -> None:
    assert isinstance(agent, Killable) is killable
