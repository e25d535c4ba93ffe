"""The engine: sessions, their event logs and their subscribers; knows no HTTP.

Start with :class:`SessionRegistry`. What is exported here is public and stays; modules
may move.
"""

from __future__ import annotations

from .agent import Agent, CanUseTool, Killable, SdkFactory, SessionConfig
from .broadcast import Broadcast, Subscriber
from .claude import ClaudeFactory, import_sdk
from .claude_permissions import build_can_use_tool
from .codec import decode_create, decode_inbound, encode_payload
from .errors import (
    AgentError,
    AgentRefused,
    AgentStartError,
    AgentTimeout,
    BackpressureError,
    CapacityExceeded,
    ConfigError,
    ConflictError,
    CursorAheadError,
    CursorError,
    Draining,
    EvictedError,
    InvalidCursor,
    InvalidInput,
    InvalidTransition,
    LogClosed,
    MalformedJSON,
    Refused,
    SessionClosed,
    SessionExists,
    SessionExpired,
    SessionFailed,
    SessionNotFound,
    StartQueueTimeout,
    TooManySessions,
    Unavailable,
    UnknownType,
    WebkitError,
)
from .event_log import EventLog, LoggedEvent, Sample
from .gauges import Traffic
from .lifecycle import State
from .limits import Deadlines, Limits
from .permissions import Allow, Decision, Deny, PermissionRouter, Request
from .protocol import (
    DEFAULT_DELTAS,
    PROTOCOL_VERSION,
    CreateSession,
    Inbound,
    Interrupt,
    PermissionMode,
    PermissionResponse,
    QuestionResponse,
    SetModel,
    SetPermissionMode,
    StopTask,
    UserMessage,
)
from .registry import SessionRegistry
from .rules import Policy, Ruling
from .session import Session
from .telemetry import Telemetry, telemetry_for
from .translate import Translator, translate_sdk_messages

__all__ = (
    "DEFAULT_DELTAS",
    "PROTOCOL_VERSION",
    "Agent",
    "AgentError",
    "AgentRefused",
    "AgentStartError",
    "AgentTimeout",
    "Allow",
    "BackpressureError",
    "Broadcast",
    "CanUseTool",
    "CapacityExceeded",
    "ClaudeFactory",
    "ConfigError",
    "ConflictError",
    "CreateSession",
    "CursorAheadError",
    "CursorError",
    "Deadlines",
    "Decision",
    "Deny",
    "Draining",
    "EventLog",
    "EvictedError",
    "Inbound",
    "Interrupt",
    "InvalidCursor",
    "InvalidInput",
    "InvalidTransition",
    "Killable",
    "Limits",
    "LogClosed",
    "LoggedEvent",
    "MalformedJSON",
    "PermissionMode",
    "PermissionResponse",
    "PermissionRouter",
    "Policy",
    "QuestionResponse",
    "Refused",
    "Request",
    "Ruling",
    "Sample",
    "SdkFactory",
    "Session",
    "SessionClosed",
    "SessionConfig",
    "SessionExists",
    "SessionExpired",
    "SessionFailed",
    "SessionNotFound",
    "SessionRegistry",
    "SetModel",
    "SetPermissionMode",
    "StartQueueTimeout",
    "State",
    "StopTask",
    "Subscriber",
    "Telemetry",
    "TooManySessions",
    "Traffic",
    "Translator",
    "Unavailable",
    "UnknownType",
    "UserMessage",
    "WebkitError",
    "build_can_use_tool",
    "decode_create",
    "decode_inbound",
    "encode_payload",
    "import_sdk",
    "telemetry_for",
    "translate_sdk_messages",
)
