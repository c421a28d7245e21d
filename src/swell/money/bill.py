"""What is left to charge of a machine's time, so that the ledger adds up to its bill. Pure.

A machine, or process, is paid from when it was asked for until it ends, and for `least_billed_s` at
least. Of that time its cold start, the attempts that it ran and whatever else it told of are
charged as they are heard of, each once. `rest` is what nobody has been charged for:

    idle = paid - (cold start + attempts + failed + wasted)

Whatever gets lost on the way, such as entries that a backend had not written when it died, is
within this rest, and is told as idle: nothing is charged twice, and nothing is left out. The same
holds for millionths of a dollar, of which each entry rounds its own. Where a pool's price changes,
the whole is what was in force at each moment, and entries were charged by what was known then.
"""

import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from swell.money.ledger import Charged, EntryKind, LedgerEntry, cost_micros
from swell.money.tariffs import Step, life_micros, price_at

_ROUNDING_S: Final = 0.001


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """A machine or process as somebody pays for it."""

    account: str
    pool: str
    worker_id: str = ""
    models: str = ""
    #: When it was asked for.
    launched_at: datetime
    #: When its worker was heard of last, or said goodbye.
    heard_at: datetime
    #: When it ended; None as long as it lives.
    ended_at: datetime | None = None
    #: Whether its worker took its leave.
    said_goodbye: bool = True
    #: What an hour costs, in millionths of a dollar; None where that is not known.
    hour_micros: int | None = None
    #: What that has changed to since, where it changes; the oldest first.
    steps: Sequence[Step] = ()
    #: What its launch cost besides.
    launch_micros: int = 0
    #: It is paid for at least so long, in seconds.
    least_billed_s: float = 0.0


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what is left."""

    kind: EntryKind
    outcome: str
    seconds: float
    micros: int | None


def paid_s(life: Life, until: datetime) -> float:
    """Return for how long a machine is paid: until a moment, or until its end, in seconds."""
    if life.ended_at is None:
        return max(0.0, (until - life.launched_at).total_seconds())
    lived_s = max(0.0, (life.ended_at - life.launched_at).total_seconds())
    return max(lived_s, life.least_billed_s)


def paid_micros(life: Life, until: datetime) -> int | None:
    """Return what a machine has cost for so long, its launch included; None without a price."""
    if life.hour_micros is None:
        return None
    paid_until = life.launched_at + timedelta(seconds=paid_s(life, until))
    # What minimum billing adds has the price of the end, whatever becomes of it later.
    ended_at = life.ended_at or paid_until
    steps = [each for each in life.steps if each.at <= ended_at]
    cost = life_micros(steps, life.launched_at, paid_until, life.hour_micros)
    return cost + life.launch_micros


def rest(life: Life, charged: Charged, until: datetime) -> list[Rest]:
    """Return what is left to charge, so that with it all is charged.

    Of a machine that lives nothing is left where attempts that go on may have been charged ahead.
    Of one that has ended the rest may be negative: what was charged too much is set right.

    Args:
        life: Of the machine.
        charged: What was charged to its account so far.
        until: How far its time is to be charged; its end counts where it has ended.
    """
    whole_s = paid_s(life, until)
    left_s = round(whole_s - charged.seconds, 6)
    price, whole_micros = life.hour_micros, paid_micros(life, until)
    left_micros = None
    if price is not None and whole_micros is not None:
        left_micros = whole_micros - charged.micros
        price = price_at(life.steps, life.ended_at or until, price)
    if life.ended_at is None and left_s <= 0:
        return []
    if not left_s and not left_micros:
        return []
    parts: list[Rest] = []
    for kind, outcome, seconds in _wasted(life, whole_s):
        part_s = round(min(seconds, left_s), 6)
        if part_s <= 0:
            continue
        micros = cost_micros(part_s, price)
        parts.append(Rest(kind=kind, outcome=outcome, seconds=part_s, micros=micros))
        left_s = round(left_s - part_s, 6)
        left_micros = None if left_micros is None else left_micros - (micros or 0)
    if left_s or left_micros:
        # Less than a millisecond is what many roundings come to.
        outcome = "correction" if left_s <= -_ROUNDING_S else ""
        idle = Rest(kind=EntryKind.IDLE, outcome=outcome, seconds=left_s, micros=left_micros)
        parts.append(idle)
    return parts


def _wasted(life: Life, whole_s: float) -> Iterable[tuple[EntryKind, str, float]]:
    """Return what is known to have served nobody of the end of a life."""
    if life.ended_at is None:
        return
    lived_s = max(0.0, (life.ended_at - life.launched_at).total_seconds())
    yield EntryKind.WASTED, "minimum", whole_s - lived_s
    if not life.said_goodbye:
        yield EntryKind.WASTED, "silent", (life.ended_at - life.heard_at).total_seconds()


def entries_of(life: Life, parts: Sequence[Rest], name: str, at: datetime) -> list[LedgerEntry]:
    """Return the entries of what is left.

    Args:
        life: Whose time it is.
        parts: From `rest`.
        name: Tells this time from others of the same account: the same is charged once.
        at: The time of the entries.
    """
    return [
        LedgerEntry(
            id=f"{life.account}-{name}-{each.kind.value}{each.outcome and '-'}{each.outcome}",
            at=at,
            kind=each.kind,
            pool=life.pool,
            models=life.models,
            worker_id=life.worker_id,
            ref=life.account,
            outcome=each.outcome,
            seconds=each.seconds,
            micros=each.micros,
            account=life.account,
        )
        for each in parts
    ]


def shared(whole: int, weights: Sequence[float]) -> list[int]:
    """Return a whole in parts by weight, which add up to it exactly; of no weight nothing.

    Args:
        whole: What is shared.
        weights: >= 0 each, not all 0.
    """
    sums = list(itertools.accumulate(weights))
    upto = [round(whole * each / sums[-1]) for each in sums]
    return [each - before for before, each in itertools.pairwise([0, *upto])]
