from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from webkit_core import launcher
from webkit_core.launcher import CANNOT_START, NEVER, allowed

REPORT = """
import json, os, sys
print(json.dumps({
    "arguments": sys.argv[1:],
    "environment": dict(os.environ),
    "files": sorted(int(name) for name in os.listdir("/dev/fd")),
    "ids": [os.getpid(), os.getpgrp(), os.getsid(0)],
}))
"""


@pytest.fixture
def cli(tmp_path: Path) -> str:
    """A program that tells what it was started with."""
    path = tmp_path / "cli"
    path.write_text(f"#!{sys.executable} -IS\n{REPORT}")
    path.chmod(0o755)
    return str(path)


def command(*arguments: str, server: int | None = None, stderr: str = "") -> list[str]:
    pid = os.getpid() if server is None else server
    program = [sys.executable, "-I", "-S", launcher.__file__]
    return [*program, str(pid), "PATH,ONE_*", stderr or os.devnull, *arguments]


def launch(*arguments: str, **options: Any) -> dict[str, Any]:
    """Run the launcher to the end of what it became; return what that told."""
    done = subprocess.run(
        command(*arguments), check=True, capture_output=True, text=True, **options
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_arguments_reach_the_cli_as_they_are(cli: str) -> None:
    arguments = ["--flag", "", "a b", "$HOME 'x' \"y\"", "-c", "ü\n"]

    assert launch(cli, *arguments)["arguments"] == arguments


def test_cli_leads_a_session_and_a_group_of_its_own(cli: str) -> None:
    pid, group, session = launch(cli)["ids"]

    assert pid == group == session != os.getsid(0)


def test_cli_sees_the_variables_that_are_allowed(cli: str) -> None:
    env = {"PATH": "/bin", "ONE_X": "1", "ONE": "2", "TWO": "3", f"{NEVER}T": "4"}

    seen = launch(cli, env=env)["environment"]

    assert {name: seen[name] for name in seen if name in env} == {
        "PATH": "/bin",
        "ONE_X": "1",
    }


def test_cli_has_three_files_open(cli: str) -> None:
    """What it opens to tell is one more."""
    inherited = os.open(os.devnull, os.O_RDONLY)
    try:
        report = launch(cli, close_fds=False, pass_fds=())
        os.set_inheritable(inherited, True)
        with_one = launch(cli, close_fds=False)
    finally:
        os.close(inherited)

    assert with_one["files"] == report["files"] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["PIPE", "XFSZ"])
def test_cli_ignores_no_signal(name: str) -> None:
    """Python ignores these, and a program's commands would inherit that."""
    code = f"ulimit -c 0; kill -s {name} $$; echo survived"
    done = subprocess.run(
        command("/bin/sh", "-c", code), check=False, capture_output=True
    )

    assert done.returncode == -getattr(signal, f"SIG{name}")
    assert done.stdout == b""


def test_standard_error_goes_to_the_pipe_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        subprocess.run(
            command("/bin/sh", "-c", "echo lost >&2", stderr=str(path)), check=True
        )
        assert os.read(reader, 100) == b"lost\n"
    finally:
        os.close(reader)


def test_standard_error_that_nobody_reads_is_no_reason_to_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stderr")

    done = subprocess.run(
        command("/bin/sh", "-c", "echo lost >&2", stderr=str(tmp_path / "stderr")),
        check=True,
        timeout=30,
        capture_output=True,
    )

    assert done.stderr == b""


@pytest.mark.parametrize("mode", [None, 0o644], ids=["missing", "not executable"])
def test_cli_that_cannot_run_is_an_exit_code_and_a_word(
    tmp_path: Path, mode: int | None
) -> None:
    path = tmp_path / "cli"
    if mode is not None:
        path.touch(mode)
    log = tmp_path / "log"
    log.touch()

    done = subprocess.run(command(str(path), stderr=str(log)), check=False)

    assert done.returncode == CANNOT_START
    assert f"cannot run {path}" in log.read_text()


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel has none")

SERVER = """
import os, subprocess, sys
arguments = [argument.replace("PID", str(os.getpid())) for argument in sys.argv[1:]]
process = subprocess.Popen(arguments)
print(process.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A process, and what it has started through the launcher."""
    arguments = ["PID" if a == "0" else a for a in command("sleep", server=0)]
    arguments[-1] = "/bin/sh"
    arguments += ["-c", "echo up; exec sleep 600"]
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = {process.stdout.readline(), process.stdout.readline()} - {"up\n"}
        child = psutil.Process(int(lines.pop()))
        yield process, child
        process.kill()
        if child.is_running():
            child.kill()


@linux_only
def test_cli_is_asked_to_end_when_its_server_is_killed(
    server: tuple[subprocess.Popen[str], psutil.Process],
) -> None:
    process, child = server
    assert child.is_running()

    process.kill()

    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_launcher_of_a_server_that_is_gone_starts_nothing(cli: str) -> None:
    done = subprocess.run(command(cli, server=1), check=False, capture_output=True)

    assert done.returncode != 0
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("names", "seen"),
    [
        ([], []),
        (["A"], ["A"]),
        (["A*"], ["A", "AB"]),
        (["*"], ["A", "AB", "B"]),
        ([NEVER + "X", NEVER + "*"], []),
    ],
)
def test_allowed_names_are_exact_or_prefixes_and_never_the_servers_own(
    names: list[str], seen: list[str]
) -> None:
    environment = dict.fromkeys(["A", "AB", "B", NEVER + "X"], "x")

    assert sorted(allowed(environment, names)) == seen


def test_signals_are_those_that_python_changes() -> None:
    """As long as these are all, nothing else needs to be put back."""
    code = "import signal\nfor s in signal.valid_signals():\n"
    code += "    if signal.getsignal(s) == signal.SIG_IGN: print(s.name)"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code], check=True, capture_output=True, text=True
    )

    ignored = {getattr(signal, name) for name in done.stdout.split()}
    assert ignored <= {signal.SIGPIPE, signal.SIGXFSZ}
