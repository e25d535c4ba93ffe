"""A server that ends when its flag is set, as ``uvicorn.Server`` does."""

from __future__ import annotations

from types import FrameType


class Uvicorn:
    """Its flags, and the signals that its own handler has seen."""

    def __init__(self) -> None:
        self.should_exit = False
        self.force_exit = False
        self.seen: list[int] = []

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        self.seen.append(number)

    @property
    def flags(self) -> tuple[bool, bool]:
        return self.should_exit, self.force_exit
