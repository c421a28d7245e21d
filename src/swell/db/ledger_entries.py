"""The ledger of costs, and the startups that are charged to it."""

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import msgspec

from swell.core.billing.ledger import Charged, CostRow, LedgerEntry
from swell.core.records import KeptStartup, LedgerPage
from swell.core.startup_phases import (
    STARTUPS_KEPT,
    STARTUPS_TTL,
    Startup,
    StartupKind,
    StartupState,
    family,
    is_further,
)
from swell.db.sql import Database, Transaction, bodies, to_json

#: Larger than any number of an entry.
_LAST_NUMBER = 2**63 - 1


class LedgerRepository:
    """An append-only ledger, its sums, and recent startups."""

    _db: Database

    async def charge(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        """Append entries, and return which are new. Entries with known ids are ignored."""
        if not entries:
            return []
        rows = await self._db.execute("charge", rows=_rows(entries))
        new = {row["id"] for row in rows}
        is_new = []
        for each in entries:
            is_new.append(each.id in new)
            new.discard(each.id)  # of several with one id the first was added
        return is_new

    async def charged(self, accounts: Sequence[str]) -> list[Charged]:
        """Return the sum of the entries of each account; 0 for unknown ones."""
        rows = await self._db.fetch("charged", accounts=list(accounts))
        found = {row["id"]: Charged(seconds=row["seconds"], micros=row["micros"]) for row in rows}
        return [found.get(account, Charged()) for account in accounts]

    async def costs(self, since: date, until: date, *, users: bool = False) -> list[CostRow]:
        """Return the sums of each day from `since` to `until`, both included, oldest first.

        Args:
            since: The first day.
            until: The last day.
            users: Whether each user of a key has separate rows.
        """
        days = {"since": since.isoformat(), "until": until.isoformat()}
        rows = await self._db.scan("costs_of_users" if users else "costs", **days)
        return msgspec.convert(rows, list[CostRow])

    async def spent(self, since: date, until: date) -> int:
        """Return the cost of all entries of these days, in millionths of a dollar."""
        days = {"since": since.isoformat(), "until": until.isoformat()}
        [row] = await self._db.scan("spent", **days)
        return int(row["micros"])

    async def ledger(self, *, limit: int = 50, before: int | None = None) -> LedgerPage:
        """Return a page of entries, newest first. `before` is the cursor of the last page."""
        before = _LAST_NUMBER if before is None else before
        rows = await self._db.fetch("ledger", before=before, limit=limit)
        cursor = rows[-1]["number"] if len(rows) == limit else None
        return LedgerPage(entries=msgspec.convert(rows, list[LedgerEntry]), cursor=cursor)

    async def put_startup(
        self,
        startup: Startup,
        charge: Callable[[Startup | None], LedgerEntry | None] = lambda before: None,
    ) -> KeptStartup:
        """Store a startup and charge it, both or neither.

        Nothing is done if the stored state is further (`swell.core.startup_phases.is_further`). Of
        those that have ended, the newest `STARTUPS_KEPT` of each family are kept, for
        `STARTUPS_TTL`.

        Args:
            startup: With its `begun_at` and `seen_at`.
            charge: Returns the entry to add to the ledger, given the stored startup. Pure. An entry
                with a known id is ignored.
        """
        values = _startup_values(startup)
        oldest = values["begun_at"] - STARTUPS_TTL

        async def action(tx: Transaction) -> KeptStartup:
            before = await _add_startup(tx, values)
            if before is not None:
                if is_further(before.state, startup.state):
                    return KeptStartup(before)
                await tx.fetch("replace_startup", **values)
            limits = {"before": oldest, "kept": STARTUPS_KEPT}
            await tx.fetch("forget_startups", family=values["family"], **limits)
            entry = charge(before)
            if entry is not None and not await tx.fetch("charge", rows=_rows([entry])):
                entry = None
            return KeptStartup(before, entry)

        return await self._db.transaction(action)

    async def startups(self, *, under_way: bool = False) -> list[Startup]:
        """Return startups, oldest first; with `under_way`, only those that are `STARTING`."""
        query = "startups_under_way" if under_way else "startups"
        return bodies(await self._db.fetch(query), Startup)

    async def startups_of(self, worker_ids: Sequence[str]) -> list[Startup]:
        """Return the cold starts of registered workers, oldest first."""
        return bodies(await self._db.fetch("startups_of", ids=list(worker_ids)), Startup)


def _rows(entries: Sequence[LedgerEntry]) -> list[dict[str, Any]]:
    rows = [msgspec.structs.asdict(each) for each in entries]
    return [{**row, "user_name": row["user"]} for row in rows]


def _startup_values(startup: Startup) -> dict[str, Any]:
    assert startup.begun_at is not None, "the backend sets it"
    return {
        "id": startup.id,
        "family": family(startup),
        "worker_id": startup.worker_id if startup.kind is StartupKind.COLD else "",
        "begun_at": startup.begun_at,
        "is_under_way": startup.state is StartupState.STARTING,
        "body": to_json(startup),
    }


async def _add_startup(tx: Transaction, values: dict[str, Any]) -> Startup | None:
    """Add a startup, or lock and return the stored one with the same id."""
    while not await tx.fetch("add_startup", **values):
        for startup in bodies(await tx.fetch("startup_for_update", id=values["id"]), Startup):
            return startup
        # Another transaction has deleted it in between.
    return None
