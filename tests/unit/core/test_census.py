from __future__ import annotations

import asyncio
import sys
import threading
from types import FrameType
from typing import Any

from webkit_core import Session, SessionConfig
from webkit_core.census import Census
from webkit_core.testing import ScriptedFactory


async def started(name: str, census: Census) -> Session:
    session = Session(
        SessionConfig(session_id=name), ScriptedFactory(), traffic=census.traffic
    )
    census.add(session)
    await session.start()
    return session


async def test_numbers_of_a_session_stay_when_it_goes() -> None:
    census = Census()
    gone, stays = await started("gone", census), await started("stays", census)
    gone.traffic.frames += 3
    gone.traffic.bytes += 400
    await gone.close()
    before = census.snapshot(1, 0)

    census.remove(gone)
    census.remove(gone)

    after = census.snapshot(1, 0)
    events = gone.log.last_seq + stays.log.last_seq
    assert before.events == after.events == events
    assert (after.frames, after.bytes) == (3, 400)
    assert (list(census), census.get("gone")) == ([stays], None)
    await stays.close()


async def test_another_session_of_that_id_is_not_removed() -> None:
    census = Census()
    first = await started("x", census)
    second = await started("x", census)

    census.remove(first)

    assert census.get("x") is second
    await first.close()
    await second.close()


async def test_those_who_wait_for_their_start_are_starting() -> None:
    census = Census()
    session = await started("x", census)

    now = census.snapshot(3, 2)

    assert (now.live, now.starting, now.states["idle"]) == (3, 2, 1)
    await session.close()


async def test_snapshot_while_a_session_goes_counts_no_event_twice() -> None:
    """Stopped in the middle of taking one, in another thread."""
    census = Census()
    session = await started("x", census)
    await session.close()
    inside, go_on = threading.Event(), threading.Event()
    counted: list[int] = []

    def stop_inside(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code is not Census.snapshot.__code__:
            return None
        if "states" in frame.f_locals and not inside.is_set():
            inside.set()
            go_on.wait(5)
        return stop_inside

    def collect() -> None:
        sys.settrace(stop_inside)
        counted.append(census.snapshot(1, 0).events)
        sys.settrace(None)
        counted.append(census.snapshot(1, 0).events)

    thread = threading.Thread(target=collect)
    thread.start()
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, inside.wait)
    census.remove(session)
    go_on.set()
    await loop.run_in_executor(None, thread.join)

    assert counted == [session.log.last_seq] * 2
