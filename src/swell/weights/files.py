"""Opens untrusted paths only if they are regular files, and reads small ones up to a limit.

Reading a pipe may block forever, and reading a device may fill the memory. The name of a link into
the weight cache is the digest of its content.
"""

import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

#: The longest file of settings that is read; an index of a thousand shards has a tenth of it.
MOST_SETTINGS_BYTES: Final = 16 << 20

#: Opening a pipe does not block with these; they do not affect files.
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

#: Path of a content in the weight cache.
_CONTENT: Final = re.compile(r"/files/([0-9a-f]{2})/(\1[0-9a-f]{62})$")


class NoFile(OSError):
    """Something else than a file has its name, or the file is too long; the text says which."""


def open_file(path: Path) -> BufferedReader:
    """Open a file for reading.

    Raises:
        NoFile: It is a folder, a pipe or a device.
        OSError: It is not there, or cannot be read.
    """
    fd = os.open(path, _FLAGS)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise NoFile(f"it is {what} and no file")
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_settings(path: Path) -> str:
    """Return the text of a file of settings.

    Raises:
        NoFile: As `open_file`, or it has more than `MOST_SETTINGS_BYTES`.
        OSError: It is not there, or cannot be read.
        UnicodeDecodeError: It is no UTF-8.
    """
    with open_file(path) as file:
        found = file.read(MOST_SETTINGS_BYTES + 1)
    if len(found) > MOST_SETTINGS_BYTES:
        raise NoFile(f"it has more than {MOST_SETTINGS_BYTES:,} bytes, and settings are shorter")
    return found.decode("utf-8")


def content_of_link(path: Path) -> str:
    """Return the SHA-256 that a link into a cache of weights names; empty for all other files.

    The content need not have come there yet.
    """
    content = _CONTENT.search(path.resolve().as_posix()) if path.is_symlink() else None
    return content[2] if content else ""
