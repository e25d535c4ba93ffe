"""Sessions whose CLI is the fake one, and a look at what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from .sessions import WAIT_S, Fakes, install_cli


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop that sessions have in production."""
    return "asyncio", {"use_uvloop": True}


async def no_task_is_left() -> None:
    """Wait for the SDK's and our tasks; the test runner's own are no matter."""
    tasks = {t for t in asyncio.all_tasks() if "TestRunner" not in repr(t.get_coro())}
    if tasks:
        await asyncio.wait(tasks, timeout=WAIT_S)
    assert not [task for task in tasks if not task.done()]


@pytest.fixture
async def fakes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Fakes]:
    """Make sessions; afterwards there is no process, no task and no traceback."""
    fakes = Fakes(install_cli(tmp_path), tmp_path, uuid.uuid4().hex)
    yield fakes
    await fakes.end()
    await no_task_is_left()
    gc.collect(1)  # what this test has left; all of it would take long
    await asyncio.sleep(0)
    for record in [*caplog.get_records("call"), *caplog.records]:
        ours = record.name.startswith(("webkit", "asyncio"))
        if ours and record.levelno >= logging.ERROR:
            assert record.getMessage().endswith(tuple(fakes.logged))
