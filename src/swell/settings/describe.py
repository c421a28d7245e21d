"""Describes every setting, for the reference and for checks of deployments."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from swell.settings.load import Settings, fields, variable_of

#: JSON type or format → kind, for people.
_KINDS: Final[Mapping[str, str]] = {
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "path": "path",
    "password": "secret",
    "array": "list of words",
    "object": "table",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: key, default, description and kind."""

    key: str
    default: Any
    description: str
    #: The kind of its values, for people, such as `integer`.
    kind: str

    @property
    def is_secret(self) -> bool:
        """Whether its value is never shown."""
        return self.kind == "secret"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return variable_of(self.key)


def describe() -> list[Setting]:
    """Return every setting, in the order of the reference."""
    schema = Settings.model_json_schema()
    found = []
    for key in fields():
        group, _, name = key.rpartition(".")
        table = schema
        if group:
            table = schema["$defs"][schema["properties"][group]["$ref"].removeprefix("#/$defs/")]
        field = table["properties"][name]
        kind = _kind(field)
        default = "" if kind == "secret" else field["default"]
        found.append(Setting(key, default, field["description"], kind))
    return found


def _kind(field: Mapping[str, Any]) -> str:
    schema = field["anyOf"][0] if "anyOf" in field else field
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if "$ref" in str(schema.get("additionalProperties")):
        return "tables by name"
    return _KINDS.get(schema.get("format") or schema["type"], "text")
