"""Where results are saved, and under which names."""

import mimetypes
import re
from pathlib import Path

#: Where pictures go unless the command says otherwise.
FOLDER = Path("pictures")

_ENDINGS = {"image/jpeg": ".jpg", "audio/wav": ".wav", "application/octet-stream": ".bin"}


def slug(text: str, longest: int = 60) -> str:
    """Return a file name that people recognise: `A red fox!` → `a-red-fox`."""
    plain = re.sub(r"[^\w]+", "-", text.lower()).strip("-_")
    return plain[:longest].rstrip("-") or "result"


def free_path(stem: str, content_type: str, folder: Path = FOLDER) -> Path:
    """Return a path that no file has yet: `stem.png`, `stem-2.png`, …"""
    ending = _ENDINGS.get(content_type) or mimetypes.guess_extension(content_type) or ".bin"
    path, number = folder / f"{stem}{ending}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{ending}", number + 1
    return path


def save(path: Path, data: bytes) -> Path:
    """Write a file, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
