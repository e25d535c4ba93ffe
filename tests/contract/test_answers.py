"""Whatever it is asked, the server answers what the document says; and forgets all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from hypothesis import given, settings, strategies as st

from tests.unit.asgi.driver import TOKEN, Call, Server, serving
from webkit_asgi import AuthConfig, Settings
from webkit_core import Deadlines

from .requests import (
    ADMIN_TOKEN,
    MAX_BODY_BYTES,
    METRICS_TOKEN,
    Request,
    is_valid,
    requests,
    wrong,
)
from .schemas import DOCUMENT

SETTINGS: Final = Settings(
    buffer_events=8,
    max_sessions=4,
    max_body_bytes=MAX_BODY_BYTES,
    queued_messages=2,
    drain_timeout_s=0.01,
)
DEADLINES: Final = Deadlines(
    control_s=0.01, close_turn_s=0.01, disconnect_s=0.05, interrupt_s=1.0
)
AUTH: Final = AuthConfig(
    token=TOKEN, admin_token=ADMIN_TOKEN, metrics_token=METRICS_TOKEN
)


class Course:
    """A server, its sessions, and all that happens to them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.asking: list[asyncio.Task[Any]] = []
        self.ids: list[str] = []

    async def begin(self) -> None:
        """Have two sessions; the second waits for both kinds of answer."""
        for _ in range(2):
            await self.server.session()
        self.ids = [session.id for session in self.server.app.registry]
        agent = self.server.agent
        self.asking += [
            asyncio.ensure_future(agent.ask("toolu_1", command="ls")),
            asyncio.ensure_future(
                agent.ask("toolu_2", "AskUserQuestion", questions=QUESTIONS)
            ),
        ]
        watching = self.server.call("GET", f"/sessions/{self.ids[1]}/stream").start()
        await watching.heard("permission_request")
        await watching.heard("ask_user_question")
        watching.leave()
        await watching.done()

    async def happen(self, what: str) -> None:
        """Let something happen that no client asked for."""
        agent = self.server.agent
        match what:
            case "says":
                agent.say("as you wish")
            case "dies":
                agent.end(RuntimeError("no more"))
            case "refuses":
                agent.refuses |= {"set_permission_mode", "stop_task"}
            case "hangs":
                agent.hangs |= {"set_permission_mode", "stop_task"}
            case "no more agents":
                self.server.factory.error = RuntimeError("not today")
        for _ in range(10):
            await asyncio.sleep(0)

    def session_id(self, request: Request) -> str:
        if isinstance(request.session, str):
            return request.session.replace("/", "-")
        return self.ids[request.session % len(self.ids)]

    async def ask(self, request: Request) -> Call:
        call = self.server.call(
            request.method,
            request.path_with(self.session_id(request)),
            request.body,
            token=request.token,
            query=request.query_string,
            headers={name.lower(): text for name, text in request.headers.items()},
        )
        call.start()
        await call.until(lambda: len(call.sent) > 1)
        call.leave()  # a stream would go on
        return await call.done()

    async def end(self) -> None:
        for agent in self.server.factory.agents:
            agent.end()
        await asyncio.gather(*self.asking)


QUESTIONS: Final = [{"question": "Which one?"}, {"question": "And which of those?"}]
HAPPENINGS: Final = ("says", "dies", "refuses", "hangs", "no more agents")

Step = Request | str
steps = st.lists(
    st.one_of([requests()] * 6 + [st.sampled_from(HAPPENINGS)]), min_size=4, max_size=12
)


async def run(
    course: list[Step], judge: Callable[[Course, Request, Call], str]
) -> None:
    async with serving(SETTINGS, AUTH, deadlines=DEADLINES) as server:
        it = Course(server)
        await it.begin()
        try:
            for step in course:
                if isinstance(step, str):
                    await it.happen(step)
                else:
                    call = await it.ask(step)
                    assert judge(it, step, call) == "", (step, call.sent)
        finally:
            await it.end()


@given(course=steps)
@settings(max_examples=40)
async def test_every_answer_is_in_the_document(course: list[Step]) -> None:
    await run(course, lambda _, request, call: wrong(request, call))


async def test_every_answer_of_a_server_that_drains_is_in_the_document() -> None:
    def plain(method: str, path: str, token: str = TOKEN) -> Request:
        return Request(
            method=method,
            path=path,
            session=0,
            token=token,
            headers={},
            query={},
            body=b"{}",
        )

    course: list[Step] = [plain("POST", "/admin/drain", ADMIN_TOKEN)]
    for path, methods in DOCUMENT["paths"].items():
        course += [plain(method.upper(), path) for method in methods]

    await run(course, lambda _, request, call: wrong(request, call))


@given(request=requests().filter(lambda request: request.operation is not None))
@settings(max_examples=80)
async def test_what_the_document_does_not_allow_is_told_so(request: Request) -> None:
    """And what it allows is never malformed, of an unknown type, or a wrong cursor."""
    request.session = 1
    request.token = ADMIN_TOKEN if request.path == "/admin/drain" else TOKEN

    def judge(_: Course, request: Request, call: Call) -> str:
        code = call.json["code"] if call.status >= 400 and call.body else ""
        if is_valid(request) is False:
            # A wrong key is looked at when the body is there, which may be too long.
            long = len(request.body) > MAX_BODY_BYTES and call.status == 413
            told = call.status == 400 or long or request.method == "HEAD"
            return "" if told else "was taken"
        if is_valid(request):
            bad = ("malformed_json", "unknown_type", "invalid_cursor")
            return f"{code}: {call.detail}" if code in bad else ""
        return ""

    await run([request], judge)


async def test_document_is_served_to_everybody() -> None:
    async with serving() as server:
        call = await server.ask("GET", "/openapi.json", token=None)

        assert call.status == 200
        assert call.json == DOCUMENT


async def test_document_of_a_mounted_server_says_where() -> None:
    async with serving() as server:
        call = await server.ask("GET", "/openapi.json", root_path="/agents")

        assert call.json["servers"] == [{"url": "/agents"}]
