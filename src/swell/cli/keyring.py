"""The keys that a backend creates at its start.

| key | name | used by | stored in | valid until |
|---|---|---|---|---|
| local key | `this machine` | commands and the browser here | `access.json`, 0600 | see below |
| worker token | `workers of swell up` | workers of the backend | their processes | its end |

The worker token is limited to the pools of these workers.

With an embedded database the local key is valid until it is revoked. With a shared database, a
pod's folder is deleted with the pod, but the database keeps the key. So the key expires a day after
the backend's end; a running backend extends it.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec

from swell.bootstrap.extras import Unusable
from swell.client.access import Access, read_access, write_access
from swell.core.errors import SwellError
from swell.core.records import Scope
from swell.server.auth import NewKey, create_key
from swell.server.dependencies import Backend

LOCAL: Final = "this machine"
WORKERS: Final = "workers of swell up"

#: Lifetime of a local key after its backend has ended, with a shared database, in seconds.
OUTLIVES_S: Final = 86_400.0

#: Interval for extending it, in seconds; short, because a machine may sleep for long.
_PUT_OFF_EVERY_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys of a started backend."""

    backend: Backend
    #: URL and local key, for commands and the browser of this machine.
    access: Access
    #: Key of the workers that the backend starts; empty if it starts none.
    worker_token: str


@asynccontextmanager
async def open_keyring(
    backend: Backend,
    data_dir: Path,
    url: str,
    local_url: str,
    *,
    pools: Sequence[str] = (),
    ca_file: str = "",
) -> AsyncIterator[Keyring]:
    """Create missing keys; the worker token is valid while the block runs.

    Args:
        backend: The backend.
        data_dir: Folder of the local key.
        url: URL for clients.
        local_url: URL of the listening socket.
        pools: Pools of the workers that the backend starts; empty for none.
        ca_file: File of the certificate to verify the backend with; empty without TLS.
    """
    left = read_access(data_dir)
    if left is not None and left.worker_key_id:
        # The last backend was killed, and its workers with it. The service has noticed that at its
        # start (`swell.server.workers.liveness`); a worker that still runs must get no more tasks.
        await _revoke(backend, left.worker_key_id)
    local = left.key if left else ""
    if not await _put_off(backend, local):
        local = (await _make(backend, LOCAL, Scope.ADMIN)).secret
        await _put_off(backend, local)
    workers = await _make(backend, WORKERS, Scope.WORKER, pools=tuple(pools)) if pools else None
    worker_key_id = workers.key.id if workers else ""
    access = Access(
        url=url, key=local, worker_key_id=worker_key_id, ca_file=ca_file, local_url=local_url
    )
    try:
        write_access(data_dir, access)
    except OSError as error:
        raise Unusable(
            f"the data folder {data_dir} cannot be written ({error.strerror}): make room there, or "
            "choose another one with --data"
        ) from error
    try:
        yield Keyring(backend, access, workers.secret if workers else "")
    finally:
        # If the database is not writable, the next start revokes the key.
        with contextlib.suppress(SwellError):
            await _revoke(backend, worker_key_id)


async def keep_local_key(backend: Backend, data_dir: Path) -> None:
    """Extend the local key's lifetime repeatedly."""
    while True:
        await backend.clock.sleep(_PUT_OFF_EVERY_S)
        left = read_access(data_dir)
        # If the database is not writable, try later; even an expired key can be extended.
        with contextlib.suppress(SwellError):
            await _put_off(backend, left.key if left else "")


async def _make(
    backend: Backend, name: str, scope: Scope, *, pools: tuple[str, ...] = ()
) -> NewKey:
    scopes = frozenset({scope})
    return await create_key(backend.registry, backend.clock, name, scopes, pools=pools)


async def _put_off(backend: Backend, secret: str) -> bool:
    """Extend a local key; return whether it exists and is not revoked."""
    digest = hashlib.sha256(secret.encode()).digest()
    found = await backend.registry.key_by_digest(digest)
    if found is None or found.revoked_at is not None or found.digest != digest:
        return False
    end = backend.clock.now() + timedelta(seconds=OUTLIVES_S) if backend.is_shared else None
    if found.expires_at == end:
        return True
    return await backend.registry.put_key(
        msgspec.structs.replace(found, expires_at=end), instead_of=digest
    )


async def _revoke(backend: Backend, key_id: str) -> None:
    for key in await backend.registry.keys():
        if key.id == key_id and key.revoked_at is None:
            revoked = msgspec.structs.replace(key, revoked_at=backend.clock.now())
            await backend.registry.put_key(revoked)
