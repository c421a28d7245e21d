"""Folders where torch keeps compiled programs for the next process.

    programs/KEY      the programs of one model, version, library, device and processor

Compiled programs are code: pickles and machine code. They are used only from a folder that no
other user can write.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import stat
from pathlib import Path
from typing import Final

from swell.core.errors import SwellError
from swell.settings.environment import process_environment, replace_environment

#: The rights of others to a folder; and those to change it.
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

_FOLDER_VARIABLE: Final = "SWELL_WORKER__COMPILED_DIR"
_BUDGET_VARIABLE: Final = "SWELL_WORKER__COMPILED_BYTES"


class NotPrivate(SwellError):
    """Another user can write where compiled programs are kept."""

    code, title = "not_private", "The folder of compiled programs is not private"


def processor() -> str:
    """Return the kind of this machine's CPU: its name, and a digest of its features."""
    with contextlib.suppress(OSError):
        found: dict[str, str] = {}
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
        flags = found.get("flags") or found.get("Features") or ""
        named = found.get("model name") or platform.machine()
        return f"{named} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"
    return f"{platform.machine()} {platform.processor()}"


def keep_compiled_in(folder: str, budget_bytes: int | None) -> None:
    """Set the folder of `workers_cache` in this process."""
    told = {_FOLDER_VARIABLE: folder}
    told |= {} if budget_bytes is None else {_BUDGET_VARIABLE: str(budget_bytes)}
    replace_environment(process_environment() | told)


def workers_cache(otherwise: Path = Path(".swell/compiled")) -> "CompileCache":
    """Return the cache of the worker that started this process.

    Args:
        otherwise: The folder, in a process that no worker started.
    """
    variables = process_environment()
    budget = variables.get(_BUDGET_VARIABLE)
    folder = Path(variables.get(_FOLDER_VARIABLE) or otherwise)
    return CompileCache(folder, int(budget) if budget else None)


class CompileCache:
    """Compiled programs by a key of all that they depend on. Processes may share it.

    Args:
        folder: Created if missing, for this user alone; machines may share it.
        budget_bytes: Limit of all programs; the least recently used are removed. None for no limit.
    """

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        self.folder = folder
        self._budget_bytes = budget_bytes

    def open(self, key: str) -> tuple[Path, bool]:
        """Return the folder of a key, and whether it has programs.

        Raises:
            NotPrivate: Another user can write there.
        """
        self._check_private()
        chosen = self.folder / "programs" / key
        has_programs = chosen.is_dir() and any(chosen.iterdir())
        chosen.mkdir(parents=True, exist_ok=True)
        os.utime(chosen)
        self._evict()
        return chosen, has_programs

    def discard(self, key: str) -> None:
        """Remove the programs of a key."""
        shutil.rmtree(self.folder / "programs" / key, ignore_errors=True)

    def _evict(self) -> None:
        if self._budget_bytes is None:
            return
        used = sorted((self.folder / "programs").iterdir(), key=lambda path: path.stat().st_mtime)
        sizes = {path: _size_bytes(path) for path in used}
        for path in used[:-1]:
            if sum(sizes.values()) > self._budget_bytes:
                self.discard(path.name)
                del sizes[path]

    def _check_private(self) -> None:
        """Create the folder, or check that no other user can write to it.

        A folder of this user that others can only read is closed to them.

        Raises:
            NotPrivate: Others can write to it, or it belongs to another user.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.lstat()
        is_own = found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode)
        if is_own and found.st_mode & _OTHERS and not found.st_mode & _OTHERS_WRITE:
            with contextlib.suppress(OSError):
                self.folder.chmod(0o700)
                found = self.folder.lstat()
        if not is_own or found.st_mode & _OTHERS:
            raise NotPrivate(
                f"{self.folder} can be used by others, and what lies there is run as a program: "
                f"give a folder of your own, with chmod 700 {self.folder}"
            )


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
