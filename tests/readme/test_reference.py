"""What the README says of names, defaults and files is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from webkit_asgi.auth import AUTH_VARIABLES
from webkit_asgi.responses import STATUS_BY_ERROR
from webkit_asgi.routes import ROUTES
from webkit_asgi.settings import PREFIX, Settings
from webkit_core import Inbound, decode_inbound, protocol
from webkit_core.gauges import SCOPE

from .blocks import BLOCKS, README, table_rows

REPOSITORY = Path(__file__).parents[2]

END_S = 30
"""What the end of all sessions takes at most, after the drain."""


def shown(default: object) -> str:
    """How the table writes a default."""
    match default:
        case str():
            return default or "–"
        case float():
            return f"{default:g}"
        case int():
            return str(int(default))
    raise AssertionError(default)


def test_settings_table_has_every_variable_with_its_default() -> None:
    rows = {row[0].strip("`"): row[1] for row in table_rows("variable")}
    for variable in AUTH_VARIABLES:
        assert rows.pop(variable) == "–"
    defaults = Settings()
    expected = {
        PREFIX + name.upper(): shown(getattr(defaults, name))
        for name in Settings.__struct_fields__
    }

    assert rows == expected


def test_http_table_has_every_route() -> None:
    text = " ".join(row[0] for row in table_rows("request"))
    mentioned = re.findall(r"(GET|POST|DELETE) (/[a-z{}/.]*)", text)
    routes = [(m, path) for path, methods in ROUTES.items() for m in methods]

    assert sorted(mentioned) == sorted(routes)


def test_status_table_has_every_status_that_errors_have() -> None:
    statuses = {int(s) for row in table_rows("status") for s in row[0].split(" · ")}

    assert statuses == set(STATUS_BY_ERROR.values()) - {500}


def test_metrics_table_has_every_metric() -> None:
    cells = " ".join(row[0] for row in table_rows("metric"))
    listed = re.findall(r"`(agent_webkit\.[a-z0-9_.]+)`", cells)
    sources = "".join(
        (REPOSITORY / "webkit_core" / f"{name}.py").read_text()
        for name in ("telemetry", "gauges")
    )
    made = re.findall(r'f"\{SCOPE\}(\.[a-z0-9_.]+)"', sources)

    assert sorted(listed) == sorted(SCOPE + name for name in made)


def test_whoever_stops_the_server_waits_longer_than_it_drains() -> None:
    (unit,) = (block.code for block in BLOCKS if block.language == "ini")
    (pod,) = (block.code for block in BLOCKS if block.language == "yaml")
    stop_s = int(re.findall(r"TimeoutStopSec=(\d+)", unit)[0])
    grace_s = int(re.findall(r"terminationGracePeriodSeconds: (\d+)", pod)[0])
    pre_stop_s = int(re.findall(r'\[sleep, "(\d+)"\]', pod)[0])
    drain_s = Settings().drain_timeout_s

    assert stop_s >= drain_s + END_S
    assert grace_s >= pre_stop_s + drain_s + END_S


def test_each_fault_has_a_test() -> None:
    named = [row[-1].strip("`") for row in table_rows("fault")]
    sources = (path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def test_(\w+)", "".join(sources)))

    assert len(set(named)) == len(named) >= 40
    assert set(named) <= there, set(named) - there


def test_event_list_has_every_event() -> None:
    (paragraph,) = re.findall(r"Events: (.*?)\n\n", README, re.DOTALL)
    names = set(re.findall(r"`([a-z_]+)`", paragraph)) - {
        "task_id",
        "stop_task",
        "message_id",
    }
    events = {kind.EVENT for kind in protocol.Event.__subclasses__()}

    assert names == events


def test_map_has_every_module() -> None:
    (text,) = re.findall(r"## Map of the code\n\n```\n(.*?)```", README, re.DOTALL)
    for package in ("webkit_core", "webkit_asgi"):
        part = text.split(f"{package}/")[1].split("webkit_asgi/")[0]
        listed = set(re.findall(r"[a-z_]+", part))
        modules = {
            path.stem
            for path in (REPOSITORY / package).glob("*.py")
            if path.stem not in ("__init__", "types")
        }
        assert modules <= listed, modules - listed


def test_input_examples_are_inputs_of_every_type() -> None:
    (block,) = (block for block in BLOCKS if block.language == "json")
    decoded = [
        decode_inbound(line.replace("…", "aGVsbG8=").encode())
        for line in block.code.splitlines()
    ]

    assert {type(message) for message in decoded} == set(get_args(Inbound))
