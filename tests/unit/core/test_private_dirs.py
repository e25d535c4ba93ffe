from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from webkit_core import launcher, private_dirs
from webkit_core.environment import MARK
from webkit_core.errors import AgentStartError
from webkit_core.private_dirs import PrivateDir, StateDir
from webkit_core.process import PROC, start_time


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- one session's directory


async def test_directory_is_for_this_user_alone_and_named_after_the_server(
    state: StateDir,
) -> None:
    made = await state.make()

    assert mode_of(state.path) == mode_of(made.path) == 0o700
    assert made.path.parent == state.path
    assert made.path.name.startswith(f"{os.getpid()}-{start_time(os.getpid())}-")
    assert (made.path / "config").is_dir()
    assert (made.path / "tmp").is_dir()
    assert made.stderr.is_fifo()
    made.remove()


async def test_two_directories_are_two(state: StateDir) -> None:
    one, two = await asyncio.gather(state.make(), state.make())

    assert one.path != two.path
    one.remove()
    assert two.path.is_dir()
    two.remove()


async def test_removal_takes_all_that_is_inside_and_may_come_twice(
    state: StateDir,
) -> None:
    made = await state.make()
    (made.path / "config" / "deep").mkdir()
    (made.path / "config" / "deep" / "file").touch()
    (made.path / "tmp" / "link").symlink_to(state.path.parent)

    made.remove()
    made.remove()

    assert state.path.is_dir()
    assert list(state.path.iterdir()) == []


async def test_program_becomes_the_cli_by_way_of_the_launcher(
    state: StateDir, tmp_path: Path
) -> None:
    made = await state.make()
    cli = tmp_path / "it's a $CLI"
    cli.write_text('#!/bin/sh\necho "$1" "$SEEN" "${UNSEEN-nothing}"\n')
    cli.chmod(0o755)

    program = made.write_program("SEEN", str(cli))
    done = await asyncio.to_thread(
        subprocess.run,
        [str(program), "a 'b' $c"],
        env={"SEEN": "seen", "UNSEEN": "x"},
        check=True,
        capture_output=True,
    )

    assert done.stdout == b"a 'b' $c seen nothing\n"
    made.remove()


async def test_program_where_nothing_may_be_executed_names_the_setting(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await state.make()
    monkeypatch.setattr("os.access", lambda _path, _mode: False)

    with pytest.raises(AgentStartError, match="AGENT_WEBKIT_STATE_DIR") as caught:
        made.write_program("", "/bin/true")

    assert str(state.path) in str(caught.value)
    made.remove()


async def test_server_that_embeds_python_starts_agents_with_the_one_in_the_path(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await state.make()
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr("shutil.which", {"python3": "/usr/bin/python3"}.get)

    line = made.write_program("", "/bin/true").read_text().splitlines()[1]

    assert line.startswith(f"exec /usr/bin/python3 -I -S {launcher.__file__} ")
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(AgentStartError, match="python3"):
        made.write_program("", "/bin/true")
    made.remove()


async def test_creation_that_is_cancelled_leaves_no_directory(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, removed = threading.Event(), threading.Event(), threading.Event()

    class Slow(PrivateDir):
        def __init__(self, path: Path) -> None:
            begun.set()
            assert go.wait(10)
            super().__init__(path)

        def remove(self) -> None:
            super().remove()
            removed.set()

    monkeypatch.setattr(private_dirs, "PrivateDir", Slow)
    making = asyncio.ensure_future(state.make())
    assert await asyncio.to_thread(begun.wait, 10)

    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    go.set()

    assert await asyncio.to_thread(removed.wait, 10)
    assert list(state.path.iterdir()) == []


# --- the state directory


def test_default_is_this_users_in_the_directory_for_temporary_files() -> None:
    path = Path(tempfile.gettempdir()) / f"agent-webkit-{os.getuid()}"

    assert StateDir().path == StateDir("").path == path


def test_relative_path_is_made_absolute() -> None:
    """A session's working directory is another one."""
    assert StateDir("here").path == Path.cwd() / "here"


def refused(state: StateDir) -> str:
    with pytest.raises(AgentStartError, match="AGENT_WEBKIT_STATE_DIR") as swept:
        state.sweep()
    with pytest.raises(AgentStartError) as made:
        asyncio.run(state.make())
    assert str(made.value) == str(swept.value)
    return str(made.value)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_directory_that_others_may_write_to_is_refused(
    state: StateDir, mode: int
) -> None:
    state.path.mkdir()
    state.path.chmod(mode)

    assert "others may write" in refused(state)


def test_link_is_refused(state: StateDir, tmp_path: Path) -> None:
    """Somebody else may have laid it out in the directory for temporary files."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    state.path.symlink_to(tmp_path / "theirs")

    assert "a link or a file" in refused(state)


def test_directory_of_somebody_else_is_refused(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.path.mkdir(mode=0o700)
    monkeypatch.setattr("os.getuid", lambda: 4242)

    assert "somebody else" in refused(state)


def test_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "cannot keep agents' files" in refused(StateDir(tmp_path / "file" / "x"))
    assert "cannot keep agents' files" in refused(StateDir(tmp_path / "file"))


# --- what dead servers have left


def left_by(state: StateDir, pid: int, start: int) -> Path:
    """Make a directory as that server would."""
    path = state.path / f"{pid}-{start}-abcdefgh"
    (path / "config").mkdir(parents=True)
    state.path.chmod(0o700)
    (path / "lock").touch()
    return path


NOBODY = 2**22 + 1

linux_only = pytest.mark.skipif(not PROC.is_dir(), reason="there is no /proc")


@linux_only
def test_sweep_removes_what_dead_servers_left_and_nothing_else(
    state: StateDir,
) -> None:
    dead = left_by(state, NOBODY, 1)
    reused = left_by(state, os.getppid(), 1)
    mine = left_by(state, os.getpid(), start_time(os.getpid()))
    theirs = left_by(state, os.getppid(), start_time(os.getppid()))
    other = state.path / "something else"
    other.mkdir()
    (state.path / f"{NOBODY}-1-link").symlink_to(other)

    assert state.sweep() == 2

    assert not dead.exists()
    assert not reused.exists()
    assert {mine, theirs, other} < set(state.path.iterdir())
    assert state.sweep() == 0


def test_sweep_spares_a_server_it_cannot_see_by_its_lock(state: StateDir) -> None:
    """In another container, or where there is no ``/proc``."""
    path = left_by(state, NOBODY, 0)
    with (path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state.sweep() == 0
        assert path.exists()

    assert state.sweep() == 1
    assert not path.exists()


async def test_lock_is_held_for_as_long_as_the_directory_is_there(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_dirs, "start_time", lambda _pid: 0)
    made = await state.make()

    assert state.sweep() == 0
    assert made.path.exists()

    made.remove()
    left_by(state, NOBODY, 0)
    assert state.sweep() == 1


@linux_only
def test_sweep_kills_what_the_dead_server_has_started(state: StateDir) -> None:
    dead, living = left_by(state, NOBODY, 1), left_by(state, os.getpid(), 0)
    with (living / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan, other = (
            subprocess.Popen(["sleep", "600"], env={MARK: str(path)})
            for path in (dead, living)
        )
        try:
            state.sweep()

            assert orphan.wait(10) == -9
            assert other.poll() is None
        finally:
            for process in (orphan, other):
                process.kill()
                process.wait()
