"""Describes every setting, for the reference and for checks of deployments."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from swell.settings.group import texts_of
from swell.settings.load import Settings, fields, variable_of


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: key, default, description and kind."""

    key: str
    default: Any
    description: str
    is_secret: bool
    #: The kind of its values, for people, such as `integer`.
    kind: str

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return variable_of(self.key)


def describe() -> list[Setting]:
    """Return every setting, in the order of the reference."""
    found = []
    for key, field in fields().items():
        group, _, name = key.rpartition(".")
        cls: Any = Settings.model_fields[group].annotation if group else Settings
        is_secret = field.annotation is SecretStr
        found.append(
            Setting(
                key=key,
                default="" if is_secret else _plain(field.default),
                description=texts_of(cls)[1].get(name, ""),
                is_secret=is_secret,
                kind=_kind(field),
            )
        )
    return found


_KINDS: Final[Mapping[Any, str]] = {
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
    int | None: "integer",
    float | None: "number",
    SecretStr: "secret",
}


def _kind(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(get_args(annotation))
    if origin is tuple:
        return "list of words"
    if origin is Mapping:
        values = get_args(annotation)[1]
        is_group = isinstance(values, type) and hasattr(values, "model_fields")
        return "tables by name" if is_group else "table"
    return _KINDS.get(annotation, "text")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
