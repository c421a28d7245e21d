"""Builds views that repeat the fields of records."""

from typing import Any, TypeVar

import msgspec

V = TypeVar("V", bound=msgspec.Struct)


def project(record: msgspec.Struct, view: type[V], **more: Any) -> V:
    """Return a view with the record's fields of the same names, and with others in `more`."""
    names = set(record.__struct_fields__).intersection(view.__struct_fields__) - more.keys()
    return view(**{name: getattr(record, name) for name in names}, **more)


def rounded(number: float | None) -> float | None:
    """Round a number to three digits, if there is one."""
    return None if number is None else round(number, 3)
