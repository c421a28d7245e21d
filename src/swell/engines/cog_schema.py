"""The schema of a cog model, as a pydantic input of ours, and its outputs. Pure.

Cog writes OpenAPI 3.0: the input is `#/components/schemas/Input`, its choices are separate
schemas behind `allOf`, optional fields are `nullable`, and files are strings with `format: uri`.

Source:
    The schemas that cog 0.23 builds, in `GET /openapi.json` and in the label
    `run.cog.openapi_schema` of its images.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from swell import ui
from swell.core.errors import InvalidModel
from swell.sdk.media import File

_PLAIN: Final[Mapping[str, Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "object": dict[str, Any],
}

#: Keywords of JSON Schema → those of a field.
_BOUNDS: Final = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
    "pattern": "pattern",
}

#: Words in the name of a file that is a picture: its form shows it.
_PICTURES: Final = ("image", "mask", "photo", "picture")

#: Schemas are not followed any deeper.
_DEEPEST: Final = 20


class CogSchema:
    """What a cog model takes and gives.

    Args:
        name: `owner/name`, for errors.
        openapi: The document.

    Raises:
        InvalidModel: It has no input that can be read.
    """

    def __init__(self, name: str, openapi: Any) -> None:
        try:
            self._schemas: Mapping[str, Any] = openapi["components"]["schemas"]
            self._input: Mapping[str, Any] = self._schemas["Input"]
        except (KeyError, TypeError):
            raise InvalidModel(
                f"{name}: its OpenAPI document has no components.schemas.Input: build the image "
                "with cog, or give schema_file"
            ) from None
        self._name = name
        self._output = self._schemas.get("Output")

    def input_type(self, **extra: Any) -> type[BaseModel]:
        """Return the input as a type, with `extra` added to its JSON Schema.

        Raises:
            InvalidModel: A property cannot be read.
        """
        required = set(self._input.get("required", ()))
        told = self._input.get("properties", {})
        names = sorted(told, key=lambda name: (told[name].get("x-order", 0), name))
        fields = {
            _attribute(name): self._field(name, told[name], name in required) for name in names
        }
        config = ConfigDict(extra="forbid", protected_namespaces=(), json_schema_extra=dict(extra))
        try:
            return create_model("Input", __config__=config, **fields)
        except (TypeError, ValueError) as error:
            raise InvalidModel(f"{self._name}: its input cannot be read: {error}") from error

    @property
    def output_type(self) -> Any:
        """The type of an output, for the card."""
        return self._output_type(self._output, 0)

    def output(self, value: Any) -> Any:
        """Return an output with the files in it read.

        Raises:
            ValueError: A file is no data URI. Nothing is fetched: what a model says may be words
                that a stranger put into its mouth.
        """
        is_text = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if is_text and self._is_concatenated():
            return "".join(value)
        return self._read(value, self._output, 0)

    @property
    def largest_seed(self) -> int | None:
        """The largest `seed` that it takes; None for any."""
        told = self._input.get("properties", {}).get("seed", {}).get("maximum")
        return told if isinstance(told, int) else None

    # --- inputs

    def _field(self, name: str, told: Mapping[str, Any], is_required: bool) -> Any:
        schema = self._resolved(told, 0)
        kind, bounds = self._type_of(name, schema, 0)
        # A title, description or default may be next to the reference or in its target.
        both = {**schema, **told}
        facts = {
            "title": both.get("title"),
            "description": both.get("description"),
            "alias": None if _attribute(name) == name else name,
            **bounds,
        }
        default = both.get("default")
        can_be_none = (not is_required and default is None) or both.get("nullable") is True
        hints = [ui.image()] if kind is File and _is_picture(name) else []
        if bounds and can_be_none:
            # Bounds are those of the value.
            kind, facts = Annotated[kind, Field(**bounds)], _without(facts, bounds)
        kind = kind | None if can_be_none else kind
        told_facts = {key: value for key, value in facts.items() if value is not None}
        for each in hints:
            kind = Annotated[kind, each]
        must = is_required and "default" not in both
        return (kind, Field(... if must else default, **told_facts))

    def _type_of(
        self, name: str, schema: Mapping[str, Any], depth: int
    ) -> tuple[Any, dict[str, Any]]:
        """Return the type of a value, and its bounds as keywords of a field."""
        choices = schema.get("enum")
        if choices:
            return Literal[tuple(choices)], {}
        kind = schema.get("type")
        bounds = {_BOUNDS[key]: schema[key] for key in _BOUNDS if schema.get(key) is not None}
        bounds = {key: value for key, value in bounds.items() if not isinstance(value, bool)}
        if kind == "array":
            inner, inner_bounds = self._type_of(name, self._items(schema, depth), depth + 1)
            if inner_bounds:
                inner = Annotated[inner, Field(**inner_bounds)]
            return list[inner], bounds  # type: ignore[valid-type]
        if kind == "string" and schema.get("format") == "uri":
            return File, {}
        if not isinstance(kind, str):
            return Any, {}
        return _PLAIN.get(kind, Any), bounds

    def _items(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        return self._resolved(schema.get("items") or {}, depth + 1)

    # --- outputs

    def _output_type(self, told: Any, depth: int) -> Any:
        if not isinstance(told, Mapping) or depth > _DEEPEST:
            return Any
        schema = self._resolved(told, depth)
        if schema.get("type") == "array":
            if self._is_concatenated():
                return str
            return list[self._output_type(schema.get("items"), depth + 1)]  # type: ignore[misc]
        kind, _ = self._type_of("", schema, depth)
        return kind

    def _is_concatenated(self) -> bool:
        return (
            isinstance(self._output, Mapping)
            and self._output.get("x-cog-array-display") == "concatenate"
        )

    def _read(self, value: Any, told: Any, depth: int) -> Any:
        if not isinstance(told, Mapping) or depth > _DEEPEST:
            return value
        schema = self._resolved(told, depth)
        if isinstance(value, list):
            return [self._read(each, schema.get("items"), depth + 1) for each in value]
        if isinstance(value, dict):
            inner = schema.get("properties", {})
            return {key: self._read(each, inner.get(key), depth + 1) for key, each in value.items()}
        if isinstance(value, str) and schema.get("format") == "uri":
            data, content_type = data_of(value)
            return File(data, content_type=content_type)
        return value

    # --- references

    def _resolved(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """Return a schema without references, `allOf` and the other half of what may be null."""
        if depth > _DEEPEST:
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            found = self._schemas.get(reference.rpartition("/")[2], {})
            return self._resolved(found, depth + 1)
        parts = schema.get("allOf")
        if parts:
            merged: dict[str, Any] = {}
            for part in parts:
                merged |= self._resolved(part, depth + 1)
            return merged
        either = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
        if len(either) == 1:
            return {**self._resolved(either[0], depth + 1), "nullable": True}
        return schema


def data_of(uri: str) -> tuple[bytes, str]:
    """Return the bytes and the media type of a data URI.

    Raises:
        ValueError: It is none.
    """
    head, comma, data = uri.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise ValueError(f"a file must come as a data URI, and came as {uri[:40]!r}")
    try:
        read = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a file's data URI cannot be read: {error}") from error
    return read, head[5:].partition(";")[0] or "application/octet-stream"


def _attribute(name: str) -> str:
    """Return what a field is called in Python: names of pydantic's own get a sign behind them."""
    is_taken = hasattr(BaseModel, name) or name.startswith("_") or not name.isidentifier()
    plain = "".join(each if each.isalnum() else "_" for each in name).lstrip("_")
    return f"{plain or 'field'}_" if is_taken else name


def _is_picture(name: str) -> bool:
    return any(word in name.lower() for word in _PICTURES)


def _without(facts: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in others}
