"""The ledger: the use and the cost of machine time. Entries are added, never changed.

Every entry has seconds; it has a cost if the pool has a price. A later entry, which may be
negative, corrects earlier ones.
"""

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Final

import msgspec

_HOUR_S: Final = 3600


class EntryKind(StrEnum):
    """A use of a worker's time."""

    #: From the request for a worker until it takes tasks or dies.
    COLD_START = "cold_start"
    #: A successful attempt: its share of the device.
    ATTEMPT = "attempt"
    #: An attempt without a result.
    FAILED = "failed"
    IDLE = "idle"
    #: Restarts of the model process, model switches, minimum billing, lost contact.
    WASTED = "wasted"


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry. Entries with the same id are charged once."""

    id: str
    at: datetime
    kind: EntryKind
    pool: str
    #: Names of models, separated by commas; empty for none in particular.
    models: str = ""
    worker_id: str = ""
    #: The startup or the task.
    ref: str = ""
    #: How it ended, such as `ready` or `died`. `paid` marks payments to remote services, which are
    #: not part of a machine's bill.
    outcome: str = ""
    seconds: float
    #: Millionths of a dollar; None if the pool has no price.
    micros: int | None = None
    #: The machine or process: the id of its cold start, of its instance or of its worker; for
    #: payments to remote services `paid:` and the model.
    account: str = ""
    #: The key of the attempts and, if the pool has a price, their user.
    key_id: str = ""
    user: str = ""
    #: Number of attempts, and of the images they made. The images of a paid attempt count in the
    #: entry that has a price.
    attempts: int = 0
    images: int = 0


class Charged(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of all entries of an account."""

    seconds: float = 0.0
    micros: int = 0


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of all entries of a day that have the other fields in common."""

    #: In UTC.
    day: date
    kind: EntryKind
    pool: str
    #: Of attempts only.
    model: str = ""
    key_id: str = ""
    user: str = ""
    attempts: int = 0
    images: int = 0
    seconds: float = 0.0
    #: None if the pool had no price.
    micros: int | None = None


def day_of(at: datetime) -> date:
    """Return the day (UTC) on which an entry counts."""
    return at.astimezone(UTC).date()


def cost_micros(seconds: float, hour_micros: int | None) -> int | None:
    """Return the cost of a worker's time in millionths of a dollar, rounded half to even.

    Args:
        seconds: The time; negative for a correction.
        hour_micros: The price of an hour; None if unknown.
    """
    return None if hour_micros is None else round(seconds * hour_micros / _HOUR_S)
