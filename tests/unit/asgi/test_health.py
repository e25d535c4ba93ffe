from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from webkit_asgi import AuthConfig, Settings
from webkit_asgi.application import Application
from webkit_asgi.health import CHECK_TIMEOUT_S, Check, NotReady, Readiness
from webkit_core import AgentStartError, Unavailable
from webkit_core.testing import ScriptedFactory

from .driver import TOKEN, Call
from .virtual_time import now_s, run_in_no_time

SECRET = "postgres://user:hunter2@db.internal"


async def fine() -> None:
    """All is well."""


async def hangs() -> None:
    await asyncio.get_running_loop().create_future()


async def fails() -> None:
    raise ConnectionError(SECRET)


async def says() -> None:
    raise AgentStartError("there is no CLI")


def refuses(error: BaseException) -> Check:
    async def check() -> None:
        raise error

    return check


async def reason(checks: Mapping[str, Check]) -> str:
    """Return what readiness says is wrong."""
    with pytest.raises(NotReady) as caught:
        await Readiness(checks).run()
    return str(caught.value)


# --- the checks


async def test_run_names_every_check_when_all_are_content() -> None:
    assert await Readiness({"store": fine, "queue": fine}).run() == ["store", "queue"]


async def test_run_of_no_checks_is_content() -> None:
    assert await Readiness({}).run() == []


async def test_run_asks_every_time() -> None:
    asked: list[None] = []

    async def check() -> None:
        asked.append(None)
        if len(asked) == 2:
            raise AgentStartError("gone")

    readiness = Readiness({"store": check})

    assert await readiness.run() == ["store"]
    with pytest.raises(NotReady, match="store: gone"):
        await readiness.run()
    assert await readiness.run() == ["store"]


async def test_run_names_the_check_that_is_not_content_and_no_other() -> None:
    assert await reason({"store": fine, "agent": says}) == "agent: there is no CLI"


async def test_run_names_all_that_are_not_content_in_their_order() -> None:
    checks = {"b": says, "fine": fine, "a": says}

    assert await reason(checks) == "b: there is no CLI; a: there is no CLI"


async def test_not_ready_is_a_matter_of_time() -> None:
    """So the answer says when to come again."""
    assert issubclass(NotReady, Unavailable)


@pytest.mark.parametrize(
    "error",
    [ConnectionError(SECRET), ValueError(SECRET), ExceptionGroup(SECRET, [OSError()])],
    ids=lambda error: type(error).__name__,
)
async def test_what_another_program_says_is_for_the_log_alone(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody may ask, and it may be a secret."""
    with caplog.at_level(logging.ERROR, "webkit_asgi.health"):
        said = await reason({"store": refuses(error)})

    assert said == "store: failed; the log says why"
    (record,) = caplog.records
    assert record.getMessage() == "readiness check store failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_what_we_say_ourselves_is_not_logged_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await reason({"agent": says})

    assert caplog.records == []


async def test_check_that_is_no_coroutine_function_is_a_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def check() -> Any:
        return True

    assert await reason({"store": check}) == "store: failed; the log says why"
    assert "readiness check store failed" in caplog.text


async def test_checks_run_at_the_same_time() -> None:
    """Each returns only when the other has begun."""
    begun = {"a": asyncio.Event(), "b": asyncio.Event()}

    def check(mine: str, other: str) -> Check:
        async def meet() -> None:
            begun[mine].set()
            await begun[other].wait()

        return meet

    checks = {"a": check("a", "b"), "b": check("b", "a")}

    assert await Readiness(checks).run() == ["a", "b"]


def test_check_that_hangs_is_a_reason_after_its_deadline() -> None:
    async def main() -> None:
        assert await reason({"store": hangs, "agent": fine}) == (
            "store: no answer within 2 s"
        )
        assert now_s() == pytest.approx(CHECK_TIMEOUT_S)

    run_in_no_time(main())


def test_checks_that_hang_wait_for_one_deadline_and_not_for_each() -> None:
    async def main() -> None:
        readiness = Readiness(dict.fromkeys("ab", hangs), timeout_s=0.5)
        with pytest.raises(NotReady) as caught:
            await readiness.run()
        assert str(caught.value) == (
            "a: no answer within 0.5 s; b: no answer within 0.5 s"
        )
        assert now_s() == pytest.approx(0.5)

    run_in_no_time(main())


def test_check_that_is_slow_but_in_time_is_content() -> None:
    async def slow() -> None:
        await asyncio.sleep(CHECK_TIMEOUT_S * 0.9)

    async def main() -> None:
        assert await Readiness({"store": slow}).run() == ["store"]

    run_in_no_time(main())


def test_check_that_hangs_is_cancelled() -> None:
    """Else each question would leave one behind."""
    ended: list[str] = []

    async def check() -> None:
        try:
            await hangs()
        finally:
            ended.append("cancelled")

    async def main() -> None:
        await reason({"store": check})

    run_in_no_time(main())
    assert ended == ["cancelled"]


# --- GET /readyz


def application(checks: Mapping[str, Check]) -> Application:
    auth, factory = AuthConfig(token=TOKEN), ScriptedFactory()
    return Application(auth, Settings(), factory, None, checks=checks)


async def readyz(app: Application, method: str = "GET") -> Call:
    return await Call(app, method, "/readyz", token=None).done()


async def test_readyz_names_the_checks_it_made() -> None:
    app = application({"store": fine, "queue": fine})

    call = await readyz(app)

    assert (call.status, call.json) == (
        200,
        {"ready": True, "checks": ["store", "queue"]},
    )
    await app.shutdown()


async def test_readyz_of_a_check_that_fails_says_which_and_when_to_come_again() -> None:
    app = application({"store": fine, "agent": says})

    call = await readyz(app)

    assert call.error == (503, "not_ready")
    assert call.detail == "agent: there is no CLI"
    assert int(call.headers["retry-after"]) > 0
    await app.shutdown()


async def test_readyz_shows_nobody_what_another_program_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = application({"store": fails})

    call = await readyz(app)

    assert call.error == (503, "not_ready")
    assert SECRET.encode() not in call.body
    assert SECRET in caplog.text
    await app.shutdown()


async def test_readyz_of_a_server_that_starts_is_not_yet() -> None:
    app = application({"store": fine})
    app.starting = True

    call = await readyz(app)

    assert call.error == (503, "starting")
    assert "retry-after" in call.headers
    app.starting = False
    assert (await readyz(app)).status == 200
    await app.shutdown()


async def test_readyz_of_a_server_that_drains_asks_no_check() -> None:
    """It would be no news, and the store may be gone already."""
    app = application({"store": hangs})
    await app.stop()

    assert (await readyz(app)).error == (503, "draining")
    await app.shutdown()


async def test_healthz_asks_no_check() -> None:
    """A server whose store is away is not healed by starting it again."""
    app = application({"store": hangs})

    assert (await Call(app, "GET", "/healthz", token=None).done()).status == 200
    await app.shutdown()


async def test_readyz_with_agents_of_claude_code_asks_for_its_cli() -> None:
    own = Application(AuthConfig(token=TOKEN), Settings(), None, None)
    anothers = application({})

    assert "agent" in (await readyz(own)).body.decode()
    assert (await readyz(anothers)).json["checks"] == []
    await own.shutdown()
    await anothers.shutdown()


async def test_readyz_takes_the_embedders_check_for_that_of_the_same_name() -> None:
    checks = {"agent": says}
    app = Application(AuthConfig(token=TOKEN), Settings(), None, None, checks=checks)

    assert (await readyz(app)).detail == "agent: there is no CLI"
    await app.shutdown()
