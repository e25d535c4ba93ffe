"""What an operator relies on: the cap, the drain, what a scrape says."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from webkit_asgi.scripted_model import script

from .client import SessionClient, Stream, message_ended, new_http, new_session
from .server import TOKEN, ServerProcess, running_server, server_env

ADMIN_TOKEN = "a-token-for-operators"
BASH = {"tool": "Bash", "input": {"command": "echo made > made"}}


def with_token(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def live(http: httpx.AsyncClient) -> int:
    return int((await http.get("/healthz")).json()["live_sessions"])


# --- the cap


async def test_cap_holds_when_ten_times_as_many_come_at_once(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(
        model_env, AGENT_WEBKIT_MAX_SESSIONS="20", AGENT_WEBKIT_START_QUEUE_S="120"
    )
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            answers = await asyncio.gather(
                *(http.post("/sessions", timeout=120) for _ in range(200))
            )
            created = [a for a in answers if a.status_code == 200]
            refused = [a for a in answers if a.status_code == 503]
            assert (len(created), len(refused)) == (20, 180)
            for answer in refused:
                assert answer.json() == {
                    "detail": "Server at capacity",
                    "code": "at_capacity",
                }
                assert int(answer.headers["retry-after"]) > 0
            assert await live(http) == 20
            await asyncio.gather(
                *(http.delete(f"/sessions/{a.json()['session_id']}") for a in created)
            )
            assert await live(http) == 0
            assert server.descendants() == []
            assert (await http.post("/sessions")).status_code == 200


async def test_session_that_waits_too_long_for_its_start_is_told_to_come_back(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(
        model_env,
        AGENT_WEBKIT_CONCURRENT_STARTS="1",
        AGENT_WEBKIT_START_QUEUE_S="0.1",
    )
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            answers = await asyncio.gather(*(http.post("/sessions") for _ in range(5)))
            late = [a for a in answers if a.status_code == 503]

            assert {a.json()["code"] for a in late} == {"start_queue_timeout"}
            assert all("retry-after" in a.headers for a in late)
            assert 1 <= len(answers) - len(late) < 5
            assert await live(http) == len(answers) - len(late)


# --- the drain

DRAIN_S = 8.0


async def test_drain_lets_turns_finish_and_then_ends_everything(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(model_env, AGENT_WEBKIT_DRAIN_TIMEOUT_S=str(DRAIN_S))
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http, AsyncExitStack() as stack:
            sessions = [await new_session(http, cwd=str(tmp_path)) for _ in range(5)]
            streams = [
                (
                    await stack.enter_async_context(session.stream()),
                    await stack.enter_async_context(session.stream()),
                )
                for session in sessions
            ]
            running, waiting = sessions[:3], sessions[3:]
            for session in running:
                await session.say(script([{"say": "word " * 40, "delay_s": 0.05}]))
            for session in waiting:
                await session.say(script([BASH], [{"say": "done"}]))
            for stream, _ in streams[:3]:
                await stream.until("message_delta")
            asks = [await s.until("permission_request") for s, _ in streams[3:]]
            below = server.descendants()

            began = time.monotonic()
            os.kill(server.pid, signal.SIGTERM)
            async with asyncio.timeout(5):
                while (await http.get("/readyz")).status_code != 503:
                    pass

            refused = await http.post("/sessions")
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            assert "retry-after" in refused.headers
            assert (await http.get("/readyz")).json()["code"] == "draining"
            assert await live(http) == 5
            for session, ask in zip(waiting, asks, strict=True):
                await session.answer(ask.data["correlation_id"], "allow")
            for stream, _ in streams:
                await stream.until("result", is_error=False)
            async with sessions[0].stream(last_event_id=1) as resumed:
                await resumed.until("result")
            await sessions[0].turn(streams[0][0], "one more")
            assert time.monotonic() - began < DRAIN_S

            for pair in streams:
                for stream in pair:
                    await stream.until_end()
            code = await asyncio.to_thread(server.wait_ended, 10)

        assert code == 0
        assert DRAIN_S <= time.monotonic() - began < DRAIN_S + 8
        for pair in streams:
            for stream in pair:
                assert stream.events[-1].event == "done"
                assert stream.raw.rstrip().rpartition(b"\n")[2].startswith(b"retry: ")
        _, alive = psutil.wait_procs(below, timeout=5)
        assert not alive


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
async def test_second_signal_skips_to_the_end(
    model_env: dict[str, str], tmp_path: Path, again: signal.Signals
) -> None:
    env = server_env(model_env, AGENT_WEBKIT_DRAIN_TIMEOUT_S="600")
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            async with session.stream() as stream:
                await session.say(script([{"say": "word " * 900, "delay_s": 0.05}]))
                await stream.until("message_delta")
                os.kill(server.pid, again)
                async with asyncio.timeout(5):
                    while (await http.get("/readyz")).status_code != 503:
                        pass
                os.kill(server.pid, again)
                await stream.until_end()
            code = await asyncio.to_thread(server.wait_ended, 10)

    assert code == 0
    assert len(stream.named("result")) == 1
    assert stream.events[-1].event == "done"


async def test_drain_ends_with_the_last_session(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(
        model_env,
        AGENT_WEBKIT_DRAIN_TIMEOUT_S="600",
        AGENT_WEBKIT_IDLE_TIMEOUT_S="1",
    )
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            async with session.stream() as stream:
                await stream.until("session_ready")
                os.kill(server.pid, signal.SIGTERM)
                await session.turn(stream, "hello")
        code = await asyncio.to_thread(server.wait_ended, 30)

    assert code == 0
    assert "ended: idle" in server.output


async def test_operator_drains_with_a_token_of_his_own(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(
        model_env,
        AGENT_WEBKIT_ADMIN_TOKEN=ADMIN_TOKEN,
        AGENT_WEBKIT_DRAIN_TIMEOUT_S="1",
    )
    admin = with_token(ADMIN_TOKEN)
    with running_server(env, tmp_path) as server:
        async with new_http(server.url) as http:
            session = await new_session(http)
            async with session.stream() as stream:
                assert (await http.post("/admin/drain")).status_code == 401
                begun = await http.post("/admin/drain", headers=admin)
                drained = await http.post("/admin/drain?wait=1", headers=admin)
                await stream.until_end()
            assert (await http.get("/healthz")).status_code == 200

    assert (begun.status_code, begun.json()["live_sessions"]) == (202, 1)
    assert (drained.status_code, drained.json()["live_sessions"]) == (200, 0)
    assert stream.events[-1].event == "done"


# --- the scrape


@pytest.fixture
def small_server(model_env: dict[str, str], tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with room for two, whose buffers hold little."""
    env = server_env(
        model_env,
        AGENT_WEBKIT_MAX_SESSIONS="2",
        AGENT_WEBKIT_BUFFER_EVENTS="20",
        AGENT_WEBKIT_IDLE_TIMEOUT_S="2",
        AGENT_WEBKIT_KEEPALIVE_S="0.4",
    )
    with running_server(env, tmp_path) as server:
        yield server


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(http: httpx.AsyncClient) -> Samples:
    response = await http.get("/metrics")
    assert response.status_code == 200, response.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples["agent_webkit_" + name, tuple(sorted(labels.items()))]


async def ask_and_allow(
    session: SessionClient, stream: Stream, subscriber_id: str
) -> None:
    """Have a turn with one permission, which that subscriber gives."""
    before = stream.last_id
    await session.say(script([BASH], [{"say": "word " * 30}]))
    ask = await stream.until("permission_request", after=before)
    answer = await session.post(
        {
            "type": "permission_response",
            "correlation_id": ask.data["correlation_id"],
            "behavior": "allow",
        },
        x_subscriber_id=subscriber_id,
    )
    assert answer.status_code == 204
    await stream.until("result", after=before)


async def test_scrape_counts_what_has_happened(
    small_server: ServerProcess, tmp_path: Path
) -> None:
    async with new_http(small_server.url) as http:
        first = await new_session(http, cwd=str(tmp_path))
        second = await new_session(http)
        assert (await http.post("/sessions")).status_code == 503
        async with first.stream() as stream, second.stream() as other:
            await ask_and_allow(first, stream, "tab-1")
            await ask_and_allow(first, stream, "tab-2")
            await ask_and_allow(first, stream, "tab-1")
            gone = await http.get(
                f"{first.path}/stream", headers={"last-event-id": "1"}
            )
            assert gone.status_code == 412
            async with first.stream(last_event_id=stream.last_id - 5) as resumed:
                await resumed.until_true(lambda: resumed.last_id == stream.last_id)
                await second.say(script([BASH], [{"say": "x"}]))
                await other.until("permission_request")
                await other.until("session_state", state="waiting")
                await other.until_true(lambda: message_ended(other))
                now = await scrape(http)
            events = stream.last_id + other.last_id
        assert (await http.delete(second.path)).status_code == 204
        async with asyncio.timeout(30):
            while (await http.get(first.path)).status_code == 200:
                pass
        expired = await http.get(first.path)
        after = await scrape(http)

    assert expired.json()["code"] == "session_expired"
    assert value(now, "sessions_live") == 2
    assert value(now, "sessions_starting") == 0
    assert value(now, "sessions_by_state", state="idle") == 1
    assert value(now, "sessions_by_state", state="waiting") == 1
    assert value(now, "sessions_created_total") == 2
    assert value(now, "sessions_start_duration_seconds_count") == 2
    assert value(now, "subscribers") == 3
    assert value(now, "events_appended_total") == events
    assert value(now, "events_evicted_total") == stream.last_id - 20
    sent = len(stream.events) + len(other.events) + 5
    assert value(now, "frames_sent_total") == sent
    assert value(now, "sent_bytes_total") > 100 * sent
    assert value(now, "events_lag_seconds_count") > 0
    assert value(now, "permissions_pending") == 1
    assert 0 < value(now, "permissions_oldest_seconds") < 30
    for name, won in (("tab-1", 2), ("tab-2", 1)):
        winner = "permissions_first_reply_winner_total"
        assert value(now, winner, subscriber_id=name) == won
    assert value(now, "permissions_wait_seconds_count", outcome="allow") == 3
    assert value(now, "turn_duration_seconds_count", outcome="success") == 3
    assert value(now, "turn_first_token_seconds_count") == 4
    assert value(now, "resume_412_total") == 1
    assert value(now, "resume_depth_sum") == 5
    assert value(now, "subscribers_evicted_total", reason="fell_behind") == 0
    assert value(now, "refusals_total", reason="at_capacity") == 1
    assert value(now, "refusals_total", reason="evicted") == 1
    assert value(now, "loop_lag_seconds_count") > 0
    largest = value(now, "agent_memory_bytes", stat="max")
    assert 20e6 < largest < value(now, "agent_memory_bytes", stat="sum") < 1e9

    assert value(after, "sessions_live") == 0
    assert value(after, "sessions_evicted_total", reason="closed") == 1
    assert value(after, "sessions_evicted_total", reason="idle") == 1
    assert value(after, "sessions_evicted_total", reason="error") == 0
    assert value(after, "turn_duration_seconds_count", outcome="interrupted") == 1
    assert value(after, "permissions_wait_seconds_count", outcome="cancelled") == 1
    assert value(after, "agent_memory_bytes", stat="sum") == 0
    assert value(after, "events_appended_total") > events


async def test_scrape_needs_a_token_and_takes_one_that_does_nothing_else(
    model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(model_env, AGENT_WEBKIT_METRICS_TOKEN="for-the-scraper")
    scraper = with_token("for-the-scraper")
    with running_server(env, tmp_path) as server:
        async with new_http(server.url, token=None) as http:
            statuses = [
                (await http.get(path, headers=headers)).status_code
                for path, headers in (
                    ("/metrics", {}),
                    ("/metrics", scraper),
                    ("/metrics", with_token(TOKEN)),
                    ("/sessions", scraper),
                )
            ]

    assert statuses == [401, 200, 200, 401]
