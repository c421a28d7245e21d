"""The keys that a starting backend makes.

| key | named | for | kept | good until |
|---|---|---|---|---|
| client key | `swell up` | whoever is shown it | nowhere, its hash apart | it is revoked |
| local key | `commands on this machine` | commands beside the folder | `access.json`, 0600 | same |
| worker token | `workers of swell up` | the workers that it starts | in their processes | it ends |

The worker token opens the pools of these workers only.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from swell.api.auth import NewKey, create_key, why_not
from swell.api.settings import Backend
from swell.client.access import Access, read_access, write_access
from swell.errors import SwellError
from swell.registry import Scope

__all__ = ["CLIENT", "LOCAL", "WORKERS", "Keyring", "open_keyring"]

CLIENT: Final = "swell up"
LOCAL: Final = "commands on this machine"
WORKERS: Final = "workers of swell up"


@dataclass(frozen=True, slots=True)
class Keyring:
    """What opens a backend that has started."""

    backend: Backend
    #: For commands on this machine, with the local key.
    access: Access
    #: For the workers that are started with the backend; empty if there are none.
    worker_token: str

    async def new_client_key(self, *, always: bool = False) -> str | None:
        """Make a client key, to be shown at once; None where an earlier one is still good.

        Args:
            always: Make one in any case.
        """
        known = [] if always else await self.backend.registry.keys()
        now = self.backend.clock.now()
        if any(key.name == CLIENT and why_not(key, key.digest, now) is None for key in known):
            return None
        return (await _make(self.backend, CLIENT, Scope.ADMIN)).secret


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
        # (`swell.api.liveness`); one that is still about to die must get nothing more.
        await _revoke(backend, left.worker_key_id)
    local = left.key if left else ""
    if not await _is_good(backend, local):
        local = (await _make(backend, LOCAL, Scope.ADMIN)).secret
    workers = await _make(backend, WORKERS, Scope.WORKER, pools=tuple(pools)) if pools else None
    worker_key_id = workers.key.id if workers else ""
    access = Access(
        url=url, key=local, worker_key_id=worker_key_id, ca_file=ca_file, local_url=local_url
    )
    write_access(data_dir, access)
    try:
        yield Keyring(backend, access, workers.secret if workers else "")
    finally:
        # Where the store cannot write any more, the next start does it.
        with contextlib.suppress(SwellError):
            await _revoke(backend, worker_key_id)


async def _make(
    backend: Backend, name: str, scope: Scope, *, pools: tuple[str, ...] = ()
) -> NewKey:
    scopes = frozenset({scope})
    return await create_key(backend.registry, backend.clock, name, scopes, pools=pools)


async def _is_good(backend: Backend, secret: str) -> bool:
    digest = hashlib.sha256(secret.encode()).digest()
    found = await backend.registry.key_by_digest(digest)
    return found is not None and why_not(found, digest, backend.clock.now()) is None


async def _revoke(backend: Backend, key_id: str) -> None:
    for key in await backend.registry.keys():
        if key.id == key_id and key.revoked_at is None:
            revoked = msgspec.structs.replace(key, revoked_at=backend.clock.now())
            await backend.registry.put_key(revoked)
