"""What a client may ask for: the directories and the permission modes of this server.

Rules: a working directory is looked at with its symbolic links resolved, and has to lie
in the root; a mode has to be one of those that the operator has named. What is refused
here is refused by policy (403), and says which setting it was.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final, get_args

from webkit_core import (
    ConfigError,
    Inbound,
    InvalidInput,
    PermissionMode,
    PermissionResponse,
    Refused,
    SetPermissionMode,
)
from webkit_core.protocol import DirectoriesUpdate, ModeUpdate

CWD_ROOT_VARIABLE: Final = "AGENT_WEBKIT_CWD_ROOT"
MODES_VARIABLE: Final = "AGENT_WEBKIT_PERMISSION_MODES"

MODES: Final[tuple[str, ...]] = get_args(PermissionMode)


class CwdRefused(Refused):
    """The directory is outside the root."""

    code = "cwd_refused"

    def __str__(self) -> str:
        return "`cwd` is not within the directory that this server allows"


class PermissionModeRefused(Refused):
    """The mode is none of those that are allowed."""

    code = "permission_mode_refused"

    def __init__(self, mode: str, allowed: tuple[str, ...]) -> None:
        super().__init__(mode, allowed)
        self.mode = mode
        self.allowed = allowed

    def __str__(self) -> str:
        return (
            f"permission mode {self.mode!r} is not allowed on this server; it allows"
            f" {', '.join(self.allowed)}"
        )


class Policy:
    """See the module.

    Args:
        cwd_root: sessions work in here; empty is the server's working directory.
        permission_modes: what clients may ask for, separated by commas.

    Raises:
        ConfigError: the root is no directory, or a mode is none.
    """

    def __init__(self, cwd_root: str, permission_modes: str) -> None:
        root = cwd_root or os.path.realpath(os.curdir)
        if not os.path.isabs(root) or not os.path.isdir(root):
            raise ConfigError(
                f"{CWD_ROOT_VARIABLE}={cwd_root!r}: must be the absolute path of a"
                " directory"
            )
        self.root = os.path.realpath(root)
        self.default_directory = self.root if cwd_root else None
        """Where sessions work that do not say; None is for their factory to decide."""
        self.modes = tuple(
            mode for part in permission_modes.split(",") if (mode := part.strip())
        )
        for mode in self.modes:
            if mode not in MODES:
                raise ConfigError(
                    f"{MODES_VARIABLE}: {mode!r} is no permission mode; they are"
                    f" {', '.join(MODES)}"
                )

    def check_mode(self, mode: str | None) -> None:
        """Check a mode that a client asks for; None asks for none.

        Raises:
            PermissionModeRefused: it is not among those allowed.
        """
        if mode is not None and mode not in self.modes:
            raise PermissionModeRefused(mode, self.modes)

    async def check_inbound(self, message: Inbound) -> None:
        """Check what a message would change of its session.

        Raises:
            PermissionModeRefused, CwdRefused, InvalidInput: it asks for too much.
        """
        match message:
            case SetPermissionMode(mode=mode):
                self.check_mode(mode)
            case PermissionResponse(updated_permissions=updates):
                for update in updates or ():
                    if isinstance(update, ModeUpdate):
                        self.check_mode(update.mode)
                    elif type(update) is DirectoriesUpdate:
                        # What was looked at is what is handed on.
                        update.directories = [
                            await asyncio.to_thread(self.directory, directory)
                            for directory in update.directories
                        ]

    def directory(self, cwd: str) -> str:
        """Return a directory with its symbolic links resolved. Reads the disk.

        Raises:
            InvalidInput: it is no absolute path, or no directory.
            CwdRefused: it is outside the root.
        """
        if not os.path.isabs(cwd) or "\0" in cwd:
            raise InvalidInput("`cwd` is not an absolute path")
        # From os.path, which takes loops of links and endless names for what they are.
        path = os.path.realpath(cwd)
        # The root before the existence: what lies outside is nobody's business.
        if path != self.root and not path.startswith(os.path.join(self.root, "")):
            raise CwdRefused
        if not os.path.isdir(path):
            raise InvalidInput("`cwd` is not a directory on this server")
        return path
