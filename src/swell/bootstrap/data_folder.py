"""The data folder of a backend: its lock, and the path of its certificate."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from swell.bootstrap.extras import Unusable
from swell.client.access import read_access
from swell.core.errors import Conflict
from swell.settings.load import Settings


class AlreadyRunning(Conflict):
    """Another backend runs on this data folder."""

    title = "Swell is already running"


@contextlib.contextmanager
def lock_data(data_dir: Path) -> Iterator[None]:
    """Lock a data folder for one backend; the kernel releases the lock when the process dies.

    Raises:
        AlreadyRunning: Another backend holds it.
        Unusable: The folder cannot be created or written.
    """
    with contextlib.ExitStack() as stack:
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(data_dir / "backend.lock", flags, 0o600)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Write before truncating: a full disk refuses new blocks, not the ones already there.
            os.ftruncate(descriptor, os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0))
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            access = read_access(data_dir)
            where = f", {access.url}" if access is not None and access.url else ""
            raise AlreadyRunning(
                f"Swell is already running in this folder (pid {pid}{where}). Stop it with Ctrl-C, "
                "or start a second one: --data other --port 0"
            ) from None
        except OSError as error:
            raise Unusable(
                f"the data folder {data_dir} cannot be used ({error.strerror}): choose "
                "one that can be written with --data, or the setting data_dir"
            ) from error
        yield


def self_signed_cert(settings: Settings) -> Path:
    """Return the path of the self-signed certificate, which local clients trust."""
    return settings.data_dir / "tls" / "cert.pem"
