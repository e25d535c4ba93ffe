"""A real server in a process of its own, as an operator starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
TOKEN = "a-token-for-tests"
START_S = 60.0
RUNNING = "Uvicorn running on "


class ServerProcess:
    """``uvicorn webkit_asgi:app`` with its output collected."""

    def __init__(self, command: list[str], env: Mapping[str, str], cwd: Path) -> None:
        self.lines: list[str] = []
        self.url = ""
        self._up = threading.Event()
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_up(self) -> None:
        assert self._up.wait(START_S), self.output
        assert self.url, f"the server did not start:\n{self.output}"

    def wait_ended(self, timeout_s: float) -> int:
        """Return the exit code; all output has been read then."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def descendants(self) -> list[psutil.Process]:
        """Return every process below the server: the CLIs and what they started."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def named(self, name: str) -> list[psutil.Process]:
        """Return those of them that run a program of that name."""
        found = []
        for process in self.descendants():
            try:
                if name in process.name():
                    found.append(process)
            except psutil.NoSuchProcess:  # it has just ended
                pass
        return found

    def stop(self, timeout_s: float = 30.0) -> int:
        """Send SIGTERM and return the exit code; SIGKILL when it does not end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self.wait_ended(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self.lines.append(line)
                if RUNNING in line:
                    self.url = line.split(RUNNING)[1].split()[0]
                    self._up.set()
        self._up.set()


def server_env(model_env: Mapping[str, str], **settings: str) -> dict[str, str]:
    """Return the environment of a server: ours, without settings left lying about."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("AGENT_WEBKIT_")}
    return {
        **env,
        **model_env,
        "PYTHONPATH": str(REPOSITORY),
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "AGENT_WEBKIT_AUTH_TOKEN": TOKEN,
        # Tests have directories of their own all over the machine.
        "AGENT_WEBKIT_CWD_ROOT": "/",
        # Nobody is there whose sessions a test's server would have to wait for.
        "AGENT_WEBKIT_DRAIN_TIMEOUT_S": "0",
        **settings,
    }


def start_server(
    env: Mapping[str, str], cwd: Path, app: str = "webkit_asgi:app"
) -> ServerProcess:
    """Start uvicorn on a free loopback port; the caller waits and stops."""
    command = [sys.executable, "-m", "uvicorn", app, "--port", "0"]
    return ServerProcess(command, env, cwd)


@contextmanager
def running_server(
    env: Mapping[str, str], cwd: Path, app: str = "webkit_asgi:app"
) -> Iterator[ServerProcess]:
    """Run a server; on the way out, check that it ended well and left nothing."""
    server = start_server(env, cwd, app)
    try:
        server.wait_up()
        yield server
        below = server.descendants()
        server.stop()
        _, alive = psutil.wait_procs(below, timeout=5)
        assert not alive, f"left behind: {alive}"
        for sign in ("Traceback", "never retrieved", "was destroyed", "never awaited"):
            assert sign not in server.output, server.output
    finally:
        if server.descendants() or psutil.pid_exists(server.pid):
            for process in server.descendants():
                process.kill()
            server.stop()
