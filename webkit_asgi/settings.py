"""Settings: what an operator may set, from the environment.

Rules: every setting has a variable ``AGENT_WEBKIT_<NAME>``, a unit in its name and a
default that is safe; a bad value stops the start with a line that names the variable,
its value and what would do. A variable nobody knows is reported, as it is most likely
a typing error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Annotated, Final, get_args

import msgspec
from msgspec import Meta, Struct

from webkit_core import ConfigError

from .auth import AUTH_VARIABLES
from .logs import LogFormat

logger = logging.getLogger(__name__)

PREFIX: Final = "AGENT_WEBKIT_"
DEMO_VARIABLE: Final = "AGENT_WEBKIT_DEMO"

_DAY_S: Final = 86_400.0

_Seconds = Annotated[float, Meta(ge=0.001, le=365 * _DAY_S)]
_Count = Annotated[int, Meta(ge=1)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The server's settings, with their defaults.

    Attributes:
        idle_timeout_s: a session that nobody uses for so long is closed.
        buffer_events: events a session holds for resume.
        buffer_bytes: bytes of events a session holds for resume.
        keepalive_s: a comment is sent on a stream that was quiet for so long.
        send_timeout_s: a stream that takes nothing for so long is given up.
        max_sessions: sessions that are live at most.
        max_body_bytes: longest request body that is read.
        queued_messages: messages a session queues behind the running turn.
        concurrent_starts: sessions that start at a time; 0 is the number of cores.
        start_queue_s: how long a new session waits for its turn to start.
        drain_timeout_s: how long sessions may go on when the server is to end.
        body_timeout_s: how long a request may take to send its body.
        max_sessions_per_user: live sessions of one user at most; 0 is all.
        inputs_per_s: inputs of one user a second, on average; 0 is without limit.
        max_streams: streams that are open at most.
        permission_timeout_s: a permission nobody gives in so long is denied.
        turn_silence_s: a turn in which nothing happens for so long is stopped.
        tool_silence_s: the same while a tool runs.
        cwd_root: sessions work in here; empty is the server's working directory.
        permission_modes: those that clients may ask for, separated by commas.
        state_dir: where each session has a directory of its own while it lives; empty
            is one in the directory for temporary files.
        agent_env: variables of the server's that agents get besides the usual ones,
            separated by commas; a trailing ``*`` makes a prefix.
        cors_origins: pages that may talk to the server, separated by commas.
        log_format: ``text``, or ``json`` for one object per line.
        demo: run with a scripted model instead of a real one.
    """

    idle_timeout_s: _Seconds = 300.0
    buffer_events: _Count = 1000
    buffer_bytes: _Count = 4 * 1024 * 1024
    keepalive_s: _Seconds = 15.0
    send_timeout_s: _Seconds = 60.0
    max_sessions: _Count = 100
    max_body_bytes: _Count = 16 * 1024 * 1024
    queued_messages: _Count = 32
    concurrent_starts: Annotated[int, Meta(ge=0)] = 0
    start_queue_s: _Seconds = 30.0
    drain_timeout_s: Annotated[float, Meta(ge=0, le=365 * _DAY_S)] = 600.0
    body_timeout_s: _Seconds = 30.0
    max_sessions_per_user: Annotated[int, Meta(ge=0)] = 0
    inputs_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] = 100.0
    max_streams: _Count = 10_000
    permission_timeout_s: _Seconds = 3600.0
    turn_silence_s: _Seconds = 900.0
    tool_silence_s: _Seconds = 3600.0
    cwd_root: str = ""
    permission_modes: str = "default,acceptEdits,plan,dontAsk,auto"
    state_dir: str = ""
    agent_env: str = ""
    cors_origins: str = ""
    log_format: LogFormat = "text"
    demo: bool = False

    def checked(self) -> Settings:
        """Return these settings if they can be served with.

        Raises:
            ConfigError: one is out of range; the text names it.
        """
        try:
            return msgspec.convert(msgspec.structs.asdict(self), Settings)
        except msgspec.ValidationError as error:
            raise ConfigError(f"Settings: {error}") from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings that the ``AGENT_WEBKIT_*`` variables make.

        Raises:
            ConfigError: a variable has a bad value; the text names it.
        """
        environ = os.environ if environ is None else environ
        known = {PREFIX + name.upper(): name for name in cls.__struct_fields__}
        given = {name: environ[var] for var, name in known.items() if environ.get(var)}
        others = set(AUTH_VARIABLES)
        for variable in environ:
            if variable.startswith(PREFIX) and variable not in known.keys() | others:
                logger.warning("unknown variable %s is ignored", variable)
        for name, text in given.items():
            # One at a time, so that the error can name the variable.
            try:
                msgspec.convert({name: text}, cls, strict=False)
            except (msgspec.ValidationError, UnicodeEncodeError) as error:
                reason = str(error).partition(" - at ")[0].replace("`", "")
                if "enum value" in reason:
                    reason = f"Must be one of {', '.join(get_args(LogFormat))}"
                raise ConfigError(
                    f"{PREFIX}{name.upper()}={text!r}: {reason[0].lower()}{reason[1:]}"
                ) from None
        return msgspec.convert(given, cls, strict=False)
