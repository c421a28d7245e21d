"""Reads the prompts or inputs of a comparison from a file, and fits them to each model."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidRequest

#: Names of fields for prompts, in order of preference.
_PROMPTS: Final = ("prompt", "text", "title", "query")

Schema = Mapping[str, Any]


def read_prompts(path: Path, field: str | None) -> list[dict[str, Any]]:
    """Read inputs from a file.

    In `.jsonl` each line is an input, in `.toml` each table `[[inputs]]`. Other files have one
    prompt per line; empty lines and lines that start with `#` are skipped.

    Args:
        path: The file.
        field: Input field for prompts; None if the models have no common text field.

    Raises:
        InvalidRequest: The file cannot be read, is invalid, or has no prompts.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    read = {".jsonl": _of_json_lines, ".toml": _of_toml}.get(path.suffix.lower())
    found = _of_lines(text, field, path) if read is None else read(text, path)
    if not found:
        raise InvalidRequest(f"{path} holds no prompt: write one a line")
    return found


def text_field(schemas: Sequence[Schema]) -> str | None:
    """Return the field for prompts that all models have, or None."""
    common = [
        name
        for name, prop in schemas[0].get("properties", {}).items()
        if prop.get("type") == "string"
        and all(name in schema.get("properties", {}) for schema in schemas)
    ]
    named = [name for name in _PROMPTS if name in common]
    return next(iter([*named, *common]), None)


def fitted(values: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Return the values of an input that a model's schema allows."""
    known = schema.get("properties", {})
    is_open = schema.get("additionalProperties", True) is not False
    return {name: value for name, value in values.items() if name in known or is_open}


def unknown_to(
    inputs: Sequence[Mapping[str, Any]], schemas: Mapping[str, Schema]
) -> dict[str, list[str]]:
    """Return field → models that do not have it.

    Raises:
        InvalidRequest: No model has a field.
    """
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for values in inputs for name in values):
        lacking = [model for model, schema in schemas.items() if not fitted({name: 0}, schema)]
        if len(lacking) == len(schemas):
            raise InvalidRequest(f"none of the models has a field {name!r}: leave it out")
        if lacking:
            found[name] = lacking
    return found


def _of_lines(text: str, field: str | None, path: Path) -> list[dict[str, Any]]:
    lines = [line.strip() for line in text.splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if prompts and field is None:
        raise InvalidRequest(
            f"no field of all models takes a text, so a line of {path} could be anything: write "
            "inputs as JSON, one a line, in a file that ends with .jsonl"
        )
    return [{field: prompt} for prompt in prompts if field is not None]


def _of_json_lines(text: str, path: Path) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InvalidRequest(f"{path}, line {number}: it is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidRequest(f"{path}, line {number}: an input is an object of fields")
        found.append(value)
    return found


def _of_toml(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        told = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path}: {error}") from error
    found = told.get("inputs")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InvalidRequest(f"{path}: write each input as a table [[inputs]]")
    return found
