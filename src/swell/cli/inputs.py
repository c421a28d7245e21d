"""Parses `-i k=v` on the command line into a model's input, by its schema."""

import base64
import json
import mimetypes
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from swell.core.errors import InvalidRequest

Schema = Mapping[str, Any]


class InputFile(msgspec.Struct, frozen=True):
    """A file as the value of an input."""

    path: Path
    content_type: str


def parse_inputs(pairs: Sequence[str], schema: Schema, prompt: str | None = None) -> dict[str, Any]:
    """Parse `K=V` pairs; files stay `InputFile`s.

    A text property, or an enum that lists the text, takes the value unchanged. Other properties
    parse it as JSON, or take it unchanged if it is not JSON. `K=@PATH` reads a file: as a file if
    the schema asks for one, else as text.

    Args:
        pairs: Values of `-i`.
        schema: JSON Schema of the input.
        prompt: Text without a name, for the property `prompt` or the only required text.

    Raises:
        InvalidRequest: A pair has no `=`, a file cannot be read, or no property takes the prompt.
    """
    bare = None if prompt is None else _prompt_name(schema, prompt)
    values: dict[str, Any] = {} if bare is None else {bare: prompt}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise InvalidRequest(
                f"-i needs name=value, such as -i prompt='a fox': {pair!r} has no name"
            )
        if name == bare:
            raise InvalidRequest(f"{name!r} is given twice, as a bare prompt and with -i: use one")
        prop = schema.get("properties", {}).get(name, {})
        choices = _choices(prop, schema.get("$defs", {}))
        if text.startswith("@"):
            values[name] = _from_file(Path(text[1:]), choices, name)
        else:
            values[name] = _from_text(text, choices)
    return values


def _prompt_name(schema: Schema, prompt: str) -> str:
    properties = schema.get("properties", {})
    if "prompt" in properties:
        return "prompt"
    texts = [
        name
        for name in schema.get("required", [])
        if any(map(_takes_any_text, _choices(properties.get(name, {}), schema.get("$defs", {}))))
    ]
    if len(texts) == 1:
        return str(texts[0])
    names = ", ".join(properties) or "none"
    raise InvalidRequest(
        f"no input of this model takes {prompt[:40]!r} without a name: write -i name=value "
        f"(inputs: {names})"
    )


def as_data_uri(file: InputFile) -> str:
    """Return a file as a data URI, for JSON."""
    body = base64.b64encode(file.path.read_bytes()).decode()
    return f"data:{file.content_type};base64,{body}"


def as_flags(values: Mapping[str, Any]) -> str:
    """Return an input as options for a shell, with the placeholder `@FILE` for files."""
    return " ".join(f"-i {name}={_as_word(value)}" for name, value in values.items())


def _as_word(value: Any) -> str:
    if isinstance(value, str):
        return "@FILE" if value.startswith("data:") else shlex.quote(value)
    return shlex.quote(json.dumps(value, ensure_ascii=False))


def _from_file(path: Path, choices: Sequence[Schema], name: str) -> Any:
    if not path.is_file():
        raise InvalidRequest(f"-i {name}=@{path}: there is no such file")
    if any("x-file" in choice for choice in choices):
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return InputFile(path, content_type)
    try:
        return _from_text(path.read_text(), choices)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"-i {name}=@{path}: the file is not text") from error


def _from_text(text: str, choices: Sequence[Schema]) -> Any:
    if text.startswith("{") and any(choice.get("x-file") == "lora" for choice in choices):
        return _json_or_text(text)
    if any(_takes_any_text(choice) for choice in choices):
        is_null = text == "null" and any(choice.get("type") == "null" for choice in choices)
        return None if is_null else text
    if any(text in _listed(choice) for choice in choices):
        return text
    return _json_or_text(text)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _takes_any_text(choice: Schema) -> bool:
    return choice.get("type") == "string" and not _listed(choice)


def _listed(choice: Schema) -> list[Any]:
    """Return the values that a schema lists with `const` or `enum`."""
    return [choice["const"]] if "const" in choice else list(choice.get("enum", []))


def _choices(prop: Schema, definitions: Schema, seen: frozenset[str] = frozenset()) -> list[Schema]:
    """Return a property's schema and its alternatives (`anyOf`, `oneOf`, `$ref`)."""
    found = [prop]
    for choice in (*prop.get("anyOf", []), *prop.get("oneOf", [])):
        found += _choices(choice, definitions, seen)
    ref = prop.get("$ref")
    if ref is not None and ref not in seen:
        target = definitions.get(ref.removeprefix("#/$defs/"), {})
        found += _choices(target, definitions, seen | {ref})
    return found
