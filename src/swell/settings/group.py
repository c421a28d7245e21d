"""The base class of groups of settings, and types of values that text can hold.

The class docstring of a group describes each setting under `Attributes:`. `swell config --schema`
and the reference of settings show these texts.
"""

import inspect
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def _add_texts(schema: dict[str, Any], group: type[BaseModel]) -> None:
    summary, _, attributes = inspect.cleandoc(group.__doc__ or "").partition("\n\nAttributes:\n")
    schema["description"] = summary
    for name, text in _ATTRIBUTE.findall(attributes):
        schema["properties"][name]["description"] = " ".join(text.split())


class Group(BaseModel):
    """A group of settings: one table of `swell.toml`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        json_schema_extra=_add_texts,
    )


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _parse_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not JSON: {error}") from error


def each_word(normalize: Callable[[str], str]) -> AfterValidator:
    """Normalize each word of a list."""
    return AfterValidator(lambda words: tuple(map(normalize, words)))


#: A list that may be given as `a,b`.
Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Waits = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_split)]
#: A table that may be given as JSON, as in the environment.
Json = BeforeValidator(_parse_json)
