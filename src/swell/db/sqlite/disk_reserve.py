"""A file next to the database that is removed when the disk is full.

A full disk then has room for a start, which writes a little before it can read, and for erasing.
Until there is room for the file again, the store accepts no tasks.
"""

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

#: A start writes less, and so does erasing some hundred tasks.
RESERVE_BYTES: Final = 4 * 1024 * 1024

#: A start needs this much more.
SPARE_BYTES: Final = 1024 * 1024

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Reserve:
    """The file of one database.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_there = False
        # A start needs the room.
        self.give_up()

    def give_up(self) -> bool:
        """Remove the file; return whether that made room."""
        was_there, self.is_there = self.is_there, False
        with contextlib.suppress(OSError):  # The disk may be read-only as well.
            self._path.unlink(missing_ok=True)
        return was_there

    def keep(self, spare_bytes: int = SPARE_BYTES) -> bool:
        """Make the file if that leaves some room; return whether it is there."""
        disk = os.statvfs(self._path.parent)
        if self.is_there or disk.f_bavail * disk.f_frsize < RESERVE_BYTES + spare_bytes:
            return self.is_there
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
            self.is_there = True
        except (OSError, AttributeError) as error:
            self.give_up()
            # A system without `fallocate` still accepts tasks.
            self.is_there = getattr(error, "errno", None) not in _FULL
        return self.is_there
