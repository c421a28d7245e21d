"""The keys that a starting backend makes.

| key | named | for | kept | good until |
|---|---|---|---|---|
| local key | `this machine` | commands and the browser here | `access.json`, 0600 | see below |
| worker token | `workers of swell up` | the workers that it starts | in their processes | it ends |

The worker token opens the pools of these workers only.

The local key is good until it is revoked where the store is the backend's own. On one that others
share, a pod's folder goes with the pod, and the store keeps the key: there it ends a day after its
backend has, and the backend, or the next in that folder, puts the end off.
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

#: For how long a local key outlives its backend on a shared store, in seconds.
OUTLIVES_S: Final = 86_400.0

#: How often its end is put off, in seconds. Often, since time goes on while a machine sleeps.
_PUT_OFF_EVERY_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Keyring:
    """What opens a backend that has started."""

    backend: Backend
    #: With the local key, for commands and the browser of this machine.
    access: Access
    #: For the workers that are started with the backend; empty if there are none.
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
    """Make the keys that are missing; the worker token is good while the block runs.

    Args:
        backend: Whose keys they are.
        data_dir: Where the local key lies.
        url: Where clients reach the backend.
        local_url: Where it listens.
        pools: Those of the workers that are started with it; empty for none.
        ca_file: File of the certificate by which the backend is trusted; empty without TLS.
    """
    left = read_access(data_dir)
    if left is not None and left.worker_key_id:
        # Its backend was killed. Its workers died with it, which the service has seen as it started
        # (`swell.server.workers.liveness`); one that is still about to die must get nothing more.
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
        # Where the store cannot write any more, the next start does it.
        with contextlib.suppress(SwellError):
            await _revoke(backend, worker_key_id)


async def keep_local_key(backend: Backend, data_dir: Path) -> None:
    """Put the end of the local key off for as long as this runs."""
    while True:
        await backend.clock.sleep(_PUT_OFF_EVERY_S)
        left = read_access(data_dir)
        # Where the store cannot write, there is the next time: also a key that has ended goes on.
        with contextlib.suppress(SwellError):
            await _put_off(backend, left.key if left else "")


async def _make(
    backend: Backend, name: str, scope: Scope, *, pools: tuple[str, ...] = ()
) -> NewKey:
    scopes = frozenset({scope})
    return await create_key(backend.registry, backend.clock, name, scopes, pools=pools)


async def _put_off(backend: Backend, secret: str) -> bool:
    """Put the end of a local key off; return whether there is one that was not revoked."""
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
