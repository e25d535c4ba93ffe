from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.core.stepping import settle
from webkit_asgi import AuthConfig, Principal, Settings
from webkit_asgi.stream import HEADERS
from webkit_core import DEFAULT_DELTAS, PROTOCOL_VERSION, EventLog, SessionConfig

from .driver import TOKEN, Call, Server, no_more_tasks_than, running, serving
from .principals import ANN, BOB, TENANTS
from .virtual_time import now_s, run_in_no_time

NOBODY = "/sessions/8cdd8cc9-079c-4397-aace-ca1dad574fd4"
HERE = str(Path(__file__).resolve().parent)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def body(type_: str, **fields: Any) -> bytes:
    return json.dumps({"type": type_, **fields}).encode()


def say(content: Any = "hello") -> bytes:
    return body("user_message", content=content)


async def events_of(server: Server, session: str, until: str) -> list[Any]:
    """Return the events of a session up to the first of that name: (name, data)."""
    stream = await server.call("GET", f"{session}/stream").start().heard(until)
    stream.leave()
    await stream.done()
    names = [event.type for event in stream.events]
    wanted = stream.events[: names.index(until) + 1]
    return [(event.type, json.loads(event.data)) for event in wanted]


async def asked(
    server: Server, session: str, tool: str = "Bash", **tool_input: Any
) -> asyncio.Task[Any]:
    """Let the agent ask for the tool use ``toolu_1``, in a turn; return its answer."""
    await server.input(session, say())
    await server.agent.prompted()
    asking = asyncio.ensure_future(server.agent.ask("toolu_1", tool, **tool_input))
    event = "ask_user_question" if tool == "AskUserQuestion" else "permission_request"
    await events_of(server, session, event)
    return asking


# --- GET /healthz, GET /readyz


async def test_health_says_how_many_sessions_live(server: Server) -> None:
    assert (await server.ask("GET", "/healthz")).json == {
        "ok": True,
        "live_sessions": 0,
    }
    await server.session()

    assert (await server.ask("GET", "/healthz")).json["live_sessions"] == 1


async def test_ready_says_so(server: Server) -> None:
    call = await server.ask("GET", "/readyz")

    assert (call.status, call.json) == (200, {"ready": True, "checks": []})


# --- POST /admin/drain


ADMIN = "an-operators-token"


@pytest.fixture
async def operated() -> AsyncIterator[Server]:
    """A server that operators may drain."""
    async with serving(auth=AuthConfig(token=TOKEN, admin_token=ADMIN)) as server:
        yield server


async def test_drain_begins_and_says_how_many_sessions_are_left(
    operated: Server,
) -> None:
    """They go on; who wants to know when they have ended asks again."""
    session = await operated.session()

    call = await operated.ask("POST", "/admin/drain", token=ADMIN)

    assert (call.status, call.json) == (202, {"draining": True, "live_sessions": 1})
    assert (await operated.ask("POST", "/sessions")).error == (503, "draining")
    assert (await operated.input(session, say())).status == 204
    again = await operated.ask("POST", "/admin/drain", token=ADMIN)
    assert (again.status, again.json) == (202, call.json)


@pytest.mark.parametrize("query", [b"", b"wait=", b"wait=0", b"wait=1&wait=0", b"x=1"])
async def test_drain_waits_only_when_it_is_asked_to(
    operated: Server, query: bytes
) -> None:
    await operated.session()

    call = await operated.ask("POST", "/admin/drain", token=ADMIN, query=query)

    assert call.status == 202


async def test_drain_that_waits_is_answered_when_every_session_has_ended(
    operated: Server,
) -> None:
    session = await operated.session()
    calls = [
        operated.call("POST", "/admin/drain", token=ADMIN, query=b"wait=1").start()
        for _ in range(2)
    ]
    await settle()
    assert [call.sent for call in calls] == [[], []]

    await operated.ask("DELETE", session)

    for call in calls:
        await call.done()
        assert (call.status, call.json) == (200, {"draining": True, "live_sessions": 0})
    assert operated.agent.disconnected


async def test_drain_that_waits_does_not_hold_up_one_that_does_not(
    operated: Server,
) -> None:
    await operated.session()
    waiting = operated.call("POST", "/admin/drain", token=ADMIN, query=b"wait=1")
    waiting.start()
    await settle()

    assert (await operated.ask("POST", "/admin/drain", token=ADMIN)).status == 202

    assert waiting.sent == []
    operated.app.stop()
    await waiting.done()


async def test_drain_that_waits_goes_on_when_who_asked_has_left(
    operated: Server,
) -> None:
    await operated.session()
    call = operated.call("POST", "/admin/drain", token=ADMIN, query=b"wait=1").start()
    await settle()

    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.done()

    assert not operated.app.drain().done()
    assert (await operated.ask("GET", "/readyz")).error == (503, "draining")


@pytest.mark.parametrize("token", [TOKEN, "wrong", None])
async def test_drain_is_for_operators_alone(
    operated: Server, token: str | None
) -> None:
    call = await operated.ask("POST", "/admin/drain", token=token)

    assert call.error == (401, "unauthorized")
    assert (await operated.ask("POST", "/sessions")).status == 200


@pytest.mark.parametrize("auth", [AuthConfig(token=TOKEN), AuthConfig(disabled=True)])
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_drain_without_a_token_for_operators_is_no_path(
    auth: AuthConfig, method: str
) -> None:
    """Nobody could be told from a user who ends everybody's sessions."""
    async with serving(auth=auth) as server:
        call = await server.ask(method, "/admin/drain")

        assert call.error == (404, "not_found")
        assert call.detail == "no such path: /admin/drain"
        assert (await server.ask("POST", "/sessions")).status == 200


async def test_drain_without_a_token_for_operators_tells_strangers_nothing(
    server: Server,
) -> None:
    call = await server.ask("POST", "/admin/drain", token=None)

    assert call.error == (401, "unauthorized")


# --- POST /sessions


@pytest.mark.parametrize("content", [b"", b"{}", b' {"model": null} '])
async def test_create_makes_a_session_of_defaults(
    server: Server, content: bytes
) -> None:
    call = await server.ask("POST", "/sessions", content)

    session_id = call.json["session_id"]
    assert call.status == 200
    assert call.json == {
        "session_id": session_id,
        "protocol_version": PROTOCOL_VERSION,
    }
    assert str(uuid.UUID(session_id)) == session_id
    assert call.headers["location"] == f"/sessions/{session_id}"
    assert server.factory.configs == [
        SessionConfig(session_id=session_id, owner="token")
    ]
    assert server.factory.configs[0].deltas == DEFAULT_DELTAS


async def test_create_hands_the_agent_what_the_client_wants(tmp_path: Path) -> None:
    wanted = {
        "model": "claude-x",
        "permission_mode": "plan",
        "cwd": str(tmp_path),
        "deltas": ["thinking", "thinking"],
    }
    async with serving(Settings(cwd_root=str(tmp_path))) as server:
        call = await server.ask("POST", "/sessions", json.dumps(wanted).encode())

        assert server.factory.configs == [
            SessionConfig(
                session_id=call.json["session_id"],
                model="claude-x",
                permission_mode="plan",
                cwd=str(tmp_path),
                deltas=frozenset({"thinking"}),
                owner="token",
            )
        ]


async def test_create_without_deltas_has_none(server: Server) -> None:
    await server.session(b'{"deltas": []}')

    assert server.factory.configs[0].deltas == frozenset()


async def test_create_makes_another_session_each_time(server: Server) -> None:
    assert await server.session() != await server.session()


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"{", "malformed_json", "not valid JSON"),
        (b" ", "malformed_json", "not valid JSON"),
        (b'{"model": "\xff"}', "malformed_json", "not valid JSON"),
        (b"null", "invalid_input", "object"),
        (b'{"modle": "x"}', "invalid_input", "`modle`"),
        (b'{"model": ""}', "invalid_input", "`$.model`"),
        (b'{"model": 1}', "invalid_input", "`$.model`"),
        (b'{"permission_mode": "yolo"}', "invalid_input", "`$.permission_mode`"),
        (b'{"deltas": ["sound"]}', "invalid_input", "`$.deltas[0]`"),
        (b'{"deltas": "text"}', "invalid_input", "`$.deltas`"),
        (b'{"cwd": 1}', "invalid_input", "`$.cwd`"),
        (b'{"cwd": ""}', "invalid_input", "`$.cwd`"),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else None,
)
async def test_create_with_a_wrong_body_names_the_field(
    server: Server, content: bytes, code: str, words: str
) -> None:
    call = await server.ask("POST", "/sessions", content)

    assert call.error == (400, code)
    assert words in call.detail
    assert server.factory.configs == []


@pytest.mark.parametrize("cwd", [".", "tests", f"{__file__}.d", __file__, "/\0"])
async def test_create_with_a_cwd_that_is_none_names_it(
    server: Server, cwd: str
) -> None:
    call = await server.ask("POST", "/sessions", json.dumps({"cwd": cwd}).encode())

    assert call.error == (400, "invalid_input")
    assert "`cwd`" in call.detail
    assert server.factory.configs == []


async def test_create_beyond_the_cap_is_unavailable() -> None:
    """Until one is gone. The text is the one that clients know."""
    async with serving(Settings(max_sessions=1)) as server:
        session = await server.session()

        call = await server.ask("POST", "/sessions")
        assert call.error == (503, "at_capacity")
        assert call.detail == "Server at capacity"
        assert call.headers["retry-after"] == "5"

        await server.ask("DELETE", session)
        assert (await server.ask("POST", "/sessions")).status == 200


async def test_create_with_an_agent_that_does_not_start_says_why() -> None:
    """And the place it took is free again."""
    async with serving(Settings(max_sessions=1)) as server:
        server.factory.error = OSError("no such CLI")

        call = await server.ask("POST", "/sessions")

        assert call.error == (503, "agent_start_failed")
        assert call.detail == "no such CLI"
        assert int(call.headers["retry-after"]) > 0
        assert (await server.ask("GET", "/sessions")).json == {"sessions": []}
        server.factory.error = None
        assert (await server.ask("POST", "/sessions")).status == 200


# --- GET /sessions, GET /sessions/{id}


async def test_list_has_every_session(server: Server) -> None:
    assert (await server.ask("GET", "/sessions")).json == {"sessions": []}
    paths = [await server.session() for _ in range(3)]

    listed = (await server.ask("GET", "/sessions")).json["sessions"]

    assert [f"/sessions/{item['session_id']}" for item in listed] == paths
    assert listed[0] == (await server.ask("GET", paths[0])).json


async def test_show_describes_a_fresh_session(server: Server) -> None:
    wanted = {"model": "m", "permission_mode": "plan", "cwd": HERE}
    session = await server.session(json.dumps(wanted).encode())
    await settle()

    shown = (await server.ask("GET", session)).json

    assert 0 <= time.time() - shown.pop("created_at") < 60
    assert shown.pop("buffered_bytes") > 0
    assert shown == {
        "session_id": session.removeprefix("/sessions/"),
        "state": "idle",
        "cost_usd": 0.0,
        "subscribers": 0,
        "queued_messages": 0,
        "oldest_event_id": 1,
        "last_event_id": 1,
        "pending": [],
        "error": None,
        **wanted,
    }


async def test_show_counts_what_goes_on(server: Server) -> None:
    session = await server.session()
    streams = [server.call("GET", f"{session}/stream").start() for _ in range(2)]
    for stream in streams:
        await stream.heard("session_ready")
    for _ in range(3):
        await server.input(session, say())
    await server.agent.prompted()

    shown = (await server.ask("GET", session)).json

    assert (shown["subscribers"], shown["queued_messages"]) == (2, 2)
    assert shown["state"] == "running"
    streams[0].leave()
    await streams[0].done()
    assert (await server.ask("GET", session)).json["subscribers"] == 1


async def test_show_has_what_the_session_waits_for(server: Server) -> None:
    session = await server.session()
    asking = await asked(server, session, command="ls")

    shown = (await server.ask("GET", session)).json

    assert shown["state"] == "waiting"
    assert shown["pending"] == [
        {
            "event": "permission_request",
            "data": (await events_of(server, session, "permission_request"))[-1][1],
        }
    ]
    assert shown["pending"][0]["data"]["correlation_id"] == "toolu_1"
    assert shown["pending"][0]["data"]["input"] == {"command": "ls"}
    assert not asking.done()


async def test_show_has_whatever_an_agent_puts_into_a_tools_input(
    server: Server,
) -> None:
    """What the stream can carry, this can: halves of pairs, integers beyond 64 bits."""
    session = await server.session()
    await asked(server, session, command="cut: \ud83d", limit=2**70)

    for path in (session, "/sessions"):
        call = await server.ask("GET", path)
        assert call.status == 200
        assert b"cut: \xef\xbf\xbd" in call.body
        assert b"1180591620717411303424" in call.body


async def test_show_has_the_cost_and_the_end_of_a_session(server: Server) -> None:
    session = await server.session()
    await server.input(session, say())
    await server.agent.prompted()
    server.agent.say("hi", cost_usd=0.25)
    await events_of(server, session, "result")
    server.agent.end(RuntimeError("it broke"))
    await events_of(server, session, "done")

    shown = (await server.ask("GET", session)).json

    assert shown["cost_usd"] == 0.25
    assert shown["state"] == "failed"
    assert shown["error"]["code"] == "agent_exited"
    assert "it broke" in shown["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", NOBODY),
        ("HEAD", NOBODY),
        ("DELETE", NOBODY),
        ("GET", f"{NOBODY}/stream"),
        ("POST", f"{NOBODY}/input"),
        ("GET", "/sessions/ "),
    ],
)
async def test_session_that_is_none_is_not_found(
    server: Server, method: str, path: str
) -> None:
    call = await server.ask(method, path, b"{")

    if method == "HEAD":
        assert call.status == 404
    else:
        assert call.error == (404, "session_not_found")
        assert path.split("/")[2] in call.detail


async def test_list_leaves_out_what_is_not_up_yet(server: Server) -> None:
    """Nobody knows its id, and it may never come up."""
    there = await server.session()
    server.factory.gate = asyncio.Event()
    creating = server.call("POST", "/sessions").start()
    await settle()
    assert len(server.factory.configs) == 2

    listed = (await server.ask("GET", "/sessions")).json["sessions"]

    assert [f"/sessions/{item['session_id']}" for item in listed] == [there]
    server.factory.gate.set()
    await creating.done()
    assert len((await server.ask("GET", "/sessions")).json["sessions"]) == 2


async def test_create_waits_for_its_turn_no_longer_than_the_settings_say() -> None:
    async with serving(Settings(concurrent_starts=1, start_queue_s=0.01)) as server:
        server.factory.gate = asyncio.Event()
        first = server.call("POST", "/sessions").start()
        await settle()

        second = await server.ask("POST", "/sessions")

        assert second.error == (503, "start_queue_timeout")
        assert int(second.headers["retry-after"]) > 0
        assert len(server.factory.configs) == 1
        server.factory.gate.set()
        assert (await first.done()).status == 200


async def test_create_starts_as_many_at_a_time_as_the_settings_say() -> None:
    async with serving(Settings(concurrent_starts=2)) as server:
        server.factory.gate = asyncio.Event()
        calls = [server.call("POST", "/sessions").start() for _ in range(5)]
        await settle()

        assert len(server.factory.configs) == 2
        server.factory.gate.set()
        for call in calls:
            assert (await call.done()).status == 200


# --- DELETE /sessions/{id}


async def test_delete_ends_the_session_and_its_streams(server: Server) -> None:
    session = await server.session()
    streams = [server.call("GET", f"{session}/stream").start() for _ in range(3)]
    for stream in streams:
        await stream.heard("session_ready")

    call = await server.ask("DELETE", session)

    assert (call.status, call.body) == (204, b"")
    assert "content-length" not in call.headers  # RFC 9110, 8.6: not with 204
    assert server.agent.disconnected
    for stream in streams:
        await stream.done()
        assert [event.type for event in stream.events][-1] == "done"
        assert stream.complete
    again = await server.ask("DELETE", session)
    assert again.error == (404, "session_closed")
    assert (await server.ask("GET", "/sessions")).json == {"sessions": []}


async def test_delete_by_two_at_once_is_done_for_both(server: Server) -> None:
    session = await server.session()

    calls = [server.call("DELETE", session).start() for _ in range(2)]

    assert [(await call.done()).status for call in calls] == [204, 204]


# --- POST /sessions/{id}/input: what it does


@pytest.mark.parametrize("parts", [1, 3, 200])
async def test_input_in_any_number_of_parts_is_one_message(
    server: Server, parts: int
) -> None:
    session = await server.session()
    whole = say("é" * 50)
    size = -(-len(whole) // parts)
    chunks = [whole[at : at + size] for at in range(0, len(whole), size)]

    call = await server.ask("POST", f"{session}/input", chunks)

    assert (call.status, call.body) == (204, b"")
    prompt = await server.agent.prompted()
    assert prompt["message"] == {"role": "user", "content": "é" * 50}


async def test_input_of_blocks_is_handed_over_as_it_is(server: Server) -> None:
    session = await server.session()
    image = {
        "type": "base64",
        "media_type": "image/png",
        "data": base64.b64encode(b"png").decode(),
    }
    blocks = [{"type": "text", "text": "look"}, {"type": "image", "source": image}]

    assert (await server.input(session, say(blocks))).status == 204

    assert (await server.agent.prompted())["message"]["content"] == blocks


async def test_input_waits_for_the_turn_before_it(server: Server) -> None:
    session = await server.session()
    for text in ("one", "two"):
        assert (await server.input(session, say(text))).status == 204
    await server.agent.prompted()
    await settle()
    assert len(server.agent.prompts) == 1

    server.agent.say("done with one")

    assert (await server.agent.prompted(2))["message"]["content"] == "two"


async def test_input_of_an_interrupt_stops_the_turn(server: Server) -> None:
    session = await server.session()
    await server.input(session, say())
    await server.agent.prompted()

    assert (await server.input(session, body("interrupt"))).status == 204

    await server.agent.called("interrupt")
    server.agent.say("stopped")
    await events_of(server, session, "result")


async def test_input_of_an_interrupt_when_idle_does_nothing(server: Server) -> None:
    session = await server.session()

    assert (await server.input(session, body("interrupt"))).status == 204
    await settle()

    assert server.agent.calls == []


@pytest.mark.parametrize(
    ("content", "call", "argument"),
    [
        (body("set_permission_mode", mode="plan"), "set_permission_mode", "plan"),
        (body("set_model", model="claude-x"), "set_model", "claude-x"),
        (body("set_model", model=None), "set_model", None),
        (body("stop_task", task_id="task-1"), "stop_task", "task-1"),
    ],
    ids=["mode", "model", "no model", "task"],
)
async def test_input_that_controls_reaches_the_agent(
    server: Server, content: bytes, call: str, argument: str | None
) -> None:
    session = await server.session()

    assert (await server.input(session, content)).status == 204

    assert await server.agent.called(call) == argument


async def test_input_of_a_permission_is_the_tools_answer(server: Server) -> None:
    session = await server.session()
    asking = await asked(server, session, command="ls")
    allow = body(
        "permission_response",
        correlation_id="toolu_1",
        behavior="allow",
        updated_input={"command": "ls -l"},
    )

    call = await server.input(session, allow, headers={"x-subscriber-id": "tab-1"})

    assert call.status == 204
    assert (await asking).updated_input == {"command": "ls -l"}
    resolved = (await events_of(server, session, "permission_resolved"))[-1][1]
    assert resolved == {
        "correlation_id": "toolu_1",
        "outcome": "allow",
        "subscriber_id": "tab-1",
    }


async def test_input_of_answers_is_the_questions_answer(server: Server) -> None:
    session = await server.session()
    questions = [{"question": "Which?", "options": []}]
    asking = await asked(server, session, "AskUserQuestion", questions=questions)
    answers = {"Which?": ["a", "b"]}

    call = await server.input(
        session, body("question_response", correlation_id="toolu_1", answers=answers)
    )

    assert call.status == 204
    result = await asking
    assert result.updated_input == {"questions": questions, "answers": answers}


# --- POST /sessions/{id}/input: what is wrong


DENY: dict[str, Any] = {"correlation_id": "x", "behavior": "deny"}
ALLOW: dict[str, Any] = {"correlation_id": "x", "behavior": "allow"}


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "malformed_json", "not valid JSON"),
        (b"{", "malformed_json", "not valid JSON"),
        (b"\xff", "malformed_json", "not valid JSON"),
        (b"[]", "invalid_input", "object"),
        (b"{}", "unknown_type", "`type` is missing"),
        (body("shout"), "unknown_type", "'shout'"),
        (b'{"type": 1}', "invalid_input", "`$.type`"),
        (body("user_message"), "invalid_input", "`content`"),
        (say(""), "invalid_input", "`$.content`"),
        (say([]), "invalid_input", "`$.content`"),
        (say([{"type": "text"}]), "invalid_input", "`text`"),
        (say([{"type": "video"}]), "invalid_input", "`$.content[0].type`"),
        (say([{"type": "image"}]), "invalid_input", "`source`"),
        (body("interrupt", now=True), "invalid_input", "`now`"),
        (body("permission_response", **ALLOW, interrupt=True), "invalid_input", "`int"),
        (body("permission_response", **DENY, updated_input={}), "invalid_input", "`up"),
        (body("permission_response", behavior="deny"), "invalid_input", "`correlation"),
        (body("permission_response", correlation_id="x"), "invalid_input", "`behavior"),
        (body("question_response", correlation_id="x"), "invalid_input", "`answers`"),
        (body("set_permission_mode", mode="x"), "invalid_input", "`$.mode`"),
        (body("set_permission_mode"), "invalid_input", "`mode`"),
        (body("set_model"), "invalid_input", "`model`"),
        (body("set_model", model=1), "invalid_input", "`$.model`"),
        (body("stop_task"), "invalid_input", "`task_id`"),
    ],
    ids=lambda value: value[:60] if isinstance(value, bytes) else None,
)
async def test_input_that_is_wrong_names_the_field(
    server: Server, content: bytes, code: str, words: str
) -> None:
    session = await server.session()

    call = await server.input(session, content)

    assert call.error == (400, code)
    assert words in call.detail
    await settle()
    assert (server.agent.prompts, server.agent.calls) == ([], [])


async def test_input_with_an_odd_subscriber_id_names_the_header(server: Server) -> None:
    session = await server.session()

    call = await server.input(session, say(), headers={"x-subscriber-id": "a b"})

    assert call.error == (400, "invalid_input")
    assert "X-Subscriber-Id" in call.detail


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "counted"])
@pytest.mark.parametrize("path", ["/sessions", "input"])
async def test_body_beyond_the_limit_is_too_large(path: str, announced: bool) -> None:
    async with serving(Settings(max_body_bytes=100)) as server:
        session = await server.session()
        path = path if path == "/sessions" else f"{session}/input"
        headers = {"content-length": "101"} if announced else {}
        parts = [] if announced else [b"x" * 60, b"x" * 41, b""]

        call = await server.ask("POST", path, parts, headers=headers)

        assert call.error == (413, "body_too_large")
        assert "100 bytes" in call.detail
        fits = say("x" * 100)[:100]
        assert (await server.ask("POST", path, fits)).status == 400


async def test_input_of_a_client_that_leaves_does_nothing(server: Server) -> None:
    session = await server.session()
    call = server.call("POST", f"{session}/input", [])
    call.feed(say())
    call.leave()

    await call.done()

    assert call.sent == []
    await settle()
    assert server.agent.prompts == []


@pytest.mark.parametrize(
    "content",
    [
        body("permission_response", correlation_id="toolu_1", behavior="deny"),
        body("question_response", correlation_id="toolu_1", answers={"q": "a"}),
    ],
    ids=["permission", "question"],
)
async def test_input_that_answers_nothing_is_a_conflict(
    server: Server, content: bytes
) -> None:
    session = await server.session()

    call = await server.input(session, content)

    assert call.error == (409, "already_resolved")
    assert "'toolu_1'" in call.detail


async def test_input_of_the_second_answer_is_a_conflict(server: Server) -> None:
    """The first one wins, whoever sends it."""
    session = await server.session()
    asking = await asked(server, session)
    answers = [
        body("permission_response", correlation_id="toolu_1", behavior=behavior)
        for behavior in ("deny", "allow")
    ]

    first, second = [
        await server.input(session, answer, headers={"x-subscriber-id": f"tab-{index}"})
        for index, answer in enumerate(answers)
    ]

    assert first.status == 204
    assert second.error == (409, "already_resolved")
    assert "deny" in second.detail
    assert (await asking).behavior == "deny"


async def test_input_that_does_not_fit_its_request_leaves_it_open(
    server: Server,
) -> None:
    session = await server.session()
    asking = await asked(server, session)
    answer = body("question_response", correlation_id="toolu_1", answers={"q": "a"})

    call = await server.input(session, answer)

    assert call.error == (400, "invalid_input")
    assert "permission_response" in call.detail
    assert not asking.done()


async def test_input_beyond_the_queue_is_unavailable() -> None:
    async with serving(Settings(queued_messages=2)) as server:
        session = await server.session()
        await server.input(session, say())
        await server.agent.prompted()
        for content in (say(), body("set_model", model=None)):
            assert (await server.input(session, content)).status == 204

        for content in (say(), body("set_model", model=None)):
            call = await server.input(session, content)
            assert call.error == (503, "inbound_queue_full")
            assert "2" in call.detail
            assert call.headers["retry-after"] == "1"
        assert (await server.input(session, body("interrupt"))).status == 204
        server.agent.say("stopped")
        await server.agent.prompted(2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set_permission_mode", body("set_permission_mode", mode="plan")),
        ("stop_task", body("stop_task", task_id="t")),
    ],
)
async def test_input_that_the_agent_refuses_says_so(
    server: Server, name: str, content: bytes
) -> None:
    session = await server.session()
    server.agent.refuses.add(name)

    call = await server.input(session, content)

    assert call.error == (400, "agent_refused")
    assert call.detail == f"{name} is refused"
    assert (await server.ask("GET", session)).json["state"] == "idle"


def test_input_that_the_agent_does_not_answer_is_unavailable() -> None:
    async def main() -> None:
        async with serving() as server:
            session = await server.session()
            server.agent.hangs.add("set_permission_mode")
            mode = body("set_permission_mode", mode="plan")
            call = server.call("POST", f"{session}/input", mode)
            call.patience_s = 1000

            await call.done()

            assert now_s() == pytest.approx(30)
            assert call.error == (503, "agent_timeout")
            assert int(call.headers["retry-after"]) > 0
            assert (await server.input(session, say())).status == 204
            # What hangs would outlive the test.
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                if "set_permission_mode" in repr(task.get_coro()):
                    task.cancel()

    run_in_no_time(main())


async def test_input_to_a_session_that_failed_says_why(server: Server) -> None:
    session = await server.session()
    server.agent.end(RuntimeError("it broke"))
    await events_of(server, session, "done")

    call = await server.input(session, say())

    assert call.error == (404, "session_failed")
    assert "it broke" in call.detail


async def test_input_to_a_session_that_is_ending_is_too_late(server: Server) -> None:
    session = await server.session()
    call = server.call("POST", f"{session}/input", [])
    call.start()
    await settle()

    await server.ask("DELETE", session)
    call.feed(say(), more=False)
    await call.done()

    assert call.error == (404, "session_closed")


# --- GET /sessions/{id}/stream


async def test_stream_has_the_session_from_its_first_event_to_its_last(
    server: Server,
) -> None:
    session = await server.session()
    stream = (
        await server.call("GET", f"{session}/stream").start().heard("session_ready")
    )
    await server.input(session, say())
    await server.agent.prompted()
    server.agent.say("hello there")
    await stream.heard("result")
    await server.ask("DELETE", session)
    await stream.done()

    assert stream.status == 200
    assert stream.complete
    assert {(k.encode(), v.encode()) for k, v in stream.headers.items()} >= {*HEADERS}
    assert stream.ids == list(range(1, len(stream.ids) + 1))
    first, *_, last = stream.events
    assert json.loads(first.data) == {
        "session_id": session.removeprefix("/sessions/"),
        "protocol_version": PROTOCOL_VERSION,
    }
    assert (first.type, last.type, last.data) == ("session_ready", "done", "{}")
    deltas = [json.loads(e.data) for e in stream.events if e.type == "message_delta"]
    assert "".join(delta["delta"]["text"] for delta in deltas) == "hello there"


def log_of(server: Server, session: str) -> EventLog:
    return server.app.registry.get(session.removeprefix("/sessions/")).log


async def told(server: Server, count: int) -> str:
    """Return a session of exactly so many events."""
    session = await server.session()
    log = log_of(server, session)
    await settle()
    while log.last_seq < count:
        log.append("notice", {"n": log.last_seq + 1})
    return session


@pytest.mark.parametrize(
    ("headers", "query", "first"),
    [
        ({}, b"", 1),
        ({"last-event-id": ""}, b"", 1),
        ({"last-event-id": "0"}, b"", 1),
        ({"last-event-id": "3"}, b"", 4),
        ({}, b"last_event_id=2", 3),
        ({}, b"last_event_id=", 1),
        ({"last-event-id": ""}, b"last_event_id=2", 3),
        ({"last-event-id": "4"}, b"last_event_id=2", 5),
        ({"last-event-id": "0"}, b"last_event_id=2", 1),
        ({"last-event-id": "5"}, b"", 6),
    ],
)
async def test_stream_resumes_behind_the_cursor_and_goes_live(
    server: Server, headers: dict[str, str], query: bytes, first: int
) -> None:
    session = await told(server, 5)
    call = server.call("GET", f"{session}/stream", query=query, headers=headers).start()
    await call.until(lambda: len(call.sent) >= 2)
    await settle()

    server.agent.end(RuntimeError("it broke"))
    await call.done()

    assert call.ids[0] == first
    assert call.ids == list(range(first, call.ids[-1] + 1))
    assert call.events[-1].type == "done"


async def test_stream_without_cursor_begins_with_the_oldest_event_held() -> None:
    async with serving(Settings(buffer_events=3)) as server:
        session = await told(server, 10)

        call = server.call("GET", f"{session}/stream").start()
        await call.until(lambda: call.ids == [8, 9, 10])

        call.leave()
        await call.done()


@pytest.mark.parametrize("by_query", [False, True])
@pytest.mark.parametrize(
    ("cursor", "code"),
    [(0, "evicted"), (6, "evicted"), (11, "cursor_ahead"), (2**53 - 1, "cursor_ahead")],
)
async def test_stream_from_a_cursor_that_is_not_held_says_what_is(
    cursor: int, code: str, by_query: bool
) -> None:
    async with serving(Settings(buffer_events=3)) as server:
        session = await told(server, 10)
        headers = {} if by_query else {"last-event-id": str(cursor)}
        query = b"last_event_id=%d" % cursor if by_query else b""

        call = await server.ask(
            "GET", f"{session}/stream", query=query, headers=headers
        )

        assert call.error == (412, code)
        assert (call.json["oldest"], call.json["last"]) == (8, 10)
        assert (await server.ask("GET", session)).json["subscribers"] == 0


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "1,2", "²", str(2**53)])
async def test_stream_from_a_cursor_that_is_none_names_the_header(
    server: Server, cursor: str
) -> None:
    session = await server.session()

    call = await server.ask(
        "GET", f"{session}/stream", headers={"last-event-id": cursor}
    )

    assert call.error == (400, "invalid_cursor")
    assert "Last-Event-ID" in call.detail


async def test_stream_that_falls_behind_is_told_so() -> None:
    async with serving(Settings(buffer_events=3)) as server:
        session = await told(server, 3)
        call = server.call("GET", f"{session}/stream").start()
        await call.until(lambda: call.ids == [1, 2, 3])

        log = log_of(server, session)
        for _ in range(5):
            log.append("notice", {})
        await call.done()

        assert call.events[-1].type == "error"
        assert json.loads(call.events[-1].data)["code"] == "evicted"
        assert call.ids[-1] == 3  # a frame without an id leaves the cursor alone
        assert call.complete


async def test_stream_names_its_subscriber(server: Server) -> None:
    session = await server.session()
    names = []
    for headers in ({"x-subscriber-id": "my-tab"}, {}, {}):
        call = (
            await server.call("GET", f"{session}/stream", headers=headers)
            .start()
            .heard("session_ready")
        )
        names.append(call.headers["x-subscriber-id"])
        call.leave()
        await call.done()

    assert names[0] == "my-tab"
    assert len(set(names)) == 3


async def test_stream_with_an_odd_subscriber_id_names_the_header(
    server: Server,
) -> None:
    session = await server.session()

    call = await server.ask(
        "GET", f"{session}/stream", headers={"x-subscriber-id": "x" * 65}
    )

    assert call.error == (400, "invalid_input")
    assert "X-Subscriber-Id" in call.detail


async def test_head_of_a_stream_is_its_headers_and_the_end(server: Server) -> None:
    session = await server.session()

    call = await server.ask(
        "HEAD", f"{session}/stream", headers={"x-subscriber-id": "tab"}
    )

    assert call.status == 200
    assert call.headers == {
        **{key.decode(): value.decode() for key, value in HEADERS},
        "x-subscriber-id": "tab",
    }
    assert call.body == b""
    assert call.complete
    assert (await server.ask("GET", session)).json["subscribers"] == 0


async def test_head_of_a_stream_from_a_lost_cursor_is_the_errors_status(
    server: Server,
) -> None:
    session = await server.session()

    call = await server.ask(
        "HEAD", f"{session}/stream", headers={"last-event-id": "99"}
    )

    assert (call.status, call.body) == (412, b"")


async def test_stream_of_a_session_that_failed_tells_the_whole_story(
    server: Server,
) -> None:
    """Whoever was away when it happened learns of it."""
    session = await server.session()
    server.agent.end(RuntimeError("it broke"))
    await events_of(server, session, "done")

    call = await server.ask("GET", f"{session}/stream")

    assert [event.type for event in call.events] == [
        "session_ready",
        "error",
        "session_state",
        "done",
    ]
    assert call.complete


async def test_stream_that_a_client_left_is_counted_no_more(server: Server) -> None:
    session = await server.session()
    call: Call = server.call("GET", f"{session}/stream").start()
    await call.heard("session_ready")

    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.done()

    assert (await server.ask("GET", session)).json["subscribers"] == 0


def test_stream_is_kept_alive_and_given_up_as_the_settings_say() -> None:
    async def main() -> None:
        settings = Settings(keepalive_s=20, send_timeout_s=30, idle_timeout_s=10_000)
        async with serving(settings) as server:
            session = await server.session()
            call = server.call("GET", f"{session}/stream").start()
            call.patience_s = 1000

            await call.until(lambda: b": keepalive\n\n" in call.bodies)
            assert 10 < now_s() <= 20.1
            blocked_s = now_s()
            call.gate.clear()
            await call.done()
            assert 10 + 30 < now_s() - blocked_s < 20 + 2 * 30

    run_in_no_time(main())


async def test_client_that_leaves_while_its_session_starts_leaves_no_session() -> None:
    """Nobody knows the id, and the agent would hold its memory until it is evicted."""
    async with serving() as server:
        server.factory.gate = asyncio.Event()
        call = server.call("POST", "/sessions", b"{}").start()
        await settle()
        assert len(server.factory.configs) == 1

        call.leave()
        await call.done()
        server.factory.gate.set()
        for session in server.app.registry:
            await session.wait_ended()

        assert call.sent == []
        assert server.app.registry.live_count() == 0
        assert all(agent.disconnected for agent in server.factory.agents)


# --- what the server allows: directories and modes


@pytest.fixture
async def walled(tmp_path: Path) -> AsyncIterator[Server]:
    """A server whose sessions work in a directory of the test's, in two modes."""
    (tmp_path / "project").mkdir()
    settings = Settings(cwd_root=str(tmp_path), permission_modes="default,plan")
    async with serving(settings) as server:
        yield server


async def test_create_without_a_cwd_works_in_the_root(
    walled: Server, tmp_path: Path
) -> None:
    session = await walled.session()

    assert walled.factory.configs[0].cwd == str(tmp_path)
    assert (await walled.ask("GET", session)).json["cwd"] == str(tmp_path)


async def test_create_hands_over_where_a_link_leads(
    walled: Server, tmp_path: Path
) -> None:
    """Who may change the link afterwards changes nothing."""
    (tmp_path / "link").symlink_to("project")

    await walled.session(json.dumps({"cwd": f"{tmp_path}/link"}).encode())

    assert walled.factory.configs[0].cwd == f"{tmp_path}/project"


@pytest.mark.parametrize("cwd", ["/", "/no/such/directory", "{root}/..", "{root}/link"])
async def test_create_outside_the_root_is_refused(
    walled: Server, tmp_path: Path, cwd: str
) -> None:
    (tmp_path / "link").symlink_to("/")
    wanted = {"cwd": cwd.format(root=tmp_path)}

    call = await walled.ask("POST", "/sessions", json.dumps(wanted).encode())

    assert call.error == (403, "cwd_refused")
    assert "`cwd`" in call.detail
    assert walled.factory.configs == []


async def test_create_in_a_mode_that_is_not_allowed_is_refused(walled: Server) -> None:
    call = await walled.ask(
        "POST", "/sessions", b'{"permission_mode": "bypassPermissions"}'
    )

    assert call.error == (403, "permission_mode_refused")
    assert "'bypassPermissions'" in call.detail
    assert walled.factory.configs == []


async def test_mode_that_is_not_allowed_cannot_be_set_later(walled: Server) -> None:
    session = await walled.session()

    call = await walled.input(
        session, body("set_permission_mode", mode="bypassPermissions")
    )

    assert call.error == (403, "permission_mode_refused")
    assert walled.agent.calls == []
    plan = await walled.input(session, body("set_permission_mode", mode="plan"))
    assert plan.status == 204


@pytest.mark.parametrize(
    ("update", "code"),
    [
        ({"type": "setMode", "mode": "acceptEdits"}, "permission_mode_refused"),
        ({"type": "addDirectories", "directories": ["/"]}, "cwd_refused"),
    ],
)
async def test_answer_that_asks_for_too_much_is_refused_and_the_request_stays_open(
    walled: Server, update: dict[str, Any], code: str
) -> None:
    session = await walled.session()
    asking = await asked(walled, session)
    answer = body(
        "permission_response",
        correlation_id="toolu_1",
        behavior="allow",
        updated_permissions=[update],
    )

    call = await walled.input(session, answer)

    assert call.error == (403, code)
    assert not asking.done()
    deny = body("permission_response", correlation_id="toolu_1", behavior="deny")
    assert (await walled.input(session, deny)).status == 204
    assert (await asking).behavior == "deny"


async def test_answer_that_asks_for_what_is_allowed_is_the_tools(
    walled: Server, tmp_path: Path
) -> None:
    session = await walled.session()
    asking = await asked(walled, session)
    answer = body(
        "permission_response",
        correlation_id="toolu_1",
        behavior="allow",
        updated_permissions=[
            {"type": "setMode", "mode": "plan"},
            {"type": "addDirectories", "directories": [f"{tmp_path}/project"]},
        ],
    )

    assert (await walled.input(session, answer)).status == 204

    assert len((await asking).updated_permissions) == 2


# --- how much: bodies, inputs, sessions, streams


@pytest.mark.parametrize("path", ["/sessions", "input"])
def test_body_that_does_not_come_in_time_is_told_so(path: str) -> None:
    """As a whole: a byte now and then does not make the time longer."""

    async def main() -> None:
        async with serving(Settings(body_timeout_s=5, idle_timeout_s=1000)) as server:
            session = await server.session()
            began_s = now_s()
            path_ = path if path == "/sessions" else f"{session}/input"
            call = server.call("POST", path_, []).start()
            while not call.sent:
                call.feed(b" ")
                await asyncio.sleep(0.5)
            await call.done()

            assert now_s() - began_s == pytest.approx(5, abs=0.6)
            assert call.error == (408, "body_timeout")
            assert "5 s" in call.detail
            assert len(server.factory.configs) == 1

    run_in_no_time(main())


def test_body_that_comes_in_time_may_be_followed_by_work_that_takes_longer() -> None:
    async def main() -> None:
        async with serving(Settings(body_timeout_s=5)) as server:
            server.factory.gate = asyncio.Event()
            call = server.call("POST", "/sessions").start()
            await asyncio.sleep(50)
            assert call.sent == []

            server.factory.gate.set()
            assert (await call.done()).status == 200

    run_in_no_time(main())


async def test_inputs_beyond_the_rate_are_told_when_to_come_again() -> None:
    async with serving(Settings(inputs_per_s=0.01)) as server:
        session = await server.session()
        assert (await server.input(session, say())).status == 204

        for _ in range(2):
            call = await server.input(session, say())
            assert call.error == (429, "too_many_requests")
            assert 98 <= int(call.headers["retry-after"]) <= 100
        await server.agent.prompted()
        assert (await server.ask("GET", session)).json["queued_messages"] == 0
        assert len(server.agent.prompts) == 1


async def test_rate_of_inputs_is_that_of_all_of_ones_sessions() -> None:
    async with serving(Settings(inputs_per_s=0.01), TENANTS) as server:
        for name, statuses in ((ANN, (204, 429)), (BOB, (204, 429))):
            for status in statuses:
                session = await session_of(server, name)
                call = await server.input(session, say(), token=name)
                assert (name, call.status) == (name, status)


async def test_rate_of_inputs_is_looked_at_before_the_body_comes() -> None:
    async with serving(Settings(inputs_per_s=0.01)) as server:
        session = await server.session()
        await server.input(session, say())

        call = await server.ask("POST", f"{session}/input", [])

        assert call.error == (429, "too_many_requests")


async def test_inputs_to_no_session_are_not_counted() -> None:
    """Else their answer would tell whether there is such a session."""
    async with serving(Settings(inputs_per_s=0.01)) as server:
        for _ in range(3):
            call = await server.input(NOBODY, say())
            assert call.error == (404, "session_not_found")
        assert (await server.input(await server.session(), say())).status == 204


async def session_of(server: Server, name: str) -> str:
    """Create a session of somebody's and return its path."""
    created = await server.ask("POST", "/sessions", token=name)
    assert created.status == 200, created.body
    return created.headers["location"]


async def test_sessions_of_one_user_beyond_their_share_are_too_many() -> None:
    async with serving(Settings(max_sessions_per_user=2), TENANTS) as server:
        first = await session_of(server, ANN)
        await session_of(server, ANN)

        call = await server.ask("POST", "/sessions", token=ANN)
        assert call.error == (429, "too_many_sessions")
        assert int(call.headers["retry-after"]) > 0
        await session_of(server, BOB)
        await server.ask("DELETE", first, token=ANN)
        await session_of(server, ANN)


async def test_streams_beyond_the_limit_are_too_many() -> None:
    async with serving(Settings(max_streams=2)) as server:
        session = await server.session()
        streams = [server.call("GET", f"{session}/stream").start() for _ in range(2)]
        for stream in streams:
            await stream.heard("session_ready")

        for method in ("GET", "HEAD"):
            call = await server.ask(method, f"{session}/stream")
            assert call.status == 503
            assert int(call.headers["retry-after"]) > 0
        assert (await server.ask("GET", f"{session}/stream")).error == (
            503,
            "too_many_streams",
        )
        streams[0].leave()
        await streams[0].done()
        third = server.call("GET", f"{session}/stream").start()
        await third.heard("session_ready")
        for stream in (streams[1], third):
            stream.leave()
            await stream.done()


async def begun(call: Call) -> None:
    await call.until(lambda: len(call.sent) > 1)


async def test_streams_that_come_at_once_are_not_more_than_may_be() -> None:
    async with serving(Settings(max_streams=3)) as server:
        session = await server.session()

        calls = [server.call("GET", f"{session}/stream").start() for _ in range(10)]
        for call in calls:
            await begun(call)

        assert sorted(call.status for call in calls) == [200] * 3 + [503] * 7
        for call in calls:
            call.leave()
            await call.done()


def test_stream_ends_with_the_token_that_opened_it() -> None:
    async def main() -> None:
        expires_at_s = time.time() + 100

        async def verifier(headers: object) -> Principal:
            return Principal(ANN, expires_at_s)

        auth = AuthConfig(verifier=verifier)
        async with serving(Settings(idle_timeout_s=1000), auth) as server:
            session = await server.session()
            call = server.call("GET", f"{session}/stream").start()
            call.patience_s = 1000
            await call.done()

            assert now_s() == pytest.approx(100, abs=5)
            assert json.loads(call.events[-1].data)["code"] == "token_expired"
            assert call.complete
            assert (await server.ask("GET", session)).status == 200

    run_in_no_time(main())


# --- Idempotency-Key


def with_key(key: str = "a-key") -> dict[str, str]:
    return {"idempotency-key": key}


async def test_create_with_a_key_makes_one_session(server: Server) -> None:
    first, second = [
        await server.ask("POST", "/sessions", b"{}", headers=with_key())
        for _ in range(2)
    ]

    assert len(server.factory.configs) == 1
    assert (first.status, first.json) == (second.status, second.json)
    assert "idempotency-replayed" not in first.headers
    assert second.headers == {**first.headers, "idempotency-replayed": "true"}


async def test_create_with_a_key_by_two_at_once_makes_one_session(
    server: Server,
) -> None:
    server.factory.gate = asyncio.Event()
    calls = [
        server.call("POST", "/sessions", headers=with_key()).start() for _ in range(2)
    ]
    await settle()
    server.factory.gate.set()

    first, second = [await call.done() for call in calls]

    assert (first.status, first.json) == (second.status, second.json)
    assert len(server.factory.configs) == 1


async def test_create_with_a_key_for_another_body_is_refused(server: Server) -> None:
    await server.ask("POST", "/sessions", b"{}", headers=with_key())

    call = await server.ask("POST", "/sessions", b"", headers=with_key())

    assert call.error == (422, "idempotency_key_reused")
    assert len(server.factory.configs) == 1


async def test_create_that_failed_can_be_tried_again_with_its_key(
    server: Server,
) -> None:
    server.factory.error = OSError("no such CLI")
    failed = await server.ask("POST", "/sessions", headers=with_key())
    assert failed.error == (503, "agent_start_failed")
    server.factory.error = None

    call = await server.ask("POST", "/sessions", headers=with_key())

    assert call.status == 200
    assert "idempotency-replayed" not in call.headers


async def test_client_with_a_key_that_leaves_hears_of_its_session_when_it_is_back(
    server: Server,
) -> None:
    """Whoever has a key means to ask again for what it did not hear."""
    server.factory.gate = asyncio.Event()
    call = server.call("POST", "/sessions", headers=with_key()).start()
    await settle()

    call.leave()
    call.task.cancel()
    await asyncio.wait({call.task})
    server.factory.gate.set()
    again = await server.ask("POST", "/sessions", headers=with_key())

    assert again.status == 200
    assert again.headers["idempotency-replayed"] == "true"
    assert len(server.factory.configs) == 1
    assert (await server.ask("GET", again.headers["location"])).status == 200


async def test_create_with_a_key_leaves_no_task_behind(server: Server) -> None:
    before = running()
    server.factory.error = OSError("no such CLI")

    await server.ask("POST", "/sessions", headers=with_key())
    server.app.registry._reaper.stop()

    assert await no_more_tasks_than(before)


async def test_input_with_a_key_is_said_once(server: Server) -> None:
    session = await server.session()

    first, second = [
        await server.input(session, say(), headers=with_key()) for _ in range(2)
    ]

    assert (first.status, second.status) == (204, 204)
    assert "idempotency-replayed" not in first.headers
    assert second.headers == {**first.headers, "idempotency-replayed": "true"}
    await server.agent.prompted()
    assert (await server.ask("GET", session)).json["queued_messages"] == 0
    assert len(server.agent.prompts) == 1


async def test_input_with_the_key_of_another_sessions_is_said(server: Server) -> None:
    for _ in range(2):
        session = await server.session()
        call = await server.input(session, say(), headers=with_key())
        assert call.status == 204
        assert "idempotency-replayed" not in call.headers
        await server.agent.prompted()


async def test_input_that_was_wrong_can_be_put_right_with_its_key(
    server: Server,
) -> None:
    session = await server.session()
    wrong = await server.input(session, body("shout"), headers=with_key())
    assert wrong.error == (400, "unknown_type")

    right = await server.input(session, say(), headers=with_key())

    assert right.status == 204


async def test_input_with_a_key_to_a_session_that_is_gone_is_not_replayed(
    server: Server,
) -> None:
    session = await server.session()
    await server.input(session, say(), headers=with_key())
    server.agent.say("hi")
    await server.ask("DELETE", session)

    call = await server.input(session, say(), headers=with_key())

    assert call.error == (404, "session_closed")


@pytest.mark.parametrize("key", ["", "x" * 256])
@pytest.mark.parametrize("path", ["/sessions", "input"])
async def test_key_that_is_empty_or_too_long_names_the_header(
    server: Server, path: str, key: str
) -> None:
    session = await server.session()
    path = path if path == "/sessions" else f"{session}/input"

    call = await server.ask("POST", path, say(), headers=with_key(key))

    assert call.error == (400, "invalid_input")
    assert "Idempotency-Key" in call.detail
    assert len(server.factory.configs) == 1


async def test_key_is_of_one_principal() -> None:
    async with serving(auth=TENANTS) as server:
        answers = [
            await server.ask("POST", "/sessions", headers=with_key(), token=name)
            for name in (ANN, BOB)
        ]

        assert [call.status for call in answers] == [200, 200]
        assert answers[0].json != answers[1].json
        assert "idempotency-replayed" not in answers[1].headers
