"""Inputs that ask for one sample for each element of a list: fields that have `ui.pack()`. Pure."""

import itertools
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from swell.ui import Hint

__all__ = ["inputs_of", "pack_fields", "wrong_pack"]


def pack_fields(input_type: type[BaseModel]) -> tuple[str, ...]:
    """Return the fields of an input whose elements are samples of their own, in their order."""
    return tuple(name for name, field in input_type.model_fields.items() if _is_pack(field))


def wrong_pack(input_type: type[BaseModel]) -> str | None:
    """Return which of these fields is no list with bounds; None where all are."""
    names = pack_fields(input_type)
    if not names:
        return None
    told = input_type.model_json_schema()["properties"]
    for name in names:
        schema = told[input_type.model_fields[name].alias or name]
        if (
            schema.get("type") != "array"
            or schema.get("minItems", 0) < 1
            or "maxItems" not in schema
        ):
            return name
    return None


def inputs_of(checked: BaseModel, names: tuple[str, ...]) -> list[BaseModel]:
    """Return an input once for each element, or pair of elements: row by row.

    Args:
        checked: As validated.
        names: Of the fields; what `pack_fields` returned.
    """
    lists = [[[each] for each in getattr(checked, name)] for name in names]
    return [
        checked.model_copy(update=dict(zip(names, each, strict=True)))
        for each in itertools.product(*lists)
    ]


def _is_pack(field: FieldInfo) -> bool:
    hints: list[Any] = [each for each in field.metadata if isinstance(each, Hint)]
    return any(each.values.get("pack") is True for each in hints)
