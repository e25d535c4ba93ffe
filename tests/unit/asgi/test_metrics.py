from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterable

import pytest
from opentelemetry import metrics
from opentelemetry.metrics import (
    CallbackOptions,
    NoOpMeterProvider,
    Observation,
    _internal as opentelemetry_process,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.core.collecting import Collecting
from webkit_asgi import AuthConfig, Settings
from webkit_asgi.metrics import CONTENT_TYPE, INSTALL, Metrics, MetricsNotInstalled

from .driver import TOKEN, Call, Server, serving


class Theirs(Collecting):
    """An embedder's provider.

    Without telemetry on it yet: a provider takes an instrument's callback once.
    """

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)


Numbers = dict[tuple[str, str], float]
"""By a number's name and the values of its attributes."""

NEEDED = ("opentelemetry.exporter.prometheus", "prometheus_client")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def numbers_of(text: str) -> Numbers:
    return {
        (sample.name.removeprefix("agent_webkit_"), ",".join(sample.labels.values())): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def numbers(server: Server) -> Numbers:
    """Return what ``GET /metrics`` says."""
    call = await server.ask("GET", "/metrics")
    assert call.status == 200
    return numbers_of(call.body.decode())


def of(found: Numbers, name: str) -> dict[str, float]:
    """The numbers of one name."""
    return {values: number for (its, values), number in found.items() if its == name}


async def ready(server: Server, path: str, **rest: str) -> Call:
    call = server.call("GET", f"{path}/stream", headers=rest).start()
    return await call.heard("session_ready")


async def began(call: Call) -> None:
    await call.start().until(lambda: len(call.sent) >= 2)


async def left(*calls: Call) -> None:
    for call in calls:
        call.leave()
        await call.done()


def missing(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let these be as if they had not been installed."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def no_global_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opentelemetry_process, "_METER_PROVIDER", None)


# --- the text


async def test_metrics_is_text_that_prometheus_reads(server: Server) -> None:
    call = await server.ask("GET", "/metrics")

    assert call.status == 200
    assert call.headers["content-type"] == CONTENT_TYPE.decode()
    assert call.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert call.complete
    assert call.body.endswith(b"\n")


async def test_metrics_has_the_process_too(server: Server) -> None:
    found = await numbers(server)

    assert found["process_resident_memory_bytes", ""] > 1_000_000
    assert found["process_open_fds", ""] > 3


async def test_metrics_has_no_number_of_the_exporters_own(server: Server) -> None:
    text = (await server.ask("GET", "/metrics")).body

    assert b"target_info" not in text
    assert b"otel_scope" not in text


async def test_metrics_of_a_server_that_did_nothing_are_zero_and_not_absent(
    server: Server,
) -> None:
    found = await numbers(server)

    for name in ("sessions_live", "sessions_created_total", "resume_412_total"):
        assert found[name, ""] == 0
    assert of(found, "subscribers_evicted_total") == {
        "fell_behind": 0,
        "took_nothing": 0,
    }


async def test_metrics_count_what_happened(server: Server) -> None:
    first, second = await server.session(), await server.session()
    streams = [await ready(server, path) for path in (first, first, second)]

    found = await numbers(server)

    assert found["sessions_created_total", ""] == 2
    assert found["sessions_start_duration_seconds_count", ""] == 2
    assert found["sessions_live", ""] == 2
    assert found["sessions_by_state", "idle"] == 2
    assert found["subscribers", ""] == 3
    assert found["events_appended_total", ""] == 2
    assert found["frames_sent_total", ""] == 3
    sent = sum(len(body) for call in streams for body in call.bodies[1:])
    assert found["sent_bytes_total", ""] == sent > 0

    await left(*streams)
    await server.ask("DELETE", first)
    found = await numbers(server)
    assert found["sessions_live", ""] == 1
    assert found["subscribers", ""] == 0
    assert of(found, "sessions_evicted_total")["closed"] == 1
    assert found["sessions_created_total", ""] == 2


async def test_metrics_count_each_event_and_stream_it_was_sent_to(
    server: Server,
) -> None:
    """Events that leave in one piece are as many as those that leave one by one."""
    path = await server.session()
    stream = await ready(server, path)
    log = server.app.registry.get(path.rpartition("/")[2]).log
    for _ in range(10):
        log.append("notice", {"text": "x"})
    await stream.until(lambda: len(stream.ids) == 11)

    found = await numbers(server)

    assert found["frames_sent_total", ""] == 11
    assert found["sent_bytes_total", ""] == log.held_bytes
    await left(stream)


async def test_metrics_of_two_servers_are_told_apart(server: Server) -> None:
    other = Server(Settings())
    await server.session()

    assert (await numbers(server))["sessions_created_total", ""] == 1
    assert (await numbers(other))["sessions_created_total", ""] == 0
    await other.app.shutdown()


async def test_metrics_of_a_server_without_a_provider_are_not_the_processs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other programs in the process have their own."""
    no_global_provider(monkeypatch)
    before = metrics.get_meter_provider()

    async with serving() as server:
        await numbers(server)

        assert metrics.get_meter_provider() is before
        assert isinstance(server.app.metrics.provider, MeterProvider)


async def test_metrics_are_not_collected_on_the_event_loop() -> None:
    """Collecting reads a file for each agent."""
    threads: list[threading.Thread] = []
    loops: list[bool] = []

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        threads.append(threading.current_thread())
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            loops.append(False)
        return [Observation(1)]

    provider = MeterProvider(shutdown_on_exit=False)
    provider.get_meter("embedder").create_observable_gauge("mine", [observe])
    async with serving(meter_provider=provider) as server:
        await numbers(server)

    assert threads
    assert threading.current_thread() not in threads
    assert len(loops) == len(threads)


# --- what is refused


async def test_refusals_are_counted_by_their_code(server: Server) -> None:
    await server.ask("GET", "/none")
    await server.ask("GET", "/none")
    await server.ask("GET", "/sessions/none")
    await server.ask("GET", "/sessions", token=None)
    await server.ask("PUT", "/sessions")
    await server.ask("POST", "/sessions", b"{")

    assert of(await numbers(server), "refusals_total") == {
        "not_found": 2,
        "session_not_found": 1,
        "unauthorized": 1,
        "method_not_allowed": 1,
        "malformed_json": 1,
    }


async def test_refusal_for_want_of_room_is_counted() -> None:
    async with serving(Settings(max_sessions=1)) as server:
        await server.session()
        await server.ask("POST", "/sessions")

        assert of(await numbers(server), "refusals_total") == {"at_capacity": 1}


async def test_answers_that_are_none_are_no_refusals(server: Server) -> None:
    await server.session()
    await server.ask("GET", "/healthz", token=None)

    assert of(await numbers(server), "refusals_total") == {}


# --- resuming


async def test_resume_is_counted_by_how_far_behind_it_was(server: Server) -> None:
    path = await server.session()
    log = server.app.registry.get(path.rpartition("/")[2]).log
    while log.last_seq < 10:
        log.append("notice", {})
    for cursor in ("10", "3"):
        call = server.call("GET", f"{path}/stream", headers={"last-event-id": cursor})
        await began(call)
        await left(call)

    found = await numbers(server)

    assert found["resume_depth_count", ""] == 2
    assert found["resume_depth_sum", ""] == 0 + 7
    assert found["resume_412_total", ""] == 0


async def test_stream_from_the_beginning_is_no_resume(server: Server) -> None:
    path = await server.session()
    await left(await ready(server, path))

    assert not of(await numbers(server), "resume_depth_count")


@pytest.mark.parametrize(("cursor", "code"), [("1", "evicted"), ("99", "cursor_ahead")])
async def test_resume_that_came_too_late_is_counted(cursor: str, code: str) -> None:
    async with serving(Settings(buffer_events=3)) as server:
        path = await server.session()
        log = server.app.registry.get(path.rpartition("/")[2]).log
        while log.last_seq < 10:
            log.append("notice", {})

        call = await server.ask(
            "GET", f"{path}/stream", headers={"last-event-id": cursor}
        )

        assert call.error == (412, code)
        found = await numbers(server)
        assert found["resume_412_total", ""] == 1
        assert found["refusals_total", code] == 1
        assert not of(found, "resume_depth_count")
        assert found["events_evicted_total", ""] == 7


# --- who may read


OPERATORS = AuthConfig(token=TOKEN, admin_token="admin", metrics_token="scraper")


@pytest.mark.parametrize(
    ("token", "status"),
    [(TOKEN, 200), ("admin", 200), ("scraper", 200), ("other", 401), (None, 401)],
)
async def test_metrics_are_for_users_operators_and_scrapers(
    token: str | None, status: int
) -> None:
    async with serving(auth=OPERATORS) as server:
        assert (await server.ask("GET", "/metrics", token=token)).status == status


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/sessions"), ("POST", "/sessions"), ("POST", "/admin/drain")],
)
async def test_scraper_may_do_nothing_else(method: str, path: str) -> None:
    async with serving(auth=OPERATORS) as server:
        call = await server.ask(method, path, token="scraper")

        assert call.error == (401, "unauthorized")
        assert server.factory.configs == []


async def test_metrics_without_authentication_are_for_everybody() -> None:
    async with serving(auth=AuthConfig(disabled=True)) as server:
        assert (await server.ask("GET", "/metrics", token=None)).status == 200


# --- without the packages


@pytest.mark.parametrize("module", [*NEEDED, "opentelemetry.sdk.metrics"])
async def test_metrics_without_the_packages_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """And everything else works."""
    no_global_provider(monkeypatch)
    missing(monkeypatch, module)
    async with serving() as server:
        await server.session()

        call = await server.ask("GET", "/metrics")

        assert call.status == 501
        assert call.error[1] == "metrics_not_installed"
        assert INSTALL in call.detail
        assert server.app.metrics.provider is None


async def test_embedders_provider_gets_everything_without_the_packages_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing(monkeypatch, *NEEDED)
    theirs = Theirs()
    async with serving(meter_provider=theirs.meter_provider) as server:
        await server.session()

        assert (await server.ask("GET", "/metrics")).error[1] == "metrics_not_installed"
        assert theirs.number("agent_webkit.sessions.created") == 1
        assert theirs.number("agent_webkit.sessions.live") == 1


async def test_packages_that_come_later_are_no_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of the numbers would be missing."""
    with monkeypatch.context() as patched:
        missing(patched, *NEEDED)
        without = Metrics()

    with pytest.raises(MetricsNotInstalled):
        await without.text()


# --- somebody else's provider


async def test_embedders_provider_gets_everything_and_so_does_the_text() -> None:
    theirs = Theirs()
    async with serving(meter_provider=theirs.meter_provider) as server:
        await server.session()
        await server.ask("GET", "/none")

        assert theirs.number("agent_webkit.sessions.created") == 1
        assert theirs.numbers("agent_webkit.refusals", "reason") == {"not_found": 1}
        found = await numbers(server)
        assert found["sessions_created_total", ""] == 1
        assert found["refusals_total", "not_found"] == 1
        assert server.app.metrics.provider is theirs.meter_provider


async def test_provider_of_the_process_gets_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = Theirs()
    monkeypatch.setattr(opentelemetry_process, "_METER_PROVIDER", theirs.meter_provider)
    async with serving() as server:
        await server.session()

        assert theirs.number("agent_webkit.sessions.created") == 1
        assert (await numbers(server))["sessions_created_total", ""] == 1


async def test_embedders_provider_comes_before_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, embedders = Theirs(), Theirs()
    monkeypatch.setattr(
        opentelemetry_process, "_METER_PROVIDER", process.meter_provider
    )
    async with serving(meter_provider=embedders.meter_provider) as server:
        await server.session()

    assert embedders.number("agent_webkit.sessions.created") == 1
    assert process.metrics() == {}


async def test_two_servers_on_one_provider_are_counted_together() -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    async with serving(meter_provider=provider) as server:
        other = Server(Settings(), meter_provider=provider)
        await server.session()
        await other.session()

        for each in (server, other):
            found = await numbers(each)
            assert found["sessions_live", ""] == 2
            assert found["sessions_created_total", ""] == 2
        await other.app.shutdown()


@pytest.mark.parametrize("by", ["embedder", "process"])
async def test_provider_that_takes_no_reader_is_told_of(
    monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The numbers go elsewhere, or nowhere: an empty text would be a lie."""

    class Elsewhere(NoOpMeterProvider):
        """Somebody's own."""

    if by == "process":
        monkeypatch.setattr(opentelemetry_process, "_METER_PROVIDER", Elsewhere())
    embedders = NoOpMeterProvider() if by == "embedder" else None
    async with serving(meter_provider=embedders) as server:
        call = await server.ask("GET", "/metrics")

        assert call.status == 501
        assert call.error[1] == "metrics_elsewhere"
        assert "meter provider" in call.detail
        await server.session()


async def test_no_op_provider_of_the_process_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the API has by itself leads nowhere, and was set by nobody."""
    monkeypatch.setattr(opentelemetry_process, "_METER_PROVIDER", NoOpMeterProvider())

    async with serving() as server:
        await server.session()

        assert (await numbers(server))["sessions_created_total", ""] == 1
