"""How a task is made cheaper: fewer steps, then a smaller picture. Pure.

What a picture takes on its device grows with its steps and its area, beside what it takes anyway:

    time(share) = own · (FIXED + (1 - FIXED) · share)      share = steps · area, over what was asked

What was changed travels in front of the task's metadata (`with_changes`), so that a task of which
nothing was changed carries nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

#: So much of its time a task takes whatever is asked for: words, decoding, delivery.
FIXED: Final = 0.1

#: Fields that say how many steps are drawn, and how large a picture is.
_STEPS: Final = ("steps", "num_inference_steps")
_SIDES: Final = ("width", "height")

#: Sides are multiples of this where the schema names no other.
_MULTIPLE: Final = 8

_MARK: Final = b'{"$degraded":'
_encode = msgspec.json.Encoder().encode


class Change(msgspec.Struct, frozen=True):
    """A field of a request that was changed so that the task could be accepted.

    Args:
        field: JSON pointer into the request.
        before: What was asked for.
        after: What is done instead.
    """

    field: str
    before: Any = msgspec.field(name="from")
    after: Any = msgspec.field(name="to")


class _Marked(msgspec.Struct):
    changes: list[Change] = msgspec.field(name="$degraded")
    metadata: msgspec.Raw = msgspec.Raw(b"null")


def time_share(share: float, fixed: float = FIXED) -> float:
    """Return which part of its time a task takes that draws a share of what was asked for.

    Args:
        share: Of steps times area; above 1 where it draws more.
        fixed: Which part of its time it takes whatever is asked for.
    """
    return fixed + (1.0 - fixed) * share


class Drawn(msgspec.Struct):
    """What of an input says how much is drawn; to read that alone, beside files of any size."""

    steps: Any = None
    num_inference_steps: Any = None
    width: Any = None
    height: Any = None


def is_drawing(schema: Mapping[str, Any]) -> bool:
    """Whether inputs of a schema say how many steps are drawn, or how large a picture is."""
    known = schema.get("properties", {})
    return any(name in known for name in _STEPS) or all(name in known for name in _SIDES)


def drawn(asked: Drawn, schema: Mapping[str, Any]) -> float:
    """Return steps times area of what is asked for, each 1 where the schema has none of it."""
    known = schema.get("properties", {})
    value = {
        name: given
        for name in (*_STEPS, *_SIDES)
        if name in known and (given := getattr(asked, name)) is not None
    }
    steps = next((_number(value, known, name) for name in _STEPS if name in known), None)
    sides = [_number(value, known, name) for name in _SIDES if name in known]
    area = 1.0
    if len(sides) == len(_SIDES):
        area = math.prod(each or 1 for each in sides)
    return (steps or 1) * area


def milder(
    value: Mapping[str, Any],
    schema: Mapping[str, Any],
    *,
    share: float,
    steps: int | None,
    size_px: int | None,
) -> tuple[dict[str, Any], list[Change], float]:
    """Return an input that asks for less.

    Args:
        value: The input.
        schema: Of inputs, as JSON Schema.
        share: How much is to be left of steps times area, from 0 to 1.
        steps: No fewer than these; None to leave them.
        size_px: No side becomes smaller than this; None to leave them.

    Returns:
        The input, what is changed in it, and how much is left: more than `share` where that cannot
        be reached.
    """
    known = schema.get("properties", {})
    changed: dict[str, Any] = dict(value)
    changes: list[Change] = []
    left = 1.0
    name = next((name for name in _STEPS if name in known), None)
    if steps is not None and name is not None:
        asked = _number(value, known, name)
        least = max(steps, int(known[name].get("minimum", 1)), 1)
        if asked is not None and asked > least:
            fewer = max(least, math.floor(asked * share + 1e-9))
            _change(changed, changes, name, asked, fewer)
            left *= fewer / asked
    if size_px is not None and left > share:
        left *= _smaller(changed, changes, known, math.sqrt(share / left), size_px)
    return changed, changes, left


def _smaller(
    changed: dict[str, Any],
    changes: list[Change],
    known: Mapping[str, Any],
    factor: float,
    size_px: int,
) -> float:
    """Make a picture smaller, in its proportions; return how much of its area is left."""
    sides = {name: _number(changed, known, name) for name in _SIDES if name in known}
    lengths = [side for side in sides.values() if side is not None]
    if len(lengths) < len(_SIDES) or min(lengths) <= size_px:
        return 1.0
    factor = max(factor, size_px / min(lengths))
    left = 1.0
    for name, asked in sides.items():
        assert asked is not None, "sides without a number were left out"
        side = _allowed(known[name], asked * factor, size_px)
        if side is not None and side < asked:
            _change(changed, changes, name, asked, side)
            left *= side / asked
    return left


def _allowed(schema: Mapping[str, Any], wanted: float, least: int) -> int | None:
    """Return the largest value that a schema allows up to one, but not less than `least`."""
    if "enum" in schema:
        fits = [each for each in schema["enum"] if isinstance(each, int) and least <= each]
        return max(
            (each for each in fits if each <= wanted + 1e-6), default=min(fits, default=None)
        )
    multiple = int(schema.get("multipleOf", _MULTIPLE))
    least = max(least, int(schema.get("minimum", 1)))
    return max(
        multiple * math.floor((wanted + 1e-6) / multiple), multiple * math.ceil(least / multiple)
    )


def _number(value: Mapping[str, Any], known: Mapping[str, Any], name: str) -> int | None:
    found = value.get(name, known[name].get("default"))
    is_number = isinstance(found, int) and not isinstance(found, bool)
    return found if is_number and found > 0 else None


def _change(
    changed: dict[str, Any], changes: list[Change], name: str, before: int, after: int
) -> None:
    if after < before:
        changed[name] = after
        changes.append(Change(f"/input/{name}", before, after))


def with_changes(metadata: msgspec.Raw | None, changes: Sequence[Change]) -> msgspec.Raw | None:
    """Return metadata with what was changed; `split_metadata` takes it apart.

    Metadata of a caller that begins as if it held changes is wrapped too, and so comes back as it
    was.
    """
    if not changes and (metadata is None or not bytes(metadata).startswith(_MARK)):
        return metadata
    inner = msgspec.Raw(b"null") if metadata is None else metadata
    return msgspec.Raw(_encode(_Marked(list(changes), inner)))


def split_metadata(metadata: msgspec.Raw) -> tuple[msgspec.Raw | None, list[Change]]:
    """Return a task's metadata as its caller gave them, and what was changed in the request."""
    raw = bytes(metadata)
    if not raw.startswith(_MARK):
        return metadata, []
    marked = msgspec.json.decode(raw, type=_Marked)
    inner = None if bytes(marked.metadata) == b"null" else msgspec.Raw(bytes(marked.metadata))
    return inner, marked.changes
