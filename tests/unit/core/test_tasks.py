from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from webkit_core.tasks import OwnedTasks, error_of, is_being_cancelled


async def fail() -> None:
    raise RuntimeError("boom")


async def test_spawned_task_runs_though_nobody_holds_it() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    OwnedTasks("somebody").spawn(work())
    gc.collect()

    async with asyncio.timeout(5):
        await done.wait()


async def test_error_nobody_waited_for_is_noted_under_its_owner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "webkit_core.tasks")
    task = OwnedTasks("session 1").spawn(fail())

    await asyncio.wait({task})
    await asyncio.sleep(0)

    assert "session 1: boom" in caplog.text


async def test_cancel_all_ends_what_still_runs() -> None:
    tasks = OwnedTasks("somebody")
    waiting = tasks.spawn(asyncio.sleep(3600))

    tasks.cancel_all()
    await asyncio.wait({waiting})

    assert waiting.cancelled()


async def test_error_of_a_finished_task_is_what_it_raised() -> None:
    tasks = OwnedTasks("somebody")
    fine, failed, cancelled = (
        tasks.spawn(asyncio.sleep(0)),
        tasks.spawn(fail()),
        tasks.spawn(asyncio.sleep(3600)),
    )
    cancelled.cancel()
    await asyncio.wait({fine, failed, cancelled})

    assert error_of(fine) is None
    assert isinstance(error_of(failed), RuntimeError)
    assert isinstance(error_of(cancelled), asyncio.CancelledError)


async def test_cancellation_from_within_is_told_from_one_of_the_task() -> None:
    async def seen(inner: bool) -> bool:
        try:
            if inner:
                raise asyncio.CancelledError
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return is_being_cancelled()
        raise AssertionError

    tasks = OwnedTasks("somebody")
    within, outside = tasks.spawn(seen(True)), tasks.spawn(seen(False))
    await asyncio.sleep(0)
    outside.cancel()

    assert (await within, await outside) == (False, True)
