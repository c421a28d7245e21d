"""Inputs that are made up from a model's schema, to try it with. Pure but for Pillow."""

import base64
import io
import math
import wave
from collections.abc import Mapping
from typing import Any, Final

import PIL.Image

from swell.sdk.schema_examples import example_of

#: What `other_value` returns where it knows no other.
NOTHING_ELSE: Final = object()


def made_example(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input with everything that is required; its files are made ones."""
    return example_of(_with_files(schema))


def other_value(prop: Mapping[str, Any], defs: Mapping[str, Any], current: Any) -> Any:
    """Return another value for a property, one that costs no more; `NOTHING_ELSE` if none is known.

    Args:
        prop: Its schema.
        defs: `$defs` of the whole schema.
        current: Its value; None where it is left out and has no default.
    """
    if "$ref" in prop:
        return other_value(defs.get(prop["$ref"].removeprefix("#/$defs/"), {}), defs, current)
    for choice in (*prop.get("anyOf", ()), *prop.get("oneOf", ())):
        found = other_value({**choice, "x-ui": {}}, defs, current)
        if found is not NOTHING_ELSE:
            return found
    if "x-file" in prop:
        return _other_file(prop["x-file"], current)
    if "enum" in prop:
        return next((each for each in prop["enum"] if each != current), NOTHING_ELSE)
    return _other_plain(prop, current)


def _other_plain(prop: Mapping[str, Any], current: Any) -> Any:
    match prop.get("type"):
        case "boolean":
            return not current
        case "integer":
            return _other_whole(prop, current)
        case "number":
            return _other_number(prop, current)
        # Of patterns only the one that asks for something not blank is met by any words.
        case "string" if "format" not in prop and prop.get("pattern", r"\S") == r"\S":
            return _other_text(prop, current)
    return NOTHING_ELSE


def _other_file(kind: str, current: Any) -> Any:
    if kind not in ("image", "audio", "file"):
        return NOTHING_ELSE
    return next(each for each in (made_file(kind), made_file(kind, 1)) if each != current)


def _other_whole(prop: Mapping[str, Any], current: Any) -> Any:
    step = int(prop.get("multipleOf", 1)) or 1
    least = prop.get("minimum", prop.get("exclusiveMinimum", -math.inf) + 1)
    most = prop.get("maximum", prop.get("exclusiveMaximum", math.inf) - 1)
    if current is None:
        current = least if least > -math.inf else 0
    # Fewer steps and smaller pictures come first.
    tried = (current - step, current + step)
    return next((int(each) for each in tried if least <= each <= most), NOTHING_ELSE)


def _other_number(prop: Mapping[str, Any], current: Any) -> Any:
    least = prop.get("minimum", prop.get("exclusiveMinimum"))
    most = prop.get("maximum", prop.get("exclusiveMaximum"))
    if current is None:
        current = least if least is not None else 0.0
    lower = current / 2 if least is None else (current + least) / 2
    # A little more: of what costs time, a lot would cost too much.
    upper = current + (1 if most is None else min(1, (most - current) / 10))
    return next((each for each in (lower, upper) if each != current), NOTHING_ELSE)


def _other_text(prop: Mapping[str, Any], current: Any) -> Any:
    most = prop.get("maxLength", math.inf)
    least = prop.get("minLength", 0)
    tried = ("a blue whale at night", "another", "b", "")
    fits = (each for each in tried if least <= len(each) <= most and each != current)
    return next(fits, NOTHING_ELSE)


def _with_files(schema: Any) -> Any:
    """Return a schema in which every file is a made one, and a list of files holds enough."""
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

    A video is too hard to make: it is a text as well, and a model that reads it needs an example.
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
            # A quarter of a second; a silent one breaks whoever divides by loudness.
            pitch = math.tau * 440 * (1 + number) / 16_000
            tone = (round(8000 * math.sin(pitch * i)) for i in range(4_000))
            sound.writeframes(b"".join(each.to_bytes(2, "little", signed=True) for each in tone))
        content_type = "audio/wav"
    else:
        buffer.write(b"example" if not number else b"another")
        content_type = "text/plain"
    return f"data:{content_type};base64,{base64.b64encode(buffer.getvalue()).decode()}"
