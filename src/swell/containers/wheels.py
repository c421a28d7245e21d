"""Packs the installed Swell as a wheel; the same files give the same bytes."""

import io
import zipfile
from importlib import metadata
from typing import Final

from swell.containers.sources import SWELL

#: The earliest time that the zip format can store.
_WHEN: Final = (1980, 1, 1, 0, 0, 0)

_WHEEL: Final = b"Wheel-Version: 1.0\nGenerator: swell\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

#: Metadata files that installers read.
_TOLD: Final = ("METADATA", "entry_points.txt")


def wheel_name() -> str:
    """Return the file name of the wheel."""
    return f"swell-{metadata.version('swell')}-py3-none-any.whl"


def wheel() -> bytes:
    """Return the bytes of the wheel."""
    home = f"swell-{metadata.version('swell')}.dist-info"
    files = {
        path.relative_to(SWELL.parent).as_posix(): path.read_bytes()
        for path in sorted(SWELL.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    installed = metadata.distribution("swell")
    files |= {f"{home}/{name}": (installed.read_text(name) or "").encode() for name in _TOLD}
    files[f"{home}/WHEEL"] = _WHEEL
    # Without digests: uv does not compare them.
    files[f"{home}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{home}/RECORD")).encode()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data)
    return whole.getvalue()
