"""Cheaper inputs for a task: fewer steps, then a smaller picture. Pure.

The time of a picture grows with its steps and its area; a tenth of it is fixed:

    time(share) = time(1) · (FIXED + (1 - FIXED) · share)      share of steps · area

The changes are stored in front of the task's metadata (`with_changes`), so an unchanged task stores
nothing.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

#: The part of a task's time that does not depend on steps and area: text, decoding, delivery.
FIXED: Final = 0.1

#: Fields with the number of steps, and with the size of a picture.
_STEPS: Final = ("steps", "num_inference_steps")
_SIDES: Final = ("width", "height")

#: Sides are multiples of this if the schema has no other rule.
_MULTIPLE: Final = 8

_MARK: Final = b'{"$degraded":'
_encode = msgspec.json.Encoder().encode


class Change(msgspec.Struct, frozen=True):
    """A field of a request that was changed so that the task could be accepted.

    Args:
        field: JSON pointer into the request.
        before: The requested value.
        after: The value that is used.
    """

    field: str
    before: Any = msgspec.field(name="from")
    after: Any = msgspec.field(name="to")


class _Marked(msgspec.Struct):
    changes: list[Change] = msgspec.field(name="$degraded")
    metadata: msgspec.Raw = msgspec.Raw(b"null")


def time_share(share: float) -> float:
    """Return the part of its time that a task takes with a share of its steps times area."""
    return FIXED + (1.0 - FIXED) * share


def is_drawing(schema: Mapping[str, Any]) -> bool:
    """Whether inputs of a schema have steps or a size."""
    known = schema.get("properties", {})
    return any(name in known for name in _STEPS) or all(name in known for name in _SIDES)


def drawn(asked: Mapping[str, Any], schema: Mapping[str, Any]) -> float:
    """Return steps times area of an input; each is 1 if the schema lacks it."""
    known = schema.get("properties", {})
    value = {name: given for name, given in asked.items() if given is not None}
    steps = next((_number(value, known, name) for name in _STEPS if name in known), None)
    sides = [_number(value, known, name) or 1 for name in _SIDES if name in known]
    return (steps or 1) * (math.prod(sides) if len(sides) == len(_SIDES) else 1.0)


def reduce_input(
    value: Mapping[str, Any],
    schema: Mapping[str, Any],
    *,
    share: float,
    steps: int | None,
    size_px: int | None,
) -> tuple[dict[str, Any], list[Change], float]:
    """Return an input with fewer steps, and a smaller picture if that is not enough.

    Args:
        value: The input.
        schema: JSON Schema of inputs.
        share: The share of steps times area to reach, from 0 to 1.
        steps: The least number of steps; None keeps them.
        size_px: The least side of the picture; None keeps its size.

    Returns:
        The input, its changes, and the share that is left. It exceeds `share` if the limits do not
        allow less.
    """
    known = schema.get("properties", {})
    asked: dict[str, int] = {}
    for name in (*_STEPS, *_SIDES):
        if name in known and (number := _number(value, known, name)) is not None:
            asked[name] = number
    wanted: dict[str, int] = {}
    left = 1.0
    name = next((name for name in _STEPS if name in known), "")
    if steps is not None and name in asked:
        least = max(steps, int(known[name].get("minimum", 1)), 1)
        wanted[name] = max(least, math.floor(asked[name] * share + 1e-9))
        left = min(1.0, wanted[name] / asked[name])
    shortest = min(asked.get(name, 0) for name in _SIDES)
    if size_px is not None and left > share and shortest > size_px:
        factor = max(math.sqrt(share / left), size_px / shortest)
        for name in _SIDES:
            wanted[name] = _allowed(known[name], asked[name] * factor, size_px)
    changes = [
        Change(f"/input/{name}", asked[name], number)
        for name, number in wanted.items()
        if number < asked[name]
    ]
    left = math.prod(change.after / change.before for change in changes)
    after = {change.field.removeprefix("/input/"): change.after for change in changes}
    return {**value, **after}, changes, left


def _allowed(schema: Mapping[str, Any], wanted: float, least: int) -> int:
    """Return the largest value up to `wanted` that a schema allows, but at least `least`."""
    if "enum" in schema:
        fits = [each for each in schema["enum"] if isinstance(each, int) and least <= each]
        # Without a value that fits, none is smaller than the present one.
        smallest = min(fits, default=sys.maxsize)
        return max((each for each in fits if each <= wanted + 1e-6), default=smallest)
    multiple = int(schema.get("multipleOf", _MULTIPLE))
    least = max(least, int(schema.get("minimum", 1)))
    return multiple * max(math.floor((wanted + 1e-6) / multiple), math.ceil(least / multiple))


def _number(value: Mapping[str, Any], known: Mapping[str, Any], name: str) -> int | None:
    found = value.get(name, known[name].get("default"))
    is_number = isinstance(found, int) and not isinstance(found, bool)
    return found if is_number and found > 0 else None


def with_changes(metadata: msgspec.Raw | None, changes: Sequence[Change]) -> msgspec.Raw | None:
    """Return metadata with changes in front; `split_metadata` separates them again.

    Metadata that look like changes are wrapped too, so that their caller gets them back unchanged.
    """
    if not changes and (metadata is None or not bytes(metadata).startswith(_MARK)):
        return metadata
    inner = msgspec.Raw(b"null") if metadata is None else metadata
    return msgspec.Raw(_encode(_Marked(list(changes), inner)))


def split_metadata(metadata: msgspec.Raw) -> tuple[msgspec.Raw | None, list[Change]]:
    """Return a task's metadata as its caller sent them, and the changes of the request."""
    raw = bytes(metadata)
    if not raw.startswith(_MARK):
        return metadata, []
    marked = msgspec.json.decode(raw, type=_Marked)
    inner = None if bytes(marked.metadata) == b"null" else msgspec.Raw(bytes(marked.metadata))
    return inner, marked.changes
