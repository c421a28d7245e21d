"""What backends share to work together: key-value pairs, secrets, leader leases, rate limits."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from swell.core.errors import Unavailable
from swell.db.columns import EPOCH, MICROSECOND
from swell.db.sql import Database

N = TypeVar("N", bytes, bytes | None)

#: Attempts of `change_note`.
_TRIES = 20


class CoordinationRepository:
    """State that all backends of one database have in common."""

    _db: Database

    async def put_note(self, name: str, value: bytes) -> None:
        """Set the value of a key."""
        await self._db.execute("put_note", name=name, value=value)

    async def swap_note(self, name: str, before: bytes | None, value: bytes) -> bool:
        """Compare and set: return False if the value is not `before`; None for no value."""
        if before is None:
            return bool(await self._db.execute("add_note", name=name, value=value))
        return bool(await self._db.execute("swap_note", name=name, before=before, value=value))

    async def change_note(self, name: str, change: Callable[[bytes | None], N]) -> N:
        """Set the value of a key to `change(value)`, atomically, and return that.

        If `change` returns None, the value stays as it is. It may run several times.

        Raises:
            Unavailable: Other callers change it all the time.
        """
        for _ in range(_TRIES):
            before = await self.note(name)
            after = change(before)
            if after is None or after == before or await self.swap_note(name, before, after):
                return after
        raise Unavailable("others are changing this at the same time: try again")

    async def note(self, name: str) -> bytes | None:
        """Return the value of a key, or None."""
        rows = await self._db.fetch("note", name=name)
        return bytes(rows[0]["value"]) if rows else None

    async def notes(self, prefix: str) -> dict[str, bytes]:
        """Return key → value of all keys with this prefix, in order."""
        rows = await self._db.fetch("notes", prefix=prefix)
        return {row["name"]: bytes(row["value"]) for row in rows}

    async def drop_notes(self, names: Sequence[str]) -> None:
        """Delete keys. Unknown ones are ignored."""
        if names:
            await self._db.execute("drop_notes", names=list(names))

    async def secret(self, name: str) -> bytes:
        """Return 32 random bytes kept under this name, made at the first call."""
        rows = await self._db.fetch("secret", name=name)
        if not rows:
            await self._db.execute("add_secret", name=name, value=secrets.token_bytes(32))
            rows = await self._db.fetch("secret", name=name)  # another backend may have been first
        return bytes(rows[0]["value"])

    async def take_duty(self, name: str, holder: str, *, lease_s: float) -> bool:
        """Acquire or renew a leader lease; return whether `holder` has it.

        One process at a time has it, for `lease_s` seconds from its last call. A lease that ends
        later than twice that from now is free: the clock was set back.
        """
        now, lease = self._db.clock.now(), timedelta(seconds=lease_s)
        times = {"until": now + lease, "now": now, "latest": now + 2 * lease}
        return bool(await self._db.execute("take_leader_lease", name=name, holder=holder, **times))

    async def leave_duty(self, name: str, holder: str) -> None:
        """Release a leader lease. Ignored if `holder` does not have it."""
        await self._db.execute("release_leader_lease", name=name, holder=holder)

    async def spend(self, costs_s: Mapping[str, float]) -> dict[str, datetime]:
        """Take from rate limits that all backends share; return when each is available again.

        That moment moves on by the cost, in seconds, from now if it was in the past.

        Source:
            The generic cell rate algorithm: ITU-T I.371, annex A.
        """
        now_us = (self._db.clock.now() - EPOCH) // MICROSECOND
        rows = [{"name": name, "cost_us": round(cost_s * 1e6)} for name, cost_s in costs_s.items()]
        return {
            row["name"]: EPOCH + row["spent_until_us"] * MICROSECOND
            for row in await self._db.execute("spend", rows=rows, now_us=now_us)
        }
