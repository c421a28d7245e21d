"""Reads TOML files that people write: pipelines and styles."""

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from swell.core.errors import InvalidModel, NotFound

T = TypeVar("T")


def read_toml(path: Path, kind: type[T], what: str) -> T:
    """Return the content of a TOML file.

    Args:
        path: The file.
        kind: The type of its content.
        what: What such files hold, for errors.

    Raises:
        NotFound: There is no such file.
        InvalidModel: It is not TOML, or has another content.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except OSError as error:
        raise NotFound(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidModel(f"{path.name} is not as {what} are written: {error}") from error
