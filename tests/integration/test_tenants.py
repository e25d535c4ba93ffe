"""Two tenants of one server, known by their issuer's tokens: neither sees the other."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from webkit_asgi.scripted_model import script

from .client import WAIT_S, SessionClient, Stream, message_ended, new_http, new_session
from .server import ServerProcess, running_server, server_env

ISSUER: Final = "https://idp.example"
AUDIENCE: Final = "webkit"
OLD_TOKEN: Final = "an-old-token"
NEW_TOKEN: Final = "a-new-token"
KEY: Final = {"idempotency-key": "a-key"}
KEY_OF_ANN: Final = {"idempotency_key": KEY["idempotency-key"]}
HOUR_S: Final = 3600

Told = tuple[int, dict[str, str], str]
"""Status, headers and body."""


class Issuer:
    """Signs tokens with one key."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)

    @property
    def variables(self) -> dict[str, str]:
        """Where a server learns of it; the key as a file of variables has it."""
        pem = self._key.public_key().public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )
        return {
            "AGENT_WEBKIT_JWT_ISSUER": ISSUER,
            "AGENT_WEBKIT_JWT_AUDIENCE": AUDIENCE,
            "AGENT_WEBKIT_JWT_KEY": pem.decode().replace("\n", "\\n"),
            "AGENT_WEBKIT_JWT_LEEWAY_S": "0",
        }

    def token(self, name: str, lives_s: int = HOUR_S) -> str:
        exp = int(time.time()) + lives_s
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": name, "exp": exp}
        return jwt.encode(claims, self._key, "RS256")


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def tenanted(
    issuer: Issuer,
    model_env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """A server of whoever has the issuer's tokens, or one of two of its own."""
    env = server_env(
        model_env,
        AGENT_WEBKIT_AUTH_TOKEN=f"{OLD_TOKEN} {NEW_TOKEN}",
        **issuer.variables,
    )
    with running_server(env, tmp_path_factory.mktemp("work")) as process:
        yield process


@pytest.fixture
async def ann(
    issuer: Issuer, tenanted: ServerProcess
) -> AsyncIterator[httpx.AsyncClient]:
    async with new_http(tenanted.url, issuer.token("ann")) as http:
        yield http


@pytest.fixture
async def bob(
    issuer: Issuer, tenanted: ServerProcess
) -> AsyncIterator[httpx.AsyncClient]:
    async with new_http(tenanted.url, issuer.token("bob")) as http:
        yield http


@pytest.fixture
async def anns(ann: httpx.AsyncClient, tmp_path: Path) -> AsyncIterator[SessionClient]:
    """A session of ann's."""
    session = await new_session(ann, cwd=str(tmp_path))
    yield session
    await ann.delete(session.path)


async def ids_of(http: httpx.AsyncClient) -> list[str]:
    response = await http.get("/sessions")
    assert response.status_code == 200
    return [item["session_id"] for item in response.json()["sessions"]]


def code(told: Told) -> str:
    return str(json.loads(told[2])["code"])


# --- a session that is not there


ANSWER: Final = "toolu_of_ann"
"""Stands for the correlation id of what ann is asked."""

INPUTS: Final[tuple[dict[str, Any], ...]] = (
    {"type": "user_message", "content": "hello"},
    {"type": "interrupt"},
    {"type": "permission_response", "correlation_id": ANSWER, "behavior": "allow"},
    {"type": "permission_response", "correlation_id": ANSWER, "behavior": "deny"},
    {"type": "question_response", "correlation_id": ANSWER, "answers": {"q": "a"}},
    {"type": "set_permission_mode", "mode": "plan"},
    {"type": "set_permission_mode", "mode": "bypassPermissions"},
    {"type": "set_model", "model": None},
    {"type": "stop_task", "task_id": "t"},
    {"type": "shout"},
)


def attempts(
    correlation_id: str, cursor: int
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Return everything that can be asked of a session: method, path below it, rest."""
    for method in ("GET", "HEAD"):
        yield method, "", {}
        for at in (0, cursor, 10**6):
            yield method, "/stream", {"headers": {"last-event-id": str(at)}}
            yield method, f"/stream?last_event_id={at}", {}
        yield method, "/stream", {"headers": {"last-event-id": "x"}}
    for message in INPUTS:
        body = json.dumps(message).replace(ANSWER, correlation_id)
        yield "POST", "/input", {"content": body}
        yield "POST", "/input", {"content": body, "headers": KEY}
        yield "POST", "/input", {"content": body, "headers": {"x-subscriber-id": "ann"}}
    yield "POST", "/input", {"content": b"{"}
    yield "POST", "/input", {"content": b"{", "headers": {"x-subscriber-id": "a b"}}
    yield "DELETE", "", {}


async def told(
    http: httpx.AsyncClient, session_id: str, attempt: tuple[str, str, dict[str, Any]]
) -> Told:
    """Return what somebody is told, with the session's id left out."""
    method, below, rest = attempt
    path = f"/sessions/{session_id}{below}"
    async with http.stream(method, path, **rest) as response:
        # What is not refused may be a stream, which would go on.
        body = (await response.aread()).decode() if response.is_error else "let in"
    headers = {key: text for key, text in response.headers.items() if key != "date"}
    return response.status_code, headers, body.replace(session_id, "ID")


async def sees_nothing_of(
    http: httpx.AsyncClient, session_id: str, *asked: Any
) -> None:
    """Check that somebody is told what is told of a session that never was."""
    never = str(uuid.uuid4())
    for attempt in attempts(*asked):
        found = await told(http, session_id, attempt)
        assert found == await told(http, never, attempt), attempt
        assert found[0] == 404, attempt
        assert attempt[0] == "HEAD" or code(found) == "session_not_found"
    assert session_id not in await ids_of(http)


async def test_session_of_another_tenant_is_not_there_by_any_route(
    anns: SessionClient, bob: httpx.AsyncClient, tmp_path: Path
) -> None:
    """And what they try leaves no trace: the tool still waits for ann's answer."""
    turn = script(
        [{"tool": "Bash", "input": {"command": "touch made"}}], [{"say": "done"}]
    )
    async with anns.stream() as watching:
        said = await anns.post({"type": "user_message", "content": turn}, **KEY_OF_ANN)
        assert said.status_code == 204
        request = await watching.until("permission_request")
        await watching.until("session_state", after=request.id)
        await watching.until_true(lambda: message_ended(watching))
        before, events = await anns.info(), [*watching.events]

        await sees_nothing_of(
            bob, anns.id, request.data["correlation_id"], watching.last_id
        )

        assert await anns.info() == before
        assert watching.events == events
        assert not (tmp_path / "made").exists()
        await anns.answer(request.data["correlation_id"], "allow")
        result = await watching.until("result")
        assert result.data["is_error"] is False
        assert (tmp_path / "made").exists()


async def test_turn_of_another_tenant_cannot_be_stopped(
    anns: SessionClient, bob: httpx.AsyncClient
) -> None:
    words = " ".join(f"w{n}" for n in range(40))
    async with anns.stream() as watching:
        await anns.say(script([{"say": words, "delay_s": 0.02}]))
        await watching.until("message_delta")

        for attempt in (
            ("POST", "/input", {"content": b'{"type": "interrupt"}'}),
            ("DELETE", "", {}),
        ):
            assert (await told(bob, anns.id, attempt))[0] == 404

        result = await watching.until("result")
        assert result.data["subtype"] == "success"
        assert not watching.named("done")


async def test_lists_have_ones_own_sessions_alone(
    anns: SessionClient, ann: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    bobs = await new_session(bob)

    assert await ids_of(ann) == [anns.id]
    assert await ids_of(bob) == [bobs.id]
    await sees_nothing_of(ann, bobs.id, "toolu_1", 1)
    await bob.delete(bobs.path)


async def test_idempotency_key_of_another_tenant_is_another_key(
    ann: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    made = [
        await http.post("/sessions", json={}, headers=KEY) for http in (ann, bob, ann)
    ]

    anns, bobs, again = (response.json()["session_id"] for response in made)
    assert anns == again != bobs
    assert ["idempotency-replayed" in r.headers for r in made] == [False, False, True]
    assert await ids_of(ann) == [anns]
    assert await ids_of(bob) == [bobs]
    for http, session_id in ((ann, anns), (bob, bobs)):
        assert (await http.delete(f"/sessions/{session_id}")).status_code == 204


async def test_key_of_anothers_body_does_not_tell_that_it_was_used(
    anns: SessionClient, bob: httpx.AsyncClient
) -> None:
    """It would be 422 for ann."""
    await anns.post({"type": "interrupt"}, **KEY_OF_ANN)
    other = {"content": b'{"type": "set_model", "model": null}', "headers": KEY}

    found = await told(anns.http, anns.id, ("POST", "/input", other))
    assert (found[0], code(found)) == (422, "idempotency_key_reused")

    found = await told(bob, anns.id, ("POST", "/input", other))
    assert (found[0], code(found)) == (404, "session_not_found")


async def test_session_that_was_closed_is_closed_for_its_owner_alone(
    ann: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    session = await new_session(ann)
    assert (await ann.delete(session.path)).status_code == 204

    found = await told(ann, session.id, ("GET", "", {}))
    assert (found[0], code(found)) == (404, "session_closed")
    await sees_nothing_of(bob, session.id, "toolu_1", 1)


async def test_session_that_expired_has_done_so_for_its_owner_alone(
    issuer: Issuer, model_env: dict[str, str], tmp_path: Path
) -> None:
    env = server_env(model_env, AGENT_WEBKIT_IDLE_TIMEOUT_S="1", **issuer.variables)
    with running_server(env, tmp_path) as server:
        async with (
            new_http(server.url, issuer.token("ann")) as ann,
            new_http(server.url, issuer.token("bob")) as bob,
        ):
            session = await new_session(ann)
            async with session.stream() as watching:
                await watching.until("session_ready")
            async with asyncio.timeout(WAIT_S):
                while await live(bob):
                    pass

            found = await told(ann, session.id, ("GET", "", {}))
            assert (found[0], code(found)) == (404, "session_expired")
            await sees_nothing_of(bob, session.id, "toolu_1", 1)


async def live(http: httpx.AsyncClient) -> int:
    return int((await http.get("/healthz")).json()["live_sessions"])


# --- tokens


async def test_token_that_was_put_together_from_two_is_nobodys(
    issuer: Issuer, tenanted: ServerProcess, anns: SessionClient
) -> None:
    """Bob's signature under ann's claims, and the other way round."""
    one, two = (issuer.token(name).split(".") for name in ("ann", "bob"))
    for forged in (".".join((*one[:2], two[2])), ".".join((*two[:2], one[2]))):
        async with new_http(tenanted.url, forged) as http:
            response = await http.get(anns.path)
            assert response.status_code == 401
            assert response.json()["code"] == "unauthorized"


async def test_stream_ends_with_its_token_and_goes_on_with_a_new_one(
    issuer: Issuer, tenanted: ServerProcess, anns: SessionClient
) -> None:
    """Nothing that was said in between is missed, and the old token is good no more."""
    async with new_http(tenanted.url, issuer.token("ann", lives_s=3)) as soon_over:
        session = SessionClient(soon_over, anns.id)
        async with session.stream() as first:
            await first.until("session_ready")
            await first.until_end()
        assert_expired(first)
        assert (await soon_over.get(anns.path)).status_code == 401

    async with anns.stream() as whole:
        await anns.turn(whole, script([{"say": "in between"}]))
        recorded = [*whole.events]
    async with new_http(tenanted.url, issuer.token("ann")) as renewed:
        session = SessionClient(renewed, anns.id)
        async with session.stream(first.last_id) as second:
            await second.until_true(lambda: second.last_id >= recorded[-1].id)

    assert not second.named("error")
    assert [*first.events[:-1], *second.events][: len(recorded)] == recorded


def assert_expired(stream: Stream) -> None:
    """It ended as a stream does, with a frame that says why and has no id."""
    last = stream.events[-1]
    assert (last.event, last.data["code"]) == ("error", "token_expired")
    frame = bytes(stream.raw).rstrip().rpartition(b"\n\n")[2]
    assert frame.startswith(b"event: error\ndata: ")
    assert b"id:" not in frame
    assert last.id == stream.events[-2].id


async def test_holders_of_old_and_new_tokens_share_their_sessions(
    tenanted: ServerProcess, bob: httpx.AsyncClient
) -> None:
    """And nobody else does who has a token of the issuer."""
    async with (
        new_http(tenanted.url, OLD_TOKEN) as old,
        new_http(tenanted.url, NEW_TOKEN) as new,
        new_http(tenanted.url, f"{OLD_TOKEN} {NEW_TOKEN}") as both,
    ):
        made = await new_session(old)
        session = SessionClient(new, made.id)
        assert await ids_of(new) == await ids_of(old) == [made.id]
        async with made.stream() as watching:
            await session.turn(watching, script([{"say": "hello"}]))

        await sees_nothing_of(bob, made.id, "toolu_1", 1)
        assert (await both.get(made.path)).status_code == 401
        assert (await new.delete(made.path)).status_code == 204
        assert (await old.get(made.path)).json()["code"] == "session_closed"
