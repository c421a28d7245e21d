"""Files of settings that come with weights, read with suspicion: they may say anything. Pure."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidModel
from swell.weights.files import read_settings

#: Letters of the name of a class; the longest of diffusers has some 60.
_LONGEST: Final = 80


def read_json(folder: Path, name: str, *, optional: bool = False) -> dict[str, Any]:
    """Return a folder's file of settings; nothing if it may be missing and is.

    Raises:
        InvalidModel: It is missing, no file, too long, or no table.
    """
    path = folder / name
    if optional and not os.path.lexists(path):
        return {}
    try:
        found = json.loads(read_settings(path))
    except FileNotFoundError:
        raise InvalidModel(f"the folder has no {name}: give one as diffusers saves it") from None
    except RecursionError:
        raise InvalidModel(f"{name} cannot be read: tables within tables without end") from None
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{name} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InvalidModel(f"{name} is no table of settings")
    return found


def number_of(
    told: Mapping[str, Any], name: str, usual: float, *, least: float, most: float, file: str
) -> float:
    """Return a number that settings say.

    Args:
        told: The settings.
        name: What it is called there.
        usual: What it is where they say nothing.
        least: The smallest that makes sense.
        most: The largest.
        file: Where they stand, for errors.

    Raises:
        InvalidModel: It is no number, or out of bounds.
    """
    found = told.get(name, usual)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    # What is no number at all (NaN) is in no bounds either.
    if not (is_number and least <= found <= most):
        raise _wrong(file, name, found, f"a number from {least:g} to {most:g}")
    return float(found)


def count_of(
    told: Mapping[str, Any], name: str, usual: int, *, least: int, most: int, file: str
) -> int:
    """Return a whole number that settings say; see `number_of`.

    Raises:
        InvalidModel: It is no whole number, or out of bounds.
    """
    found = told.get(name, usual)
    if not (_is_whole(found) and least <= found <= most):
        raise _wrong(file, name, found, f"a whole number from {least} to {most}")
    return int(found)


def counts_of(
    told: Mapping[str, Any], name: str, *, length: int, least: int, most: int, file: str
) -> tuple[int, ...]:
    """Return whole numbers that settings say, 1 to `length` of them; see `number_of`.

    Raises:
        InvalidModel: It is no such list, or one is out of bounds.
    """
    found = told.get(name)
    is_list = isinstance(found, list) and 1 <= len(found) <= length
    if not (is_list and all(_is_whole(each) and least <= each <= most for each in found or ())):
        raise _wrong(
            file, name, found, f"a list of 1 to {length} whole numbers from {least} to {most}"
        )
    return tuple(found or ())


def choice_of(
    told: Mapping[str, Any], name: str, usual: str, *, known: Sequence[str], file: str
) -> str:
    """Return a word that settings say; see `number_of`.

    Raises:
        InvalidModel: It is none of those that are known.
    """
    found = told.get(name, usual)
    if not (isinstance(found, str) and found in known):
        raise _wrong(file, name, found, f"one of {', '.join(known)}")
    return found


def check_text(name: str) -> None:
    """Check that the name of a file or folder can be written down and shown.

    Raises:
        InvalidModel: It is no UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidModel(f"the name {name!r} is no UTF-8: give it another") from None


def class_in(told: Mapping[str, Any], file: str) -> str:
    """Return the name of the class in diffusers that settings say they are of; empty for none.

    Raises:
        InvalidModel: It is no name of a class.
    """
    found = told.get("_class_name", "")
    if found != "" and not is_class(found):
        raise _wrong(
            file,
            "_class_name",
            found,
            f"the name of a class, of letters, digits and _, {_LONGEST} at most",
        )
    return str(found)


def is_class(name: Any) -> bool:
    """Whether something may be the name of a class, and be shown."""
    is_short = isinstance(name, str) and len(name) <= _LONGEST
    return is_short and name.isascii() and name.isidentifier()


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(file: str, name: str, found: Any, wanted: str) -> InvalidModel:
    try:
        shown = json.dumps(found)
    except ValueError:  # a number with more digits than anybody reads
        shown = "too large"
    return InvalidModel(f"{file}: {name} is {shown[:80]}: it must be {wanted}")
