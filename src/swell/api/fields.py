"""What a JSON Schema asks for, in words, for people who read a model's page."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

from swell.api import markdown

#: So many of a field's choices are named.
_MOST_CHOICES: Final = 30

_FILES: Final = {
    "image": "picture",
    "audio": "sound",
    "video": "video",
    "lora": "LoRA",
    "file": "file",
}

_PLAIN: Final = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "yes or no",
    "object": "object",
    "null": "nothing",
}

#: What has a plural in -s.
_COUNTED: Final = frozenset({*_FILES.values(), "text", "whole number", "number", "object"})

#: A bound beyond this is one of the machine, and tells people nothing.
_TELLING: Final = 2**31


def fields(schema: Mapping[str, Any], *, are_asked: bool = True) -> str:
    """Return a schema's fields as HTML; what a schema without any holds, in words.

    Args:
        schema: Of an object, or of a plain value.
        are_asked: Whether it is of an input, some of whose fields have to be given.
    """
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return f"<p>{html.escape(described(schema, schema).capitalize())}.</p>"
    required = schema.get("required", []) if are_asked else []
    rows = "".join(
        _field(name, prop if isinstance(prop, Mapping) else {}, name in required, schema)
        for name, prop in properties.items()
    )
    return f'<dl class="fields">{rows}</dl>'


def _field(name: str, prop: Mapping[str, Any], is_required: bool, schema: Mapping[str, Any]) -> str:
    notes = [described(prop, schema), *_bounds(prop)]
    if is_required:
        notes.append("required")
    elif prop.get("default") is not None:
        notes.append(f"default {_shown(prop['default'])}")
    title = str(prop.get("title", ""))
    # A title that was made from the name says nothing more.
    is_own = title.lower() != name.replace("_", " ").strip()
    about = markdown.to_html(str(prop.get("description") or (title if is_own else "")))
    return (
        f"<dt><code>{html.escape(name)}</code> "
        f"<small>{html.escape(' · '.join(notes))}</small></dt><dd>{about}</dd>"
    )


def described(prop: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return what a value is: `picture`, `text or nothing`, `one of a, b`, `list of numbers`.

    Args:
        prop: The schema of the value.
        schema: The whole, for what `prop` refers to.
    """
    return _described(prop, schema, 4)


def _described(prop: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> str:
    if depth == 0:
        return "anything"
    if "$ref" in prop:
        defs = schema.get("$defs", {})
        target = defs.get(str(prop["$ref"]).removeprefix("#/$defs/"), {})
        return _described(target, schema, depth - 1)
    if prop.get("x-file") in _FILES:
        return _FILES[prop["x-file"]]
    if "enum" in prop:
        return f"one of {_choices(prop['enum'])}"
    kinds = [each for key in ("anyOf", "oneOf") for each in prop.get(key, ())]
    # That it may be left out is said by its default.
    told = [each for each in kinds if each.get("type") != "null"]
    if told:
        texts = [_described(each, schema, depth - 1) for each in told]
        return " or ".join(dict.fromkeys(texts))
    return _named(prop, schema, depth)


def _named(prop: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> str:
    kind = prop.get("type")
    if isinstance(kind, list):
        return " or ".join(_PLAIN.get(each, str(each)) for each in kind)
    if kind != "array":
        return _PLAIN.get(str(kind), "anything")
    items = prop.get("items")
    inner = _described(items, schema, depth - 1) if isinstance(items, Mapping) else "anything"
    return f"list of {inner}s" if inner in _COUNTED else f"list, each {inner}"


def _choices(values: Sequence[Any]) -> str:
    named = ", ".join(_shown(each) for each in values[:_MOST_CHOICES])
    more = len(values) - _MOST_CHOICES
    return f"{named} and {more} more" if more > 0 else named


def _bounds(prop: Mapping[str, Any]) -> list[str]:
    found = prop
    for each in prop.get("anyOf", ()):
        if each.get("type") not in ("null", None):
            found = {**each, **prop}
            break
    low = found.get("minimum", found.get("exclusiveMinimum"))
    high = found.get("maximum", found.get("exclusiveMaximum"))
    high = None if high is not None and high >= _TELLING else high
    low = None if low is not None and low <= -_TELLING else low
    notes = []
    if low is not None and high is not None:
        notes.append(f"{_shown(low)} to {_shown(high)}")
    elif low is not None:
        notes.append(f"from {_shown(low)}")
    elif high is not None:
        notes.append(f"up to {_shown(high)}")
    if "maxLength" in found:
        notes.append(f"up to {found['maxLength']:,} characters")
    if "maxItems" in found:
        notes.append(f"up to {found['maxItems']}")
    return notes


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return str(value) or "empty"
