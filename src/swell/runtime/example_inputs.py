"""Generates inputs from a model's schema, to try it with. Pure but for Pillow."""

import base64
import io
import math
import wave
from collections.abc import Iterable, Mapping
from typing import Any, Final

import PIL.Image

from swell.sdk.schema_examples import example_of

#: Returned by `other_value` if it knows no other value.
NOTHING_ELSE: Final = object()


def made_example(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input with all required fields and generated files."""
    return example_of(_with_files(schema))


def other_value(prop: Mapping[str, Any], defs: Mapping[str, Any], current: Any) -> Any:
    """Return another value of similar cost for a property, or `NOTHING_ELSE`.

    Args:
        prop: Its schema.
        defs: `$defs` of the whole schema.
        current: Its value; None if it is omitted and has no default.
    """
    if "$ref" in prop:
        return other_value(defs.get(prop["$ref"].removeprefix("#/$defs/"), {}), defs, current)
    for choice in (*prop.get("anyOf", ()), *prop.get("oneOf", ())):
        found = other_value({**choice, "x-ui": {}}, defs, current)
        if found is not NOTHING_ELSE:
            return found
    if "x-file" in prop:
        if prop["x-file"] not in ("image", "audio", "file"):
            return NOTHING_ELSE
        return _another((made_file(prop["x-file"]), made_file(prop["x-file"], 1)), current)
    if "enum" in prop:
        return _another(prop["enum"], current)
    return _other_plain(prop, current)


def _other_plain(prop: Mapping[str, Any], current: Any) -> Any:
    match prop.get("type"):
        case "boolean":
            return not current
        case "integer":
            return _other_whole(prop, current)
        case "number":
            return _other_number(prop, current)
        # The only pattern that any words match is that of a text that is not blank.
        case "string" if "format" not in prop and prop.get("pattern", r"\S") == r"\S":
            least, most = prop.get("minLength", 0), prop.get("maxLength", math.inf)
            texts = ("a blue whale at night", "another", "b", "")
            return _another((each for each in texts if least <= len(each) <= most), current)
    return NOTHING_ELSE


def _another(values: Iterable[Any], current: Any) -> Any:
    return next((each for each in values if each != current), NOTHING_ELSE)


def _other_whole(prop: Mapping[str, Any], current: Any) -> Any:
    step = int(prop.get("multipleOf", 1)) or 1
    least = prop.get("minimum", prop.get("exclusiveMinimum", -math.inf) + 1)
    most = prop.get("maximum", prop.get("exclusiveMaximum", math.inf) - 1)
    if current is None:
        current = least if least > -math.inf else 0
    # Fewer steps and smaller images come first.
    tried = (current - step, current + step)
    return next((int(each) for each in tried if least <= each <= most), NOTHING_ELSE)


def _other_number(prop: Mapping[str, Any], current: Any) -> Any:
    least = prop.get("minimum", prop.get("exclusiveMinimum"))
    most = prop.get("maximum", prop.get("exclusiveMaximum"))
    if current is None:
        current = least if least is not None else 0.0
    lower = current / 2 if least is None else (current + least) / 2
    # A little more, as a lot of it may cost a lot of time.
    upper = current + (1 if most is None else min(1, (most - current) / 10))
    return _another((lower, upper), current)


def _with_files(schema: Any) -> Any:
    """Return a schema in which each file, or list of files, is a generated one."""
    if isinstance(schema, list):
        return [_with_files(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    kind = schema.get("x-file")
    if isinstance(kind, str):
        return {"enum": [made_file(kind)]}
    items = schema.get("items")
    if schema.get("type") == "array" and isinstance(items, Mapping) and "x-file" in items:
        return {"enum": [[made_file(items["x-file"])] * max(1, schema.get("minItems", 1))]}
    return {name: _with_files(each) for name, each in schema.items()}


def made_file(kind: str, number: int = 0) -> str:
    """Return a small file as a data URI: a gradient of grays, a short tone, or a text.

    A video is a text as well: a model that reads one needs an example of its own.
    """
    buffer = io.BytesIO()
    if kind == "image":
        picture = PIL.Image.linear_gradient("L").resize((64, 64)).convert("RGB")
        picture.rotate(90 * number).save(buffer, "png")
        content_type = "image/png"
    elif kind == "audio":
        with wave.open(buffer, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(16_000)
            # A quarter of a second; a silent one breaks models that divide by loudness.
            pitch = math.tau * 440 * (1 + number) / 16_000
            tone = (round(8000 * math.sin(pitch * i)) for i in range(4_000))
            sound.writeframes(b"".join(each.to_bytes(2, "little", signed=True) for each in tone))
        content_type = "audio/wav"
    else:
        buffer.write(b"example" if not number else b"another")
        content_type = "text/plain"
    return f"data:{content_type};base64,{base64.b64encode(buffer.getvalue()).decode()}"
