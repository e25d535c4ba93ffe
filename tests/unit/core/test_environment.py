from __future__ import annotations

from pathlib import Path

import pytest

from webkit_core.environment import (
    ALLOWED,
    MARK,
    allowed_names,
    private_environment,
)
from webkit_core.errors import ConfigError

HERE = Path("/state/one")


def test_names_are_the_usual_ones_what_is_given_and_what_is_asked_for() -> None:
    assert allowed_names(["GIVEN"], ["ASKED_*"]).split(",") == [
        *ALLOWED,
        "GIVEN",
        "ASKED_*",
    ]


def test_usual_names_have_no_secret_of_other_programs() -> None:
    prefixes = tuple(name[:-1] for name in ALLOWED if name.endswith("*"))
    for secret in ("DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PGPASS"):
        assert secret not in ALLOWED
        assert not secret.startswith(prefixes)


@pytest.mark.parametrize("name", ["", "A,B", "A=1", "A B", "A*B", "**", "A\0"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        allowed_names([], [name])


def test_private_environment_is_below_the_directory() -> None:
    assert private_environment(HERE, {}, {}) == {
        "CLAUDE_CONFIG_DIR": "/state/one/config",
        "CLAUDE_CODE_TMPDIR": "/state/one/tmp",
        "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
        "DISABLE_AUTOUPDATER": "1",
        MARK: "/state/one",
    }


def test_what_is_given_wins() -> None:
    given = {"CLAUDE_CONFIG_DIR": "/theirs", "DISABLE_AUTOUPDATER": "0", "X": "1"}

    made = private_environment(HERE, given, {})

    assert given.items() <= made.items()
    assert made["CLAUDE_CODE_TMPDIR"] == "/state/one/tmp"


def test_what_is_taken_from_the_server_by_name_is_left_as_it_is_there() -> None:
    made = private_environment(HERE, {}, {"CLAUDE_CONFIG_DIR": "/operators"})

    assert "CLAUDE_CONFIG_DIR" not in made


def test_mark_is_nobody_elses_to_set() -> None:
    assert private_environment(HERE, {MARK: "x"}, {MARK: "y"})[MARK] == "/state/one"
