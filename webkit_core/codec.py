"""Messages to bytes and back.

Rules: what a client sends is checked against its type, and what is wrong is an error
that names the field; what an agent says is encoded, whatever it has put into it.

Invariant: whatever :func:`decode_inbound` and :func:`decode_create` return is valid as
it stands, whatever :func:`encode_payload` returns is JSON on one line, in UTF-8.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .errors import InvalidInput, MalformedJSON, UnknownType
from .protocol import INBOUND_TYPES, CreateSession, Inbound

_T = TypeVar("_T")
_encoder: Final = msgspec.json.Encoder()
_inbound_decoder: msgspec.json.Decoder[Inbound] = msgspec.json.Decoder(Inbound)
_create_decoder: Final = msgspec.json.Decoder(CreateSession)


class _Tag(Struct):
    """Just enough of an inbound message to say what is wrong with its type."""

    type: str | UnsetType = UNSET


_tag_decoder: Final = msgspec.json.Decoder(_Tag)


def decode_inbound(body: bytes | bytearray) -> Inbound:
    """Return the inbound message in ``body``.

    Raises:
        MalformedJSON: not JSON, not UTF-8, or nested too deeply.
        UnknownType: ``type`` is not one of :data:`INBOUND_TYPES`.
        InvalidInput: a field is missing, unknown or wrong; the text says which.
    """
    try:
        return _decode(_inbound_decoder, body)
    except MalformedJSON:
        raise
    except InvalidInput:
        _check_type(body)
        raise


def decode_create(body: bytes | bytearray) -> CreateSession:
    """Return the body of ``POST /sessions``; an empty one means all defaults.

    Raises:
        MalformedJSON: not JSON, not UTF-8, or nested too deeply.
        InvalidInput: a field is unknown or wrong; the text says which.
    """
    return _decode(_create_decoder, body) if body else CreateSession()


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes | bytearray) -> _T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJSON(f"the body is not valid JSON: {error}") from None


def _check_type(body: bytes | bytearray) -> None:
    """Turn a wrong ``type`` into an error that lists the right ones."""
    try:
        tag = _tag_decoder.decode(body).type
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    expected = ", ".join(INBOUND_TYPES)
    if tag is UNSET:
        raise UnknownType(f"`type` is missing; it is one of {expected}")
    if tag not in INBOUND_TYPES:
        raise UnknownType(f"unknown `type` {tag[:40]!r}; it is one of {expected}")


def encode_payload(data: object) -> bytes:
    """Return ``data`` as JSON on one line, whatever an agent may have put into it."""
    try:
        return _encoder.encode(data)
    except (ValueError, OverflowError, TypeError, RecursionError):
        return _encode_odd(data)


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def replace_surrogates(text: str) -> str:
    """Join surrogate pairs; put U+FFFD for lone ones, which UTF-8 cannot carry.

    They come from tool output that was cut in the middle of a character.
    """
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _encode_odd(data: object) -> bytes:
    """Encode what msgspec refuses: lone surrogates, integers beyond 64 bits.

    Keys that are no strings, and objects that are no JSON, become their text.
    """
    cleaned = _clean(data, depth=0)
    return json.dumps(cleaned, ensure_ascii=False, separators=(",", ":")).encode()


_MAX_DEPTH: Final = 200
"""Nesting kept by :func:`_clean`; JSON parsers in the field stop at 100 to 512."""

_MAX_INT_BITS: Final = 14_000
"""Python prints integers of up to 4300 digits."""


def _clean(value: object, depth: int) -> object:
    if depth > _MAX_DEPTH:
        return "…"
    match value:
        case str():
            return replace_surrogates(value)
        case bool() | None:
            return value
        case int():
            return value if value.bit_length() < _MAX_INT_BITS else hex(value)
        case float():
            return value if value - value == 0 else None  # as msgspec: NaN is null
        case dict():
            return {
                replace_surrogates(str(key)): _clean(item, depth + 1)
                for key, item in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [_clean(item, depth + 1) for item in value]
        case Struct():
            fields = {
                field.encode_name: getattr(value, field.name)
                for field in msgspec.structs.fields(value)
                if getattr(value, field.name) is not None or field.required
            }
            config = value.__struct_config__
            tag = {config.tag_field: config.tag} if config.tag_field else {}
            return _clean(tag | fields, depth)
        case _:
            return replace_surrogates(str(value))
