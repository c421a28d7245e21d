"""What was compiled for a model, kept beside its weights for the next process.

Compiled artefacts are programs: machine code and pickles. Weights may come from anyone; a program
is read only from a folder that no other user can write, and only if its digest matches.

    records/KEY     which content belongs to a key
    files/SHA-256   contents, evicted as those of weights are
    refused/SHA-256 contents that have failed here when they were run; they are not used again
    work/…          a folder for each process that compiles, gone with it

The key is a digest of all that an artefact depends on: weights, the model's code, libraries, device
and the kind of processor. Another build never finds it.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import Final

import msgspec

from swell.core.errors import SwellError
from swell.settings.environment import process_environment, replace_environment
from swell.weights.cache import CacheFull, CacheUnusable, WeightCache
from swell.weights.weight_index import Entry

#: Rights of others to a folder; and those by which they change what lies there.
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

_DIGEST: Final = re.compile("[0-9a-f]{64}")

#: What is raised of a record that is not there, or was damaged.
_UNREADABLE: Final = (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_FOLDER_VARIABLE: Final = "SWELL_WORKER__COMPILED_DIR"
_BUDGET_VARIABLE: Final = "SWELL_WORKER__COMPILED_BYTES"


class NotPrivate(SwellError):
    """Somebody else can write where compiled programs are to be kept."""

    code, title = "not_private", "The folder of compiled programs is not private"


class CompiledKey(msgspec.Struct, frozen=True):
    """All that a compiled artefact depends on.

    Args:
        weights: SHA-256 of each file of weights.
        model: The version of the model's code, as its card has it.
        libraries: Versions of what compiled, and of what runs it.
        device: As `Model.load` gets it.
        processor: The kind of CPU or GPU; see `processor`.
    """

    weights: tuple[str, ...]
    model: str
    libraries: dict[str, str]
    device: str
    processor: str

    @property
    def digest(self) -> str:
        """The name of its record."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class _Record(msgspec.Struct, frozen=True):
    sha256: str
    size_bytes: int
    #: The key itself, so that a record says what it is for.
    key: CompiledKey


def processor() -> str:
    """Return the kind of this machine's CPU: its name, and a digest of what it can do."""
    with contextlib.suppress(OSError):
        told: dict[str, str] = {}
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
        flags = told.get("flags") or told.get("Features") or ""
        named = told.get("model name") or platform.machine()
        return f"{named} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"
    return f"{platform.machine()} {platform.processor()}"


#: What this process tries out.
_trials: set[Path] = set()


def all_tried_out() -> None:
    """Note that this process has run what it tried out: its models are warm, or it ends well."""
    while _trials:
        with contextlib.suppress(OSError):
            _trials.pop().unlink(missing_ok=True)


def keep_compiled_in(folder: str, budget_bytes: int | None) -> None:
    """Have `workers_cache` keep programs there, in this process."""
    told = {_FOLDER_VARIABLE: folder}
    told |= {} if budget_bytes is None else {_BUDGET_VARIABLE: str(budget_bytes)}
    replace_environment(process_environment() | told)


def workers_cache(otherwise: Path = Path(".swell/compiled")) -> "CompiledCache":
    """Return the cache of the worker that started this process.

    Args:
        otherwise: The folder, in a process that no worker has started.
    """
    variables = process_environment()
    budget = variables.get(_BUDGET_VARIABLE)
    folder = Path(variables.get(_FOLDER_VARIABLE) or otherwise)
    return CompiledCache(folder, int(budget) if budget else None)


class CompiledCache:
    """Compiled artefacts by what they depend on. Any number of processes may use one at once.

    Args:
        folder: Made if it is not there; for this user alone. A local disk or a volume that
            machines share, with POSIX file locks.
        budget_bytes: What all contents together may take; None for as much as the disk has.

    Guarantees:
        What `get` returns was given to `put` under an equal key, byte for byte, by this user.
    """

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        self.folder = folder
        #: The files alone; `_check_private` comes before their use.
        self.contents: Final = WeightCache(folder, budget_bytes)

    def get(self, key: CompiledKey) -> bytes | None:
        """Return what was kept under a key; None if there is nothing, or it is not as it was.

        Raises:
            NotPrivate: Somebody else can write there.
        """
        self._check_private()
        record = self._record(key)
        if record is None:
            return None
        path = self.contents.path(record.sha256)
        if self.is_refused(record.sha256):
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() != record.sha256:
            path.unlink(missing_ok=True)
            return None
        # Somebody may have evicted it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        return content

    def refuse(self, sha256: str) -> None:
        """Use a content no more on this machine: it has failed when it was run.

        Raises:
            NotPrivate: Somebody else can write there.
        """
        self._check_private()
        with contextlib.suppress(OSError):  # on a full disk it fails again
            self._write(self.folder / "refused" / sha256, b"")

    def is_refused(self, sha256: str) -> bool:
        """Return whether a content has failed here when it was run."""
        return (self.folder / "refused" / sha256).exists()

    def put(self, key: CompiledKey, content: bytes) -> bool:
        """Keep something under a key, in the place of what was there; return whether it is kept.

        Where the disk or the budget does not take it, it is not.

        Args:
            key: What it depends on.
            content: What has just been run here, so that it is not refused whatever was before.

        Raises:
            NotPrivate: Somebody else can write there.
        """
        self._check_private()
        entry = Entry(hashlib.sha256(content).hexdigest(), len(content))
        try:
            with self.contents.locked(entry.sha256):
                self.contents.make_room(len(content))
                self._write(self.contents.path(entry.sha256), content)
            (self.folder / "refused" / entry.sha256).unlink(missing_ok=True)
            record = _Record(entry.sha256, entry.size_bytes, key)
            self._write(self._record_path(key), msgspec.json.encode(record))
        except (CacheFull, CacheUnusable, OSError):
            return False
        return True

    def workplace(self) -> Path:
        """Return an empty folder for what this process compiles; it goes when the process has gone.

        Raises:
            NotPrivate: Somebody else can write there.
        """
        self._check_private()
        place = self.folder / "work"
        place.mkdir(exist_ok=True)
        for left in place.glob("*.lock"):
            self._clear(left)
        while True:
            made = place / secrets.token_hex(8)
            # Open, and so locked, as long as this process lives.
            lock = os.open(made.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Somebody may have taken it for one that was left.
            if os.fstat(lock).st_nlink:
                made.mkdir()
                return made
            os.close(lock)

    def try_out(self, workplace: Path, content: bytes) -> None:
        """Note that a process runs a content for the first time: if it dies over it, it is refused.

        Args:
            workplace: From `workplace()`, of the process.
            content: What it runs.
        """
        trial = _trial(workplace)
        with contextlib.suppress(OSError):  # on a full disk it may kill once more
            trial.write_text(hashlib.sha256(content).hexdigest())
            _trials.add(trial)

    def tried_out(self, workplace: Path) -> None:
        """Note that the process has run it, whatever came of that."""
        trial = _trial(workplace)
        _trials.discard(trial)
        trial.unlink(missing_ok=True)

    def _clear(self, lock: Path) -> None:
        """Remove the folder of a process that has gone; what it died over is refused."""
        with contextlib.suppress(OSError), lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            trial = _trial(lock.with_suffix(""))
            if trial.exists():
                died_over = trial.read_text()
                if _DIGEST.fullmatch(died_over):
                    self.refuse(died_over)
                trial.unlink()
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)

    def _record_path(self, key: CompiledKey) -> Path:
        return self.folder / "records" / f"{key.digest}.json"

    def _record(self, key: CompiledKey) -> _Record | None:
        try:
            record = msgspec.json.decode(self._record_path(key).read_bytes(), type=_Record)
        except _UNREADABLE:
            return None
        return record if record.key == key else None

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            draft.write_bytes(content)
            draft.chmod(0o400)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def _check_private(self) -> None:
        """See that nobody else can write there; makes the folder where there is none.

        One of this user's that others could only read becomes his alone.

        Raises:
            NotPrivate: Somebody can, or could: what lies there may be of anybody.
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


def _trial(workplace: Path) -> Path:
    return workplace.with_suffix(".trial")
