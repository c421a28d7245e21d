"""Files of settings that come with weights, read with suspicion: they may say anything. Pure."""

import json
from pathlib import Path
from typing import Any

from swell.model import InvalidModel

__all__ = ["read_json"]


def read_json(folder: Path, name: str, *, optional: bool = False) -> dict[str, Any]:
    """Return a folder's file of settings; nothing if it may be missing and is.

    Raises:
        InvalidModel: It is missing, or no table.
    """
    path = folder / name
    if optional and not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidModel(f"the folder has no {name}: give one as diffusers saves it") from None
    except RecursionError:
        raise InvalidModel(f"{name} cannot be read: tables within tables without end") from None
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{name} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InvalidModel(f"{name} is no table of settings")
    return found
