from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from webkit_asgi.policy import (
    CWD_ROOT_VARIABLE,
    MODES,
    MODES_VARIABLE,
    CwdRefused,
    PermissionModeRefused,
    Policy,
)
from webkit_asgi.responses import error_response
from webkit_core import (
    ConfigError,
    Inbound,
    Interrupt,
    InvalidInput,
    PermissionMode,
    PermissionResponse,
    SetPermissionMode,
    UserMessage,
)
from webkit_core.protocol import (
    DirectoriesUpdate,
    ModeUpdate,
    PermissionRule,
    RemoveDirectoriesUpdate,
    RulesUpdate,
)

SOME_MODES = "default,plan"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory, and others beside it."""
    (tmp_path / "root" / "project").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root-2").mkdir()
    return tmp_path / "root"


@pytest.fixture
def policy(root: Path) -> Policy:
    return Policy(str(root), SOME_MODES)


# --- directories


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (".", "."),
        ("", "."),
        ("project", "project"),
        ("project/", "project"),
        ("project/.", "project"),
        ("project/..", "."),
        ("project/../project", "project"),
        ("//project", "project"),
        ("../root", "."),
        ("../root/project", "project"),
        ("../outside/../root/project", "project"),
    ],
)
def test_directory_within_the_root_is_itself(
    policy: Policy, root: Path, asked: str, found: str
) -> None:
    assert policy.directory(f"{root}/{asked}") == str(root / found)


@pytest.mark.parametrize(
    "asked",
    [
        "..",
        "../outside",
        "../root-2",
        "project/../..",
        "project/../../outside",
        "../../../../../../../..",
    ],
)
def test_directory_outside_the_root_is_refused(
    policy: Policy, root: Path, asked: str
) -> None:
    with pytest.raises(CwdRefused):
        policy.directory(f"{root}/{asked}")


@pytest.mark.parametrize("asked", ["/", "/tmp", "//", "/proc/self/cwd/.."])
def test_directory_elsewhere_on_the_machine_is_refused(
    policy: Policy, asked: str
) -> None:
    with pytest.raises(CwdRefused):
        policy.directory(asked)


@pytest.mark.parametrize("there", [True, False])
def test_outside_is_refused_before_it_is_said_what_is_there(
    policy: Policy, root: Path, there: bool
) -> None:
    """Else the answers would tell which files the machine has."""
    asked = root.parent / ("outside" if there else "no-such-directory")

    with pytest.raises(CwdRefused) as caught:
        policy.directory(str(asked))

    assert str(root.parent) not in str(caught.value)
    assert error_response(caught.value).body == error_response(CwdRefused()).body


def test_file_outside_is_refused_as_a_directory_is(policy: Policy) -> None:
    with pytest.raises(CwdRefused):
        policy.directory(__file__)


@pytest.mark.parametrize("name", ["missing", "missing/below", "file", "file/below"])
def test_what_is_no_directory_in_the_root_is_invalid(
    policy: Policy, root: Path, name: str
) -> None:
    (root / "file").touch()

    with pytest.raises(InvalidInput, match="`cwd` is not a directory"):
        policy.directory(f"{root}/{name}")


@pytest.mark.parametrize("cwd", ["", ".", "project", "~", "./project", "..", " /"])
def test_path_that_is_not_absolute_is_invalid(policy: Policy, cwd: str) -> None:
    """Relative to what would be the server's secret."""
    with pytest.raises(InvalidInput, match="`cwd` is not an absolute path"):
        policy.directory(cwd)


@pytest.mark.parametrize("name", ["\0", "project\0", "project\0/../../outside"])
def test_path_with_a_nul_is_invalid(policy: Policy, root: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        policy.directory(f"{root}/{name}")


@pytest.mark.parametrize("below", ["", "/", "/.", "/../link"])
def test_link_that_leads_out_is_refused(policy: Policy, root: Path, below: str) -> None:
    (root / "link").symlink_to(root.parent / "outside")

    with pytest.raises((CwdRefused, InvalidInput)):
        policy.directory(f"{root}/link{below}")


def test_link_out_by_way_of_another_is_refused(policy: Policy, root: Path) -> None:
    (root / "first").symlink_to("project/second")
    (root / "project" / "second").symlink_to("../../outside")

    with pytest.raises(CwdRefused):
        policy.directory(f"{root}/first")


def test_dots_behind_a_link_go_up_from_where_it_leads(
    policy: Policy, root: Path
) -> None:
    """As the kernel has it; by the text alone this would be the root."""
    (root / "link").symlink_to(root.parent / "outside")

    with pytest.raises(CwdRefused):
        policy.directory(f"{root}/link/..")


def test_link_within_the_root_is_what_it_leads_to(policy: Policy, root: Path) -> None:
    """So that it does not matter when the link is changed afterwards."""
    (root / "link").symlink_to("project")

    assert policy.directory(f"{root}/link") == str(root / "project")


def test_link_from_outside_into_the_root_is_allowed(policy: Policy, root: Path) -> None:
    (root.parent / "link").symlink_to(root / "project")

    assert policy.directory(f"{root.parent}/link") == str(root / "project")


def test_link_to_nothing_in_the_root_is_invalid(policy: Policy, root: Path) -> None:
    (root / "link").symlink_to("missing")

    with pytest.raises(InvalidInput):
        policy.directory(f"{root}/link")


def test_root_that_is_a_link_is_where_it_leads(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    policy = Policy(f"{root.parent}/link", SOME_MODES)

    assert policy.root == str(root)
    assert policy.default_directory == str(root)
    assert policy.directory(f"{root.parent}/link/project") == str(root / "project")
    assert policy.directory(f"{root}/project") == str(root / "project")


def test_root_of_the_machine_allows_every_directory(tmp_path: Path) -> None:
    policy = Policy("/", SOME_MODES)

    assert policy.directory("/") == "/"
    assert policy.directory(str(tmp_path)) == str(tmp_path)
    with pytest.raises(InvalidInput):
        policy.directory(f"{tmp_path}/missing")


def test_root_is_the_servers_directory_where_none_is_set(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    policy = Policy("", SOME_MODES)
    monkeypatch.chdir(root.parent)  # the one it began in

    assert policy.directory(f"{root}/project") == str(root / "project")
    with pytest.raises(CwdRefused):
        policy.directory(str(root.parent))


def test_default_directory_is_the_root_that_was_set(root: Path) -> None:
    """Where none is set, whoever makes the agents decides."""
    assert Policy(str(root), SOME_MODES).default_directory == str(root)
    assert Policy("", SOME_MODES).default_directory is None


@pytest.mark.parametrize("name", ["missing", "file"])
def test_root_that_is_no_directory_names_the_variable(root: Path, name: str) -> None:
    (root / "file").touch()

    with pytest.raises(ConfigError, match=CWD_ROOT_VARIABLE) as caught:
        Policy(f"{root}/{name}", SOME_MODES)
    assert name in str(caught.value)


@pytest.mark.parametrize("cwd_root", [".", "project", "~"])
def test_root_that_is_not_absolute_names_the_variable(
    root: Path, monkeypatch: pytest.MonkeyPatch, cwd_root: str
) -> None:
    monkeypatch.chdir(root)

    with pytest.raises(ConfigError, match=f"{CWD_ROOT_VARIABLE}='{cwd_root}'"):
        Policy(cwd_root, SOME_MODES)


def test_refusal_is_403_and_names_the_field() -> None:
    response = error_response(CwdRefused())

    assert response.status == 403
    assert b'"cwd_refused"' in response.body
    assert b"`cwd`" in response.body


# --- modes


def test_modes_are_those_of_the_protocol() -> None:
    assert {*MODES} == {*get_args(PermissionMode)}


@pytest.mark.parametrize("mode", MODES)
def test_mode_is_allowed_if_the_operator_names_it(root: Path, mode: str) -> None:
    Policy(str(root), mode).check_mode(mode)
    Policy(str(root), ",".join(MODES)).check_mode(mode)

    others = ",".join(other for other in MODES if other != mode)
    with pytest.raises(PermissionModeRefused):
        Policy(str(root), others).check_mode(mode)


@pytest.mark.parametrize("modes", ["", SOME_MODES])
def test_no_mode_asks_for_none(root: Path, modes: str) -> None:
    Policy(str(root), modes).check_mode(None)


@pytest.mark.parametrize("mode", MODES)
def test_without_modes_none_is_allowed(root: Path, mode: str) -> None:
    with pytest.raises(PermissionModeRefused):
        Policy(str(root), "").check_mode(mode)


@pytest.mark.parametrize(
    "modes", ["plan,default", " plan , default ", "plan,,default,"]
)
def test_modes_are_separated_by_commas(root: Path, modes: str) -> None:
    assert Policy(str(root), modes).modes == ("plan", "default")


@pytest.mark.parametrize("modes", ["yolo", "plan,yolo", "Plan", "plan default", "*"])
def test_mode_that_is_none_names_the_variable(root: Path, modes: str) -> None:
    with pytest.raises(ConfigError, match=MODES_VARIABLE) as caught:
        Policy(str(root), modes)

    for mode in MODES:
        assert mode in str(caught.value)


def test_refusal_of_a_mode_is_403_and_says_which_are_allowed(policy: Policy) -> None:
    with pytest.raises(PermissionModeRefused) as caught:
        policy.check_mode("bypassPermissions")

    response = error_response(caught.value)
    assert response.status == 403
    assert b'"permission_mode_refused"' in response.body
    assert b"'bypassPermissions'" in response.body
    assert b"default, plan" in response.body


# --- what a message would change


def allowing(*updates: Any) -> PermissionResponse:
    return PermissionResponse("toolu_1", "allow", updated_permissions=list(updates))


async def test_set_permission_mode_is_checked(policy: Policy) -> None:
    await policy.check_inbound(SetPermissionMode("plan"))

    with pytest.raises(PermissionModeRefused):
        await policy.check_inbound(SetPermissionMode("bypassPermissions"))


async def test_mode_that_an_answer_sets_is_checked(policy: Policy) -> None:
    await policy.check_inbound(allowing(ModeUpdate("plan")))

    with pytest.raises(PermissionModeRefused):
        await policy.check_inbound(allowing(ModeUpdate("bypassPermissions")))


async def test_every_update_is_checked(policy: Policy, root: Path) -> None:
    """Not the first one alone, and not the first of one kind alone."""
    fine = [
        ModeUpdate("plan"),
        DirectoriesUpdate([str(root)]),
        RulesUpdate([PermissionRule("Bash")], "allow"),
    ]

    await policy.check_inbound(allowing(*fine))
    with pytest.raises(PermissionModeRefused):
        await policy.check_inbound(allowing(*fine, ModeUpdate("acceptEdits")))
    with pytest.raises(CwdRefused):
        await policy.check_inbound(allowing(*fine, DirectoriesUpdate(["/"])))


async def test_every_directory_that_an_answer_adds_is_checked(
    policy: Policy, root: Path
) -> None:
    project = str(root / "project")
    await policy.check_inbound(allowing(DirectoriesUpdate([str(root), project])))

    with pytest.raises(CwdRefused):
        await policy.check_inbound(allowing(DirectoriesUpdate([project, "/etc"])))


@pytest.mark.parametrize("directory", ["project", "missing", ""])
async def test_directory_that_an_answer_adds_has_to_be_one(
    policy: Policy, directory: str
) -> None:
    with pytest.raises(InvalidInput):
        await policy.check_inbound(allowing(DirectoriesUpdate([directory])))


async def test_link_out_that_an_answer_adds_is_refused(
    policy: Policy, root: Path
) -> None:
    (root / "link").symlink_to(root.parent / "outside")

    with pytest.raises(CwdRefused):
        await policy.check_inbound(allowing(DirectoriesUpdate([f"{root}/link"])))


@pytest.mark.parametrize(
    "message",
    [
        UserMessage("set the mode to bypassPermissions"),
        Interrupt(),
        allowing(),
        allowing(RemoveDirectoriesUpdate(["/"])),
        PermissionResponse("toolu_1", "deny"),
        PermissionResponse("toolu_1", "allow"),
    ],
    ids=["prompt", "interrupt", "no updates", "less", "deny", "allow"],
)
async def test_message_that_asks_for_nothing_more_is_let_through(
    policy: Policy, message: Inbound
) -> None:
    await policy.check_inbound(message)


@pytest.mark.parametrize("name", ["loop", "x" * 300, "loop/below", "y" * 5000])
def test_path_that_leads_nowhere_is_the_clients_error(root: Path, name: str) -> None:
    (root / "loop").symlink_to(root / "loop")

    with pytest.raises(InvalidInput):
        Policy(str(root), SOME_MODES).directory(f"{root}/{name}")


def test_loop_outside_the_root_is_refused_like_anything_there(root: Path) -> None:
    outside = root.parent / "loop"
    outside.symlink_to(outside)

    with pytest.raises(CwdRefused):
        Policy(str(root), SOME_MODES).directory(str(outside))


async def test_directory_that_an_answer_adds_is_handed_on_as_it_was_looked_at(
    root: Path,
) -> None:
    (root / "link").symlink_to(root / "project")
    update = DirectoriesUpdate([f"{root}/link"])
    answer = PermissionResponse("toolu_1", "allow", updated_permissions=[update])

    await Policy(str(root), SOME_MODES).check_inbound(answer)

    assert update.directories == [str(root / "project")]
