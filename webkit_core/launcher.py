"""Runs instead of the Claude Code CLI, prepares its process, and becomes the CLI.

A program of its own, ``launcher.py SERVER_PID NAMES STDERR CLI ARGUMENT…``, so that
what it does happens between the server's fork and the CLI's first instruction:

- a session and process group of its own: a Ctrl-C meant for the server does not reach
  the agent, and the group can be killed with all that is in it;
- the parent-death signal, where the kernel has one: an agent in mid-turn does not
  outlive a server that was killed. SIGTERM, as the CLI then ends its children;
- no file descriptor of the server but the three it was given, the third of which it
  swaps for the pipe that the server reads standard error from;
- an environment of the names that are allowed, and of no others;
- signals as a program expects them: Python ignores SIGPIPE, and so would the CLI.

Rules: standard library only and as little of it as will do, as every session waits for
it; it ends by exec, so that its pid is the CLI's.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1
NEVER = "AGENT_WEBKIT_"
"""The server's own settings, its tokens among them, are for no agent's eyes."""

MOST_FILES = 65_536
"""How far to look where nothing tells which are open: the limit may be 2 ** 30."""

CANNOT_START = 126
"""The shell's exit code for a program that is there and cannot be run."""


def main(arguments: list[str]) -> None:
    """Prepare this process and become the CLI; exits where that cannot be."""
    server_pid, names, stderr, cli = arguments[:4]
    os.setsid()
    redirect_stderr(stderr)
    close_files()
    die_with(int(server_pid))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    environment = allowed(dict(os.environ), names.split(","))
    try:
        os.execve(cli, [cli, *arguments[4:]], environment)  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"cannot run {cli}: {error.strerror}\n")
        sys.exit(CANNOT_START)


def redirect_stderr(path: str) -> None:
    """Let standard error go where the server reads it."""
    try:
        # Opening a pipe that nobody reads would wait for a reader, for ever.
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # nobody reads it
        fd = os.open(os.devnull, os.O_WRONLY)
    os.set_blocking(fd, True)
    os.dup2(fd, 2)


def close_files() -> None:
    """Close every file descriptor above the first three."""
    try:
        open_files = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        open_files = [*range(os.sysconf("SC_OPEN_MAX"))[:MOST_FILES]]
    for fd in open_files:
        if fd > 2:
            try:
                os.close(fd)
            except OSError:  # the one that read the directory
                pass


def die_with(server_pid: int) -> None:
    """Be asked to end when the server is gone; end now if it is gone already."""
    if sys.platform == "linux":
        try:
            import ctypes

            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        except (ImportError, OSError, AttributeError):
            pass  # then the end of its input has to do, and the next server's sweep
    if os.getppid() != server_pid:
        sys.exit("the server is gone")


def allowed(environment: dict[str, str], names: list[str]) -> dict[str, str]:
    """Return the variables that ``names`` allow; a trailing ``*`` makes a prefix."""
    exact = {name for name in names if not name.endswith("*")}
    prefixes = tuple(name[:-1] for name in names if name.endswith("*"))
    return {
        name: value
        for name, value in environment.items()
        if (name in exact or name.startswith(prefixes)) and not name.startswith(NEVER)
    }


if __name__ == "__main__":
    main(sys.argv[1:])
