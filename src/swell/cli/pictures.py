"""Names and folders of saved results."""

import mimetypes
import re
from pathlib import Path

#: Default folder for pictures.
FOLDER = Path("pictures")

_ENDINGS = {"image/jpeg": ".jpg", "audio/wav": ".wav", "application/octet-stream": ".bin"}


def slug(text: str, longest: int = 60) -> str:
    """Return a readable file name: `A red fox!` → `a-red-fox`."""
    plain = re.sub(r"[^\w]+", "-", text.lower()).strip("-_")
    return plain[:longest].rstrip("-") or "result"


def free_path(stem: str, content_type: str, folder: Path = FOLDER) -> Path:
    """Return an unused path: `stem.png`, `stem-2.png`, …"""
    ending = _ENDINGS.get(content_type) or mimetypes.guess_extension(content_type) or ".bin"
    path, number = folder / f"{stem}{ending}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{ending}", number + 1
    return path


def save(path: Path, data: bytes) -> Path:
    """Write a file, and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
