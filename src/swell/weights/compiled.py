"""What was compiled for a model, kept beside its weights for the next process.

Compiled artefacts are programs: machine code, and pickles that run whatever they hold. So they are
not weights, which anybody may publish: they are read only where this user alone can have written
them, on this machine, and only if each byte is as it was written.

    records/KEY     which content belongs to a key
    files/SHA-256   contents, evicted as those of weights are
    work/…          a folder for each process that compiles, gone with it

The key is a digest of all that an artefact depends on: weights, the model's code, libraries, device
and the kind of processor. Another build never finds it.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import secrets
import shutil
from pathlib import Path

import msgspec

from swell.errors import SwellError
from swell.weights.cache import CacheFull, WeightCache

__all__ = ["CompiledCache", "CompiledKey", "NotPrivate", "processor"]


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


class CompiledCache:
    """Compiled artefacts by what they depend on. Any number of processes may use one at once.

    Args:
        folder: Made if it is not there; for this user alone. On a local disk.
        budget_bytes: What all contents together may take; None for as much as the disk has.

    Guarantees:
        What `get` returns was given to `put` under an equal key, byte for byte, by this user.
    """

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        self.folder = folder
        self._contents = WeightCache(folder, budget_bytes)

    def get(self, key: CompiledKey) -> bytes | None:
        """Return what was kept under a key; None if there is nothing, or it is not as it was.

        Raises:
            NotPrivate: Somebody else can write there.
        """
        self._check_private()
        record = self._record(key)
        if record is None:
            return None
        path = self._contents.path(record.sha256)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() != record.sha256:
            path.unlink(missing_ok=True)
            return None
        os.utime(path)
        return content

    def put(self, key: CompiledKey, content: bytes) -> bool:
        """Keep something under a key, in the place of what was there; return whether it fits.

        Raises:
            NotPrivate: Somebody else can write there.
        """
        self._check_private()
        record = _Record(hashlib.sha256(content).hexdigest(), len(content), key)
        with self._contents.locked(record.sha256):
            try:
                self._contents.make_room(len(content))
                self._write(self._contents.path(record.sha256), content)
            except CacheFull:
                return False
        self._write(self._record_path(key), msgspec.json.encode(record))
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
            _clear(left)
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

    def _record_path(self, key: CompiledKey) -> Path:
        return self.folder / "records" / f"{key.digest}.json"

    def _record(self, key: CompiledKey) -> _Record | None:
        try:
            record = msgspec.json.decode(self._record_path(key).read_bytes(), type=_Record)
        except (FileNotFoundError, msgspec.DecodeError):
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
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or self.folder.is_symlink():
            raise NotPrivate(
                f"{self.folder} can be used by others, and what lies there is run as a program: "
                f"give a folder of your own, with chmod 700 {self.folder}"
            )


def _clear(lock: Path) -> None:
    """Remove the folder of a process that has gone."""
    with contextlib.suppress(OSError), lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
