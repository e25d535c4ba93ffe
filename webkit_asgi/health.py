"""Readiness: whether new sessions may be sent here, and if not, why.

Liveness is another matter, and has no part in this: it asks nobody.

Rules: every check has a name and a deadline, all run at the same time, and one that
hangs is a reason like any other. The answer needs no token, so it names the check and
says no more than we said ourselves; what another's check raised is in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from webkit_core import Unavailable, WebkitError

logger = logging.getLogger(__name__)

Check = Callable[[], Awaitable[object]]
"""Returns when all is well; raises when it is not."""

CHECK_TIMEOUT_S: Final = 2.0


class Starting(Unavailable):
    """The server is still starting."""

    code = "starting"

    def __str__(self) -> str:
        return "Server is starting"


class NotReady(Unavailable):
    """A check says that sessions could not be served."""

    code = "not_ready"


class Readiness:
    """See the module.

    Args:
        checks: by name; a store adds its own.
        timeout_s: how long each may take.
    """

    def __init__(
        self, checks: Mapping[str, Check], timeout_s: float = CHECK_TIMEOUT_S
    ) -> None:
        self._checks = dict(checks)
        self._timeout_s = timeout_s

    async def run(self) -> list[str]:
        """Return the names of all checks when each of them is content.

        Raises:
            NotReady: at least one is not; the text names it.
        """
        reasons = await asyncio.gather(
            *(self._reason(name, check) for name, check in self._checks.items())
        )
        if any(reasons):
            raise NotReady("; ".join(reason for reason in reasons if reason))
        return list(self._checks)

    async def _reason(self, name: str, check: Check) -> str:
        try:
            async with asyncio.timeout(self._timeout_s):
                await check()
        except TimeoutError:
            return f"{name}: no answer within {self._timeout_s:g} s"
        except WebkitError as error:
            return f"{name}: {error}"
        except Exception:
            logger.exception("readiness check %s failed", name)
            return f"{name}: failed; the log says why"
        return ""
