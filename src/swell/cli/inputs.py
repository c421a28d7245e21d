"""`-i k=v` on the command line → a model's input, guided by its schema."""

import base64
import json
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from swell.errors import InvalidRequest

__all__ = ["InputFile", "as_data_uri", "parse_inputs"]


class InputFile(msgspec.Struct, frozen=True):
    """A file that stands for one input value."""

    path: Path
    content_type: str


def parse_inputs(pairs: Sequence[str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that `K=V` pairs give; files stay `InputFile`s.

    A text property takes what stands there as it is; any other takes JSON where it is JSON.
    `K=@PATH` takes a file: as a file where the schema asks for one, else its text.

    Args:
        pairs: From the command line.
        schema: JSON Schema of the input.

    Raises:
        InvalidRequest: A pair has no `=`, or a file cannot be read.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise InvalidRequest(f"{pair!r} is no input: write -i name=value")
        prop = schema.get("properties", {}).get(name, {})
        if text.startswith("@"):
            values[name] = _from_file(Path(text[1:]), prop, name)
        else:
            values[name] = _from_text(text, prop)
    return values


def as_data_uri(file: InputFile) -> str:
    """Return a file as it can travel within JSON."""
    body = base64.b64encode(file.path.read_bytes()).decode()
    return f"data:{file.content_type};base64,{body}"


def _from_file(path: Path, prop: Mapping[str, Any], name: str) -> Any:
    if not path.is_file():
        raise InvalidRequest(f"-i {name}=@{path}: there is no such file")
    if any("x-file" in choice for choice in _choices(prop)):
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return InputFile(path, content_type)
    try:
        return _from_text(path.read_text(), prop)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"-i {name}=@{path}: the file is not text") from error


def _from_text(text: str, prop: Mapping[str, Any]) -> Any:
    if any(choice.get("type") == "string" or "enum" in choice for choice in _choices(prop)):
        if text == "null" and any(choice.get("type") == "null" for choice in _choices(prop)):
            return None
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _choices(prop: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [prop, *prop.get("anyOf", []), *prop.get("oneOf", [])]
