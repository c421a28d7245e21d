"""Computes the remainder of a machine's bill, so that the ledger adds up to the bill. Pure.

A machine, or process, is billed from the request for it until it ends, and for `least_billed_s` at
least. Cold starts and attempts are charged when they are reported. The remainder is idle time:

    idle = billed - (cold start + attempts + failed + wasted)

Lost entries, such as those that a backend had not written before it crashed, become idle time:
nothing is charged twice, and nothing is left out. The same holds for rounding errors, and for
attempts that were charged before a change of the price was known.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from swell.core.billing.ledger import Charged, EntryKind, LedgerEntry, cost_micros
from swell.core.billing.price_history import Step, life_micros, price_at

_ROUNDING_S: Final = 0.001


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """A machine or process as it is billed."""

    account: str
    pool: str
    worker_id: str = ""
    models: str = ""
    #: The time of the request for it.
    launched_at: datetime
    #: The last message of its worker.
    heard_at: datetime
    #: None while it runs.
    ended_at: datetime | None = None
    #: Whether its worker deregistered.
    said_goodbye: bool = True
    #: The price of an hour in millionths of a dollar; None if unknown.
    hour_micros: int | None = None
    #: Changes of the price since then, the oldest first.
    steps: Sequence[Step] = ()
    #: The extra cost of its launch.
    launch_micros: int = 0
    #: Minimum billing, in seconds.
    least_billed_s: float = 0.0


def _lived_s(life: Life, until: datetime) -> float:
    return max(0.0, ((life.ended_at or until) - life.launched_at).total_seconds())


def paid_s(life: Life, until: datetime) -> float:
    """Return the billed seconds of a machine until a moment, or until its end."""
    lived_s = _lived_s(life, until)
    return lived_s if life.ended_at is None else max(lived_s, life.least_billed_s)


def paid_micros(life: Life, until: datetime) -> int | None:
    """Return the bill of a machine, including its launch; None without a price."""
    if life.hour_micros is None:
        return None
    paid_until = life.launched_at + timedelta(seconds=paid_s(life, until))
    # Minimum billing has the price at the end, even if the price changes later.
    ended_at = life.ended_at or paid_until
    steps = [each for each in life.steps if each.at <= ended_at]
    cost = life_micros(steps, life.launched_at, paid_until, life.hour_micros)
    return cost + life.launch_micros


def remainder(
    life: Life, charged: Charged, until: datetime, *, name: str, at: datetime
) -> list[LedgerEntry]:
    """Return the entries that complete the bill of a machine.

    Running attempts may have been charged ahead, so a live machine can have no remainder. The
    remainder of an ended machine can be negative.

    Args:
        life: The machine.
        charged: The sum of its entries so far.
        until: The end of the billed time of a live machine.
        name: Part of the entries' ids, unique for this time.
        at: The time of the entries.
    """

    def entry(kind: EntryKind, outcome: str, seconds: float, micros: int | None) -> LedgerEntry:
        return LedgerEntry(
            id="-".join(part for part in (life.account, name, kind.value, outcome) if part),
            at=at,
            kind=kind,
            pool=life.pool,
            models=life.models,
            worker_id=life.worker_id,
            ref=life.account,
            outcome=outcome,
            seconds=seconds,
            micros=micros,
            account=life.account,
        )

    left_s = round(paid_s(life, until) - charged.seconds, 6)
    whole_micros, price = paid_micros(life, until), life.hour_micros
    left_micros = None if whole_micros is None else whole_micros - charged.micros
    if price is not None:
        price = price_at(life.steps, life.ended_at or until, price)
    if life.ended_at is None and left_s <= 0:
        return []
    entries = []
    for outcome, wasted_s in _wasted(life):
        seconds = round(min(wasted_s, left_s), 6)
        if seconds > 0:
            micros = cost_micros(seconds, price)
            entries.append(entry(EntryKind.WASTED, outcome, seconds, micros))
            left_s = round(left_s - seconds, 6)
            left_micros = None if left_micros is None else left_micros - (micros or 0)
    if left_s or left_micros:
        # Less than a millisecond is the sum of rounding errors.
        outcome = "correction" if left_s <= -_ROUNDING_S else ""
        entries.append(entry(EntryKind.IDLE, outcome, left_s, left_micros))
    return entries


def _wasted(life: Life) -> Iterator[tuple[str, float]]:
    ended_at = life.ended_at
    if ended_at is not None:
        yield "minimum", paid_s(life, ended_at) - _lived_s(life, ended_at)
        if not life.said_goodbye:
            yield "silent", (ended_at - life.heard_at).total_seconds()
