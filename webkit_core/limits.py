"""What one session may hold, and how long its agent may take."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """What one session may hold."""

    buffer_events: int = 1000
    buffer_bytes: int = 4 * 1024 * 1024
    queued_messages: int = 32
    queued_chars: int = 32 * 1024 * 1024
    """What the queued messages may be long together; images are in them."""
    wake_interval_s: float = 0.002
    """How fast subscribers are woken at most: a burst reaches them in few sends."""


class Deadlines(Struct, frozen=True, kw_only=True):
    """How long the agent may take, in seconds, before it is given up on."""

    connect_s: float = 60.0
    connect_cancel_s: float = 20.0
    """The SDK's own clean-up of a failed start takes up to 15 s."""
    control_s: float = 30.0
    interrupt_s: float = 10.0
    interrupt_again_s: float = 0.5
    """When an interrupt that had no effect is sent again."""
    close_turn_s: float = 2.5
    """How long closing waits for an interrupted turn's result."""
    disconnect_s: float = 2.0
    turn_silence_s: float = 900.0
    """How long a turn may be silent: the CLI's own time-out for the model is 600 s."""
    tool_silence_s: float = 3600.0
    """The same while a tool runs."""
    permission_s: float = 3600.0
    """How long people may take to answer; then it is denied."""
