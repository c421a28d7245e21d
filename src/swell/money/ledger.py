"""The ledger: what machine time went into, and what it cost. Entries are added, never changed.

Seconds are always known; money is where the pool has a price. What was charged too much or too
little is set right by another entry, which may be negative.
"""

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Final

import msgspec

_HOUR_S: Final = 3600


class EntryKind(StrEnum):
    """What a worker's time went into."""

    #: From asking for a worker until it takes tasks, or until it died before that.
    COLD_START = "cold_start"
    #: An attempt, its share of the device.
    ATTEMPT = "attempt"
    #: Attempts that came to nothing.
    FAILED = "failed"
    #: Nothing to do.
    IDLE = "idle"
    #: Anything else that served nobody, such as a model process that died with what it had drawn.
    WASTED = "wasted"


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry."""

    #: Says what it is for, so that the same is charged once.
    id: str
    at: datetime
    kind: EntryKind
    pool: str
    #: Names of models, with commas between; empty for none in particular.
    models: str = ""
    worker_id: str = ""
    #: What it belongs to: a startup, or an attempt.
    ref: str = ""
    #: How that ended, such as `ready` or `died`. What an attempt has paid to others is `paid`: no
    #: time of its worker's, and no part of a machine's bill.
    outcome: str = ""
    seconds: float
    #: Millionths of a dollar; None where the pool has no price.
    micros: int | None = None
    #: Of the machine or process whose time it is: the id of its cold start, or of its worker where
    #: that told of none. Of what was paid to others, `paid:` and the model.
    account: str = ""
    #: Whose attempts: the key and, where the pool has a price, the user.
    key_id: str = ""
    user: str = ""
    #: How many attempts it is for, and how many pictures they gave. What was paid to others counts
    #: pictures where the attempt's other entry has no price.
    attempts: int = 0
    images: int = 0


class Charged(msgspec.Struct, frozen=True, kw_only=True):
    """What was charged to an account so far."""

    seconds: float = 0.0
    micros: int = 0


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of one day that have all of these in common, added up."""

    #: In UTC.
    day: date
    kind: EntryKind
    pool: str
    #: Whose attempts; empty of anything else.
    model: str = ""
    key_id: str = ""
    user: str = ""
    attempts: int = 0
    images: int = 0
    seconds: float = 0.0
    #: None where the pool had no price.
    micros: int | None = None


def day_of(at: datetime) -> date:
    """Return the day that an entry counts to."""
    return at.astimezone(UTC).date()


def model_of(entry: LedgerEntry) -> str:
    """Return the model that an entry counts to: that of its attempts."""
    return entry.models if entry.kind in (EntryKind.ATTEMPT, EntryKind.FAILED) else ""


def cost_micros(seconds: float, hour_micros: int | None) -> int | None:
    """Return what a worker's time costs, in millionths of a dollar, rounded half to even.

    Args:
        seconds: How long; negative to set something right.
        hour_micros: What an hour costs; None where that is not known.
    """
    return None if hour_micros is None else round(seconds * hour_micros / _HOUR_S)
