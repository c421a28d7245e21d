"""Messages between the launcher of machines and the backends that charge them.

The autoscaler may run in its own process, and backends come and go, so messages are notes in the
registry: one for each machine that has ended, until it is charged, and one for the money spent.
"""

from collections.abc import Mapping
from datetime import date, datetime

import msgspec

from swell.core.billing.ledger import day_of
from swell.core.provider import Instance
from swell.db.registry import Registry

_ENDED = "ended "
_SPENT = "spent"


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Money spent on a day and in its month so far (UTC), in millionths of a dollar."""

    day: date
    day_micros: int
    month_micros: int

    def today_micros(self, now: datetime) -> int | None:
        """Return the money spent today; None if this is about another day."""
        return self.day_micros if self.day == day_of(now) else None


async def tell_end(registry: Registry, instance: Instance) -> None:
    """Report the end of a machine by its launcher, so that it is charged until then.

    Repeating it changes nothing, nor does an instance without `ended_at`.
    """
    if instance.ended_at is not None:
        await registry.put_note(_ENDED + instance.id, msgspec.json.encode(instance))


async def told_ends(registry: Registry) -> Mapping[str, Instance]:
    """Return the ended machines that are not charged yet, by the names of their notes."""
    notes = await registry.notes(_ENDED)
    return {name: msgspec.json.decode(note, type=Instance) for name, note in notes.items()}


async def keep_spent(registry: Registry, spent: Spent) -> None:
    """Write the money spent so far."""
    await registry.put_note(_SPENT, msgspec.json.encode(spent))


async def last_spent(registry: Registry) -> Spent | None:
    """Return the money spent as of the last minute; None if no backend has ever written it."""
    note = await registry.note(_SPENT)
    return None if note is None else msgspec.json.decode(note, type=Spent)
