"""What whoever launches machines tells of their ends, and hears of what they cost.

An autoscaler may run in a process of its own, and backends come and go, so both are notes in the
registry: of each machine that has ended one, until it was charged; and one of what was spent.
"""

from collections.abc import Mapping
from datetime import date, datetime

import msgspec

from swell.db.registry import Registry
from swell.money.ledger import day_of
from swell.provider import Instance

_ENDED = "ended "
_SPENT = "spent"


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent so far of a day and its month (UTC), in millionths of a dollar."""

    day: date
    day_micros: int
    month_micros: int

    def today_micros(self, now: datetime) -> int | None:
        """Return what today has cost; None where this was told on another day."""
        return self.day_micros if self.day == day_of(now) else None


async def tell_end(registry: Registry, instance: Instance) -> None:
    """Tell that a machine has ended, so that all of its time is charged, and no more.

    To be called by whoever launched it, once it sees the end; told again, it changes nothing. One
    without an `ended_at` is not told.
    """
    if instance.ended_at is not None:
        await registry.put_note(_ENDED + instance.id, msgspec.json.encode(instance))


async def told_ends(registry: Registry) -> Mapping[str, Instance]:
    """Return the machines whose ends were told and are not charged yet, by the name of the note."""
    notes = await registry.notes(_ENDED)
    return {name: msgspec.json.decode(note, type=Instance) for name, note in notes.items()}


async def drop_ends(registry: Registry, told: Mapping[str, Instance]) -> None:
    """Forget ends that were charged."""
    await registry.drop_notes(list(told))


async def keep_spent(registry: Registry, spent: Spent) -> None:
    """Note what was spent so far."""
    await registry.put_note(_SPENT, msgspec.json.encode(spent))


async def last_spent(registry: Registry) -> Spent | None:
    """Return what was told last of what was spent; None where no backend has told it ever."""
    note = await registry.note(_SPENT)
    return None if note is None else msgspec.json.decode(note, type=Spent)


async def spent_micros(registry: Registry, now: datetime) -> int | None:
    """Return what was spent so far today, in millionths of a dollar, as of a minute ago or so.

    None as long as no backend has told it today.
    """
    spent = await last_spent(registry)
    return None if spent is None else spent.today_micros(now)
