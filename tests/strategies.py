"""What the property tests draw from, and the JSON they expect to come back."""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

from hypothesis import strategies as st

# Pieces that would break a frame apart, or a decoder, if they got through as they are.
_HOSTILE: Final = (
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\r",
    "\0",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\ud83d",
    "\ude00",
    "\U0001f600",
    ":",
    " ",
    '"',
    "\\",
    "\\n",
    "data: x",
    "id: 7",
    "event: done",
    "retry: 1",
)


def texts() -> st.SearchStrategy[str]:
    """Any text: also lone surrogates, line ends, and what looks like a field.

    For example ``"\\n\\ndata: x\\ud83d"``.
    """
    anything = st.text(st.characters(codec=None, categories=None), max_size=30)
    return anything | st.lists(st.sampled_from(_HOSTILE), max_size=8).map("".join)


def json_values() -> st.SearchStrategy[Any]:
    """Whatever ``json.loads`` gives an SDK: also NaN, and integers beyond 64 bits.

    For example ``{"a\\r": [None, -1.5, 73786976294838206464]}``.
    """
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(min_value=-(2**80), max_value=2**80)
        | st.floats()
        | texts()
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(texts(), inner, max_size=4)
        ),
        max_leaves=8,
    )


def event_names() -> st.SearchStrategy[str]:
    """Names as ours are, such as ``message_delta``."""
    return st.from_regex(r"[a-z][a-z_]{0,24}", fullmatch=True)


@st.composite
def chunkings(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` cut anywhere, also inside a character: ``[b"da", b"ta"]``."""
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=12).map(sorted))
    edges = [0, *cuts, len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def on_the_wire(value: Any) -> Any:
    """What a JSON value is once it is sent: the oracle for ``encode_payload``."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [on_the_wire(item) for item in value]
    if isinstance(value, dict):
        return {well_formed(key): on_the_wire(item) for key, item in value.items()}
    return value


def well_formed(text: str) -> str:
    """``text`` with surrogate pairs joined and U+FFFD for each lone surrogate."""
    result: list[str] = []
    high = 0
    for character in text:
        point = ord(character)
        if high and 0xDC00 <= point <= 0xDFFF:
            result[-1] = chr(0x10000 + ((high - 0xD800) << 10) + (point - 0xDC00))
            high = 0
            continue
        high = point if 0xD800 <= point <= 0xDBFF else 0
        result.append("\ufffd" if 0xD800 <= point <= 0xDFFF else character)
    return "".join(result)
