"""What the document says a body may be is what the server takes for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from webkit_core import InvalidInput, decode_create, decode_inbound

from .schemas import COMPONENTS, DOCUMENT, anything, fits, spoiled, values

Decode = Callable[[bytes], object]


def schema_of(path: str) -> dict[str, Any]:
    body = DOCUMENT["paths"][path]["post"]["requestBody"]
    schema: dict[str, Any] = body["content"]["application/json"]["schema"]
    return schema


CREATE: Final = (schema_of("/sessions"), decode_create)
INPUT: Final = (schema_of("/sessions/{id}/input"), decode_inbound)

each_body = pytest.mark.parametrize(
    ("schema", "decode"), [CREATE, INPUT], ids=["create", "input"]
)


def is_taken(decode: Decode, value: Any) -> bool:
    try:
        decode(json.dumps(value).encode())
    except InvalidInput:
        return False
    return True


@each_body
@given(data=st.data())
def test_body_that_fits_is_taken(
    schema: dict[str, Any], decode: Decode, data: st.DataObject
) -> None:
    value = data.draw(values(schema))

    assert fits(schema, value)
    assert is_taken(decode, value)


@each_body
@given(data=st.data())
def test_body_is_taken_exactly_when_it_fits(
    schema: dict[str, Any], decode: Decode, data: st.DataObject
) -> None:
    value = data.draw(spoiled(schema) | spoiled(schema) | anything())

    assert is_taken(decode, value) is fits(schema, value)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("ImageSource", "QUJD", "QUJ"),
        ("ImageSource", "QQ==", "QQ="),
        ("ImageSource", "QUI=", "Q\n=="),
        ("ImageSource", "a+/9", "a-_9"),
    ],
)
def test_data_of_an_image_is_base64(name: str, good: str, bad: str) -> None:
    def source(data: str) -> dict[str, Any]:
        return {"type": "base64", "media_type": "image/png", "data": data}

    assert fits(COMPONENTS[name], source(good))
    assert not fits(COMPONENTS[name], source(bad))
