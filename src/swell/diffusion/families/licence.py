"""What the README of a folder of weights says of its licence."""

import re
from pathlib import Path
from typing import Final

from swell.weights.files import open_file

#: Where hubs keep what a model's page says.
README: Final = "README.md"

#: So much of it is looked at, in bytes; what is sought stands at its top.
_MOST_BYTES: Final = 64 * 1024

_HEAD: Final = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LINE: Final = re.compile(
    r"""^(license(?:_name)?):[ \t]*["']?([^"'#\[\]\x00-\x1f\x7f]{1,80}?)["']?[ \t]*\r?$""", re.M
)

#: Names that hubs use where the name proper stands elsewhere, or nowhere.
_UNTOLD: Final = ("other", "unknown")


def licence_in(folder: Path) -> str:
    """Return the licence of the weights, as the head of their README says it; empty if it does not.

    What is longer than 80 letters, or has signs that nobody sees, is no name of a licence.

    Source:
        Hugging Face Hub documentation, "Model cards": `license` and `license_name`.
    """
    try:
        with open_file(folder / README) as file:
            text = file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""
    head = _HEAD.match(text)
    told = dict(_LINE.findall(head[1])) if head else {}
    name = told.get("license", "")
    if name.lower() in _UNTOLD:
        name = told.get("license_name", "")
    return f"weights {name}, as their README says" if name else ""
