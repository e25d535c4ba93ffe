from __future__ import annotations

import pytest

from webkit_core.activity import Activity
from webkit_core.protocol import Event, Notice, TaskStatus, ToolResult, ToolUse
from webkit_core.translate import TASK_ENDED


def told(*events: Event) -> Activity:
    activity = Activity()
    for event in events:
        activity.note(event)
    return activity


def use(tool_use_id: str = "toolu_1") -> ToolUse:
    return ToolUse("msg_1", tool_use_id, "Bash", {})


def gave(tool_use_id: str = "toolu_1", *, is_error: bool = False) -> ToolResult:
    return ToolResult(tool_use_id, "out", is_error)


def task(status: str | None, task_id: str = "t-1") -> TaskStatus:
    return TaskStatus(task_id, status)


def test_nothing_has_begun_at_the_beginning() -> None:
    activity = told()

    assert (activity.tools, activity.in_background) == (0, False)
    assert not activity.announced("toolu_1")


@pytest.mark.parametrize("is_error", [False, True])
def test_tool_runs_from_its_use_to_its_result(is_error: bool) -> None:
    activity = told(use())
    assert (activity.tools, activity.announced("toolu_1")) == (1, True)

    activity.note(gave(is_error=is_error))

    assert (activity.tools, activity.announced("toolu_1")) == (0, False)


def test_tools_are_told_apart() -> None:
    activity = told(use("toolu_1"), use("toolu_2"), gave("toolu_1"))

    assert activity.tools == 1
    assert not activity.announced("toolu_1")
    assert activity.announced("toolu_2")


def test_tool_told_of_twice_is_one_tool() -> None:
    """The CLI sends a message again with every block that is finished."""
    assert told(use(), use()).tools == 1
    assert told(use(), use(), gave()).tools == 0


def test_result_of_a_tool_never_announced_changes_nothing() -> None:
    assert told(use("toolu_1"), gave("toolu_9")).tools == 1


def test_end_of_the_turn_ends_its_tools() -> None:
    activity = told(use("toolu_1"), use("toolu_2"))

    activity.turn_ended()

    assert activity.tools == 0
    assert not activity.announced("toolu_1")


def test_end_of_the_turn_does_not_end_what_runs_in_the_background() -> None:
    activity = told(task("running"))

    activity.turn_ended()

    assert activity.in_background


@pytest.mark.parametrize("status", sorted(TASK_ENDED))
def test_background_task_runs_until_it_has_ended(status: str) -> None:
    activity = told(task("running"))
    assert (activity.in_background, activity.tools) == (True, 0)

    activity.note(task(status))

    assert not activity.in_background


@pytest.mark.parametrize("status", [None, "pending", "paused"])
def test_other_news_of_a_background_task_neither_begins_nor_ends_it(
    status: str | None,
) -> None:
    assert not told(task(status)).in_background
    assert told(task("running"), task(status)).in_background


def test_background_tasks_are_told_apart() -> None:
    activity = told(task("running", "t-1"), task("running", "t-2"))

    activity.note(task("completed", "t-1"))

    assert activity.in_background


def test_other_events_are_none_of_its_business() -> None:
    activity = told(Notice("api_retry", {}))

    assert (activity.tools, activity.in_background) == (0, False)
