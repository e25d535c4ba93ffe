"""OTLP set up the standard way: the README's command, a real turn, a collector."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.client import SessionClient, new_http, new_session
from tests.integration.server import server_env
from webkit_asgi.scripted_model import script

from .collector import Collector, attributes_of, collecting
from .examples import marked, on_any_port, parse_command
from .running import running

END_S = 10.0
PAUSE_S = 0.3
SESSIONS = "agent_webkit.sessions"
WINNER = "agent_webkit.permissions.first_reply_winner"
TURN = "agent_webkit.turn.duration"


async def scraped(http: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    """Return what ``GET /metrics`` says, by name and the value of the one label."""
    text = (await http.get("/metrics")).text
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def turn_with_a_permission(session: SessionClient) -> float:
    """Do a turn that a subscriber called ``tab-1`` allows; return what it took."""
    tool = {"tool": "Bash", "input": {"command": "touch made"}}
    async with session.stream() as stream:
        began_s = time.monotonic()
        await session.say(script([{"pause": PAUSE_S}, tool], [{"say": "done"}]))
        request = await stream.until("permission_request")
        reply = {
            "type": "permission_response",
            "correlation_id": request.data["correlation_id"],
            "behavior": "allow",
        }
        response = await session.post(reply, x_subscriber_id="tab-1")
        assert response.status_code == 204
        await stream.until("session_state", after=request.id, state="idle")
        return time.monotonic() - began_s


def only(spans: list[Span]) -> Span:
    (span,) = spans
    return span


def assert_spans(collector: Collector, session_id: str) -> None:
    create, turn, permission = (
        only(collector.spans[name]) for name in ("create", "turn", "permission")
    )
    assert create.parent_span_id == turn.parent_span_id == b""
    assert create.trace_id != turn.trace_id
    assert permission.parent_span_id == turn.span_id
    assert permission.trace_id == turn.trace_id
    for span in (create, turn, permission):
        assert attributes_of(span)["session_id"] == session_id
    assert attributes_of(turn)["outcome"] == "success"
    assert attributes_of(permission)["outcome"] == "allow"
    assert attributes_of(permission)["tool_name"] == "Bash"


async def test_metrics_and_spans_arrive_and_a_scrape_says_the_same(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    code = marked("otlp")
    assert code.startswith("OTEL_")
    variables, command = parse_command(code)
    with collecting() as collector:
        env = server_env(
            model_env,
            **variables
            | {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_METRIC_EXPORT_INTERVAL": "200",
                "OTEL_BSP_SCHEDULE_DELAY": "200",
            },
        )
        with running(on_any_port(command), env, tmp_path) as server:
            async with new_http(server.url) as http:
                session = await new_session(http)
                took_s = await turn_with_a_permission(session)
                await asyncio.to_thread(
                    collector.until,
                    lambda: (
                        "turn" in collector.spans
                        and collector.point(TURN, outcome="success")
                        and collector.number(f"{SESSIONS}.live") == 1
                    ),
                )
                turn = collector.point(TURN, outcome="success")
                assert turn.count == 1
                assert PAUSE_S <= turn.sum <= took_s
                assert collector.number(f"{SESSIONS}.created") == 1
                assert collector.number(WINNER, subscriber_id="tab-1") == 1
                assert_spans(collector, session.id)

                says = await scraped(http)
                assert says["agent_webkit_sessions_created_total", ""] == 1
                assert says["agent_webkit_sessions_live", ""] == 1
                winner = "agent_webkit_permissions_first_reply_winner_total"
                assert says[winner, "tab-1"] == 1
                took = "agent_webkit_turn_duration_seconds"
                assert says[f"{took}_count", "success"] == 1
                assert says[f"{took}_sum", "success"] == turn.sum

            os.kill(server.pid, signal.SIGTERM)
            assert await asyncio.to_thread(server.wait_ended, END_S) == 0
            assert "Traceback" not in server.output

    # What it had not exported yet, it does in the end.
    lived = [attributes_of(span)["live_sessions"] for span in collector.spans["drain"]]
    assert max(lived) == 1
    assert attributes_of(only(collector.spans["evict"]))["reason"] == "drain"
    assert collector.number(f"{SESSIONS}.evicted", reason="drain") == 1
    assert collector.number(f"{SESSIONS}.live") == 0
    assert collector.services == {"agents"}
