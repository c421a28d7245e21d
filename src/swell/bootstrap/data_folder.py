"""The data folder of a backend: its lock, and the path of its certificate."""

import fcntl
import os
from pathlib import Path

from swell.bootstrap.extras import Unusable
from swell.client.access import read_access
from swell.errors import Conflict
from swell.settings.load import Settings


class AlreadyRunning(Conflict):
    """A backend runs on this data folder.

    Args:
        pid: Its process, as text.
        data_dir: The folder.
    """

    title = "Swell is already running"

    def __init__(self, pid: str, data_dir: Path) -> None:
        access = read_access(data_dir)
        where = f", {access.url}" if access is not None and access.url else ""
        super().__init__(
            f"Swell is already running in this folder (pid {pid}{where}). Stop it with Ctrl-C, or "
            "start a second one: --data other --port 0"
        )


class DataLock:
    """Locks a data folder for one backend; the kernel releases the lock when the process dies."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "backend.lock"
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock.

        Raises:
            AlreadyRunning: Another backend holds it.
            Unusable: The folder cannot be created or written.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._hold(descriptor)
        except OSError as error:
            raise Unusable(
                f"the data folder {self._path.parent} cannot be used ({error.strerror}): choose "
                "one that can be written with --data, or the setting data_dir"
            ) from error

    def _hold(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(holder, self._path.parent) from None
        self._descriptor = descriptor
        # Write before truncating: a full disk refuses new blocks, not the ones already there.
        os.ftruncate(descriptor, os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0))

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def self_signed_cert(settings: Settings) -> Path:
    """Return the path of the self-signed certificate, which local clients trust."""
    return settings.data_dir / "tls" / "cert.pem"
