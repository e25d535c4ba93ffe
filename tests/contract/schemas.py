"""The document as tests use it: a validator of values, and a source of values.

Only what our own document says with is known here; anything else is an error, so that a
word that comes into the document cannot be passed over in silence.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any, Final

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from webkit_asgi.openapi import document

Json = Any
Schema = dict[str, Any]

DOCUMENT: Final = document()
COMPONENTS: Final[Schema] = DOCUMENT["components"]["schemas"]

_SILENT: Final = frozenset(
    {"title", "description", "default", "discriminator", "contentEncoding"}
)
"""Words that say nothing of which values there are."""

_SIZES: Final = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum"}
    | {"minProperties", "pattern"}
)
_BY_TYPE: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "items"}
    | {"if", "then", "else"}
)


def _closed(schema: Json) -> Json:
    """Return a schema that has no fields but those it names."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


_CLOSED: Final = {
    # The bodies of errors are narrowed by ``allOf``, which would close each part.
    name: schema if name.endswith("ErrorBody") else _closed(schema)
    for name, schema in COMPONENTS.items()
}


@cache
def _validator(schema: str) -> Draft202012Validator:
    rooted = json.loads(schema) | {"components": {"schemas": _CLOSED}}
    Draft202012Validator.check_schema(rooted)
    return Draft202012Validator(rooted)


def fits(schema: Schema, value: Json) -> bool:
    """Whether a value is one of a schema of the document, without further fields."""
    return not misfit(schema, value)


def misfit(schema: Schema, value: Json) -> str:
    """What is wrong with a value; nothing when it fits."""
    errors = _validator(json.dumps(schema)).iter_errors(value)
    return "; ".join(f"{error.json_path}: {error.message[:300]}" for error in errors)


# --- values


def anything() -> st.SearchStrategy[Json]:
    """Any JSON, such as ``{"a": [null, 1.5]}``."""
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8)
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=4,
    )


@cache
def _values(text: str) -> st.SearchStrategy[Json]:
    schema: Schema = json.loads(text)
    words = schema.keys() - _SILENT
    if "$ref" in words:
        return values(COMPONENTS[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in words:
        return st.one_of([values(part) for part in schema["anyOf"]])
    if "enum" in words:
        return st.sampled_from(schema["enum"])
    if not words:
        return anything()
    assert words <= _SIZES | _BY_TYPE, f"a word that is not known: {schema}"
    drawn: st.SearchStrategy[Json] = _OF_TYPE[schema["type"]](schema)
    return drawn


def values(schema: Schema) -> st.SearchStrategy[Json]:
    """Values that fit a schema of the document."""
    drawn = _values(json.dumps(schema))
    return drawn.filter(lambda value: fits(schema, value)) if "if" in schema else drawn


def _strings(schema: Schema) -> st.SearchStrategy[str]:
    if "pattern" in schema:
        # In Python ``$`` is also before a line end; elsewhere it is not.
        drawn = st.from_regex(str(schema["pattern"]))
        least = schema.get("minLength", 0)
        return drawn.filter(lambda s: len(s) >= least and not s.endswith("\n"))
    longest = schema.get("maxLength", 20)
    return st.text(min_size=schema.get("minLength", 0), max_size=min(longest, 20))


def _arrays(schema: Schema) -> st.SearchStrategy[list[Json]]:
    items = values(schema.get("items", {}))
    return st.lists(items, min_size=schema.get("minItems", 0), max_size=3)


def _objects(schema: Schema) -> st.SearchStrategy[dict[str, Json]]:
    fields = schema.get("properties")
    if fields is None:
        rest = values(schema.get("additionalProperties", {}))
        least = schema.get("minProperties", 0)
        return st.dictionaries(st.text(max_size=8), rest, min_size=least, max_size=3)
    required = set(schema["required"])
    drawn = {name: values(field) for name, field in fields.items()}
    return st.fixed_dictionaries(
        {name: field for name, field in drawn.items() if name in required},
        optional={name: field for name, field in drawn.items() if name not in required},
    )


_OF_TYPE: Final[dict[str, Any]] = {
    "null": lambda _: st.none(),
    "boolean": lambda _: st.booleans(),
    "integer": lambda schema: st.integers(schema.get("minimum"), schema.get("maximum")),
    "number": lambda _: st.floats(allow_nan=False, allow_infinity=False),
    "string": _strings,
    "array": _arrays,
    "object": _objects,
}


@st.composite
def spoiled(draw: st.DrawFn, schema: Schema) -> Json:
    """A value that fits but for one place; now and then it fits all the same."""
    box = [copy.deepcopy(draw(values(schema)))]
    holder: Json = box
    key: Any = 0
    while isinstance(holder[key], list | dict) and holder[key] and draw(st.booleans()):
        holder = holder[key]
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw(st.sampled_from(keys))
    _spoil(draw, holder, key)
    return box[0]


def _spoil(draw: st.DrawFn, holder: Json, key: Any) -> None:
    old = holder[key]
    match draw(st.sampled_from(["other", "empty", "long", "more", "less"])):
        case "other":
            holder[key] = draw(anything())
        case "empty":
            holder[key] = type(old)() if old is not None else old
        case "long" if isinstance(old, str | list) and old:
            holder[key] = (old * 70_000)[:70_000]
        case "more" if isinstance(old, dict):
            old[draw(st.text(max_size=5))] = draw(anything())
        case "less" if isinstance(old, dict) and old:
            del old[draw(st.sampled_from(list(old)))]
