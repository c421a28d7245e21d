"""Generates inputs from a model's schema, to try it with. Pure but for Pillow."""

import base64
import io
import math
import wave
from collections.abc import Mapping
from typing import Any

import PIL.Image

from swell.sdk.schema_examples import example_of


def made_example(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input with all required fields and generated files."""
    return example_of(_with_files(schema))


def _with_files(schema: Any) -> Any:
    """Return a schema with a generated default for each file or list of files."""
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


def made_file(kind: str) -> str:
    """Return a small file as a data URI: a gradient of grays, a short tone, or a text.

    A video is a text as well: a model that reads one needs an example of its author.
    """
    buffer = io.BytesIO()
    if kind == "image":
        PIL.Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "png")
        content_type = "image/png"
    elif kind == "audio":
        with wave.open(buffer, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(16_000)
            # A quarter of a second; a silent one breaks models that divide by loudness.
            tone = (round(8000 * math.sin(math.tau * 440 / 16_000 * i)) for i in range(4_000))
            sound.writeframes(b"".join(each.to_bytes(2, "little", signed=True) for each in tone))
        content_type = "audio/wav"
    else:
        buffer.write(b"example")
        content_type = "text/plain"
    return f"data:{content_type};base64,{base64.b64encode(buffer.getvalue()).decode()}"
