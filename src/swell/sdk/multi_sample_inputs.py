"""Inputs that ask for one sample for each element of a list: fields that have `ui.pack()`. Pure."""

import itertools
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

#: Value in `x-ui` for a model that takes a whole pack.
_WHOLE: Final = "whole"


def pack_fields(input_type: type[BaseModel]) -> tuple[str, ...]:
    """Return the fields of an input with a sample per element, in order."""
    properties = input_type.model_json_schema(by_alias=False).get("properties", {})
    return tuple(
        name for name, field in properties.items() if field.get("x-ui", {}).get("pack") is True
    )


def wrong_pack(schema: Mapping[str, Any]) -> str | None:
    """Return a field of these that is not a list with bounds; None if all are."""
    for name, field in schema.get("properties", {}).items():
        is_bounded = field.get("minItems", 0) >= 1 and "maxItems" in field
        if field.get("x-ui", {}).get("pack") is True and not is_bounded:
            return str(name)
    return None


def packs_in(schema: Mapping[str, Any]) -> dict[str, int]:
    """Return the lists of an input with a sample per element: name → default length.

    Args:
        schema: JSON Schema of the input. Lists that the model takes whole are included.
    """
    found = {}
    for name, field in (schema.get("properties") or {}).items():
        hints = field.get("x-ui") if isinstance(field, dict) else None
        if isinstance(hints, dict) and hints.get("pack") in (True, _WHOLE):
            usual = field.get("default")
            found[name] = max(1, len(usual)) if isinstance(usual, list) else 1
    return found


def size_of(packs: Mapping[str, int], value: Mapping[str, Any]) -> int:
    """Return the number of samples of an input.

    Args:
        packs: From `packs_in`.
        value: The input.
    """
    size = 1
    for name, usual in packs.items():
        given = value.get(name)
        size *= max(1, len(given)) if isinstance(given, list) else usual
    return size


def inputs_of(checked: BaseModel, names: tuple[str, ...]) -> list[BaseModel]:
    """Return a copy of an input for each element, or combination of elements, row by row.

    Args:
        checked: The validated input.
        names: The fields, from `pack_fields`.
    """
    lists = [[[each] for each in getattr(checked, name)] for name in names]
    return [
        checked.model_copy(update=dict(zip(names, each, strict=True)))
        for each in itertools.product(*lists)
    ]
