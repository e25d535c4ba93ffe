"""Activity: what an agent has begun and not ended: tools, background tasks.

Told by the events that clients see too; pure. Rule: what ends is forgotten, and the end
of a turn ends its tools, whether or not each has said so.
"""

from __future__ import annotations

from .protocol import Event, TaskStatus, ToolResult, ToolUse
from .translate import TASK_ENDED


class Activity:
    """See the module."""

    __slots__ = ("_background", "_tools")

    def __init__(self) -> None:
        # None before the first: an empty set takes 216 bytes of every session.
        self._tools: set[str] | None = None
        self._background: set[str] | None = None

    @property
    def tools(self) -> int:
        """How many tools were called that have given nothing back yet."""
        return len(self._tools or ())

    @property
    def in_background(self) -> bool:
        """Whether a background task runs."""
        return bool(self._background)

    def announced(self, tool_use_id: str) -> bool:
        """Return whether that tool has been called, and runs or waits."""
        return tool_use_id in (self._tools or ())

    def note(self, event: Event) -> None:
        """Take an event."""
        match event:
            case ToolUse(tool_use_id=tool_use_id):
                self._tools = (self._tools or set()) | {tool_use_id}
            case ToolResult(tool_use_id=tool_use_id):
                self._tools = (self._tools or set()) - {tool_use_id}
            case TaskStatus(task_id=task_id, status=status):
                if status in TASK_ENDED:
                    self._background = (self._background or set()) - {task_id}
                elif status == "running":
                    self._background = (self._background or set()) | {task_id}

    def turn_ended(self) -> None:
        """Forget the tools of a turn that has ended; some never say so."""
        self._tools = None
