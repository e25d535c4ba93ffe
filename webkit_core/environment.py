"""Which of the server's variables an agent gets to see, and which are set for it.

An agent runs commands, and what is in its environment it can read and send away: a
database's password, a cloud's key. So it is given what programs need to run and what
the CLI is configured with, by name, and nothing else.

Rules: a name that ends in ``*`` is a prefix; nothing of ``AGENT_WEBKIT_*`` is ever
handed on, whoever asks for it. The launcher enforces both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from .errors import ConfigError

MARK: Final = "WEBKIT_AGENT_DIR"
"""The variable that marks a CLI and all it starts: its session's private directory."""

ALLOWED: Final = (
    # what programs need to run at all
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TERM"),
    *("TMPDIR", "PWD", "XDG_*"),
    # the way out
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    # what the CLI is configured with, and what the SDK tells it
    *("ANTHROPIC_*", "CLAUDE_*", "DISABLE_*", "MCP_*", "BASH_*"),
    *("API_TIMEOUT_MS", "IS_SANDBOX", "TRACEPARENT", "TRACESTATE"),
    MARK,
)
"""What is handed on without being asked for."""


def allowed_names(given: Iterable[str], asked_for: Iterable[str]) -> str:
    """Return the names that an agent may see, as the launcher takes them.

    Args:
        given: variables that are set for agents.
        asked_for: names and prefixes that the embedder wants handed on.

    Raises:
        ConfigError: one of them is no name of a variable.
    """
    names = (*ALLOWED, *given, *asked_for)
    for name in names:
        if not name or set(name) & set(",= \0") or "*" in name[:-1]:
            raise ConfigError(f"{name!r} is no name of an environment variable")
    return ",".join(dict.fromkeys(names))


def private_environment(
    directory: Path, given: Mapping[str, str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that keep an agent's files in its own directory.

    Args:
        directory: the session's.
        given: what is set for agents; it comes first.
        inherited: what they take from the server because that was asked for by name.
    """
    ours = {
        "CLAUDE_CONFIG_DIR": str(directory / "config"),
        "CLAUDE_CODE_TMPDIR": str(directory / "tmp"),
        # It would be written for a next session that never sees it.
        "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    kept = {name: value for name, value in ours.items() if name not in inherited}
    return {**kept, **given, MARK: str(directory)}
