"""Let other tasks run, without a clock."""

from __future__ import annotations

import asyncio


async def settle() -> None:
    """Give every task that can run the turns it needs; no real time passes."""
    for _ in range(8):
        await asyncio.sleep(0)


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop that runs one turn when told to, and whose clock is set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.errors: list[str] = []
        self.set_exception_handler(
            lambda _loop, context: self.errors.append(str(context["message"]))
        )

    def time(self) -> float:
        return self.now_s

    def turn(self, times: int = 1) -> None:
        """Run what is ready now, and what is due."""
        for _ in range(times):
            self.call_soon(self.stop)
            self.run_forever()
