"""API keys, and the audit log of what operators did."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from swell.core.records import ApiKey, AuditEntry
from swell.db.sql import LAST_ID, Database, Transaction, bodies, to_json


class ApiKeyRepository:
    """Keys, and an append-only audit log."""

    _db: Database

    async def put_key(self, key: ApiKey, *, instead_of: bytes | None = None) -> bool:
        """Add or replace a key; return whether that was done.

        A revoked key stays revoked, with the time of the first revocation. `used_at` is ignored.

        Args:
            key: The new state.
            instead_of: Do nothing unless the stored key has this `digest`. If two callers change a
                secret at the same time, one succeeds.
        """

        async def action(tx: Transaction) -> bool:
            rows = await tx.fetch("key_for_update", id=key.id)
            old = next(iter(bodies(rows, ApiKey, "used_at")), None)
            if instead_of is not None and (old is None or old.digest != instead_of):
                return False
            revoked_at = (old.revoked_at if old else None) or key.revoked_at
            body = to_json(msgspec.structs.replace(key, used_at=None, revoked_at=revoked_at))
            digests = {"digest": key.digest, "old_digest": key.old_digest}
            await tx.fetch("put_key", id=key.id, created_at=key.created_at, body=body, **digests)
            return True

        return await self._db.transaction(action)

    async def keys(self) -> list[ApiKey]:
        """Return every key, the revoked ones included."""
        return bodies(await self._db.fetch("keys"), ApiKey, "used_at")

    async def key(self, key_id: str) -> ApiKey | None:
        """Return a key, even if revoked; None if there is none."""
        rows = await self._db.fetch("key", id=key_id)
        return next(iter(bodies(rows, ApiKey, "used_at")), None)

    async def key_by_digest(self, digest: bytes) -> ApiKey | None:
        """Return the key with this SHA-256 of its current or previous secret, even if revoked."""
        rows = await self._db.fetch("key_by_digest", digest=digest)
        return next(iter(bodies(rows, ApiKey, "used_at")), None)

    async def touch_keys(self, used: Mapping[str, datetime]) -> None:
        """Note when keys were last used, by id. A time earlier than the stored one is ignored."""
        rows = [{"id": key_id, "used_at": used[key_id]} for key_id in sorted(used)]
        await self._db.execute("touch_keys", rows=rows)

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Append to the audit log."""
        rows = [{"id": each.id, "body": to_json(each)} for each in entries]
        await self._db.execute("put_audit", rows=rows)

    async def audit(self, *, limit: int = 50, before: str | None = None) -> list[AuditEntry]:
        """Return entries of the audit log with ids smaller than `before`, newest first."""
        rows = await self._db.fetch("audit", before=before or LAST_ID, limit=limit)
        return bodies(rows, AuditEntry)
