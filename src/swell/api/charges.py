"""What attempts cost, on its way into the ledger.

Where a pool has a price, each attempt has an entry of its own, whose id is that of the attempt:
told twice, it is charged once. Where it has none, seconds are added up here, by worker, model and
key, and written once a minute: an entry each would cost a quick task more than 2 % of its time
(docs/decisions/0045). Both go into the ledger in groups, after the tasks' own commits, which never
wait for them. What a process had not written when it died is found to be idle time by
`swell.api.costs`: it is charged all the same, once.
"""

import asyncio
import math
from collections.abc import Collection, Iterable, Sequence
from datetime import date
from typing import Final

import msgspec
import structlog

from swell.api.metrics import Metrics
from swell.api.samples import images_of_stage, pictures_in
from swell.clock import Clock
from swell.db.registry import Registry
from swell.errors import SwellError
from swell.money.ledger import EntryKind, LedgerEntry, cost_micros
from swell.registry import WorkerInfo
from swell.task import (
    Canceled,
    Failed,
    Released,
    Settlement,
    Succeeded,
    Task,
    Timings,
    new_id,
)

_log = structlog.get_logger("swell.api")

#: Entries are written so often, in seconds: as much may be lost in a crash.
KEEP_EVERY_S: Final = 1.0

#: Sums of workers without a price are written so often, in seconds.
SUMS_EVERY_S: Final = 60.0

#: So many entries wait at most while the registry cannot be written; what comes then is idle time.
MOST_WAITING: Final = 100_000

#: So many go into one call.
_AT_ONCE: Final = 500

#: How entries and their accounts are called of what was paid to others.
PAID: Final = "paid"

#: No attempt has paid for more samples: 100 of a task, with a pack each.
_MOST_PAID: Final = 10_000

_NAMES: Final = {
    Succeeded: "succeeded",
    Failed: "failed",
    Canceled: "canceled",
    Released: "released",
}

_replace = msgspec.structs.replace


def account_of(info: WorkerInfo) -> str:
    """Return to what a worker's time is charged."""
    return info.account or info.id


def share_s(timings: Timings, most_s: float) -> float:
    """Return an attempt's share of the device, in seconds: what its worker tells, within reason.

    Args:
        timings: Of the attempt. Of a worker that does not tell the share, what it ran is taken.
        most_s: It cannot be more.
    """
    seconds = timings.device_s
    if seconds is None:
        seconds = timings.run_s
    return min(seconds, most_s) if math.isfinite(seconds) and seconds > 0 else 0.0


def images_of(task: Task) -> int:
    """Return how many pictures, or other samples, a task that succeeded has brought forth."""
    return pictures_in(task.artifacts) or task.count


def charged(task: Task, attempt: int) -> tuple[str, int]:
    """Return the model that an attempt is charged to, and how many samples it has brought forth.

    Of a pipeline's run that is the stage which the attempt was of, and it alone.
    """
    run = task.run
    if run is None:
        return task.model, images_of(task)
    done = run.done_by(attempt)
    if done is None:
        return task.stage_model, 0
    return done.model, images_of_stage(run, done, task.count)


class _Sum:
    """Attempts of one worker, model and key since the last were written."""

    __slots__ = ("attempts", "images", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.attempts = 0
        self.images = 0


class Charges:
    """Entries of one backend process that wait to be written.

    Args:
        registry: Has the ledger.
        clock: The time.
        metrics: Told of what was charged.
    """

    def __init__(self, registry: Registry, clock: Clock, metrics: Metrics) -> None:
        self._registry = registry
        self._clock = clock
        self._metrics = metrics
        self._entries: list[LedgerEntry] = []
        #: (worker id, model, key, whether it succeeded) → what they add up to.
        self._sums: dict[tuple[str, str, str, bool], _Sum] = {}
        self._workers: dict[str, WorkerInfo] = {}
        self._summed_s = clock.monotonic_s()
        #: Account → the period in which its idle time was charged last.
        self._periods: dict[str, int] = {}
        #: Whoever waits for what was charged finds all of it in the ledger then.
        self._writing = asyncio.Lock()
        #: A day, and what was spent before it in its month.
        self.spent_before: tuple[date, int] | None = None

    def settled(
        self, info: WorkerInfo, told: Sequence[Settlement], tasks: Sequence[Task | None]
    ) -> None:
        """Charge attempts of a worker whose pool has a price.

        Args:
            info: The worker.
            told: How its attempts ended, with their costs (`with_costs`).
            tasks: What the store made of it; None for what it did not take.
        """
        now = self._clock.now()
        for each, task in zip(told, tasks, strict=True):
            if task is None:
                continue
            outcome = each.outcome
            timings = outcome.timings
            is_good = isinstance(outcome, Succeeded)
            model, images = charged(task, each.attempt)
            cost = timings.cost_micros
            self.add(
                LedgerEntry(
                    id=f"{task.id}-{each.attempt}",
                    at=now,
                    kind=EntryKind.ATTEMPT if is_good else EntryKind.FAILED,
                    pool=info.pool,
                    models=model,
                    worker_id=info.id,
                    ref=task.id,
                    outcome=_NAMES[type(outcome)],
                    seconds=round(timings.device_s or 0.0, 6),
                    micros=None if cost is None else cost - timings.paid_micros,
                    account=account_of(info),
                    key_id=task.key_id,
                    user=task.user or "",
                    attempts=1,
                    images=images if is_good else 0,
                )
            )

    async def pay(
        self, info: WorkerInfo, told: Sequence[tuple[Settlement, Task]], lost: Collection[int] = ()
    ) -> None:
        """Charge what attempts have paid to others: no time of the machine, nor of its bill.

        That is written at once, so that whoever told it tells it again where this process dies
        before: nothing else would ever find it. Told again it is charged once.

        Args:
            info: The worker.
            told: How it told that its attempts ended, and their tasks.
            lost: Places among these whose outcome the store has not taken, as they were lost.
        """
        entries = [
            self._paid(info, each, task, is_lost=place in lost)
            for place, (each, task) in enumerate(told)
        ]
        try:
            await self.charge(entries)
        except SwellError as error:
            _log.warning("ledger: cannot write charges, retrying", detail=error.detail)
            for entry in entries:
                self.add(entry)

    def _paid(
        self, info: WorkerInfo, settlement: Settlement, task: Task, *, is_lost: bool
    ) -> LedgerEntry:
        model, images = charged(task, settlement.attempt)
        is_good = type(settlement.outcome) is Succeeded and not is_lost
        if is_lost and task.run is not None and model not in info.models:
            # The run is at another stage by now.
            stages = (stage.model for stage in task.run.pipeline.stages)
            model = next((each for each in stages if each in info.models), model)
        return LedgerEntry(
            id=f"{task.id}-{settlement.attempt}-{PAID}",
            at=self._clock.now(),
            kind=EntryKind.ATTEMPT if is_good else EntryKind.FAILED,
            pool=info.pool,
            models=model,
            ref=task.id,
            outcome=PAID,
            seconds=0.0,
            micros=settlement.outcome.timings.paid_micros,
            account=f"{PAID}:{model}",
            key_id=task.key_id,
            user=task.user or "",
            # Of a pool with a price they are in the entry of the attempt.
            images=images if is_good and info.hour_micros is None else 0,
        )

    def count(self, info: WorkerInfo, settlement: Settlement, task: Task, most_s: float) -> None:
        """Add an attempt to the sums of a worker whose pool has no price.

        To be called once for each: nothing here tells whether that was done.

        Args:
            info: The worker.
            settlement: How it told that the attempt ended.
            task: What the store made of it.
            most_s: The attempt cannot have had more of the device, in seconds.
        """
        outcome = settlement.outcome
        is_good = type(outcome) is Succeeded
        model, images = task.model, task.count
        if task.run is not None or task.artifacts:
            model, images = charged(task, settlement.attempt)
        key = (info.id, model, task.key_id, is_good)
        known = self._sums.get(key)
        if known is None:
            known = self._sums[key] = _Sum()
            self._workers[info.id] = info
        known.seconds += share_s(outcome.timings, most_s)
        known.attempts += 1
        if is_good and not outcome.timings.paid_micros:
            # Those that were paid for have a price, and are in that entry.
            known.images += images

    def add(self, entry: LedgerEntry) -> None:
        """Have an entry written soon; dropped where too many wait."""
        if len(self._entries) < MOST_WAITING:
            self._entries.append(entry)

    async def charge(self, entries: Sequence[LedgerEntry]) -> int:
        """Write entries now, and count those that are new; return how many are."""
        told = await self._registry.charge(entries)
        fresh = [each for each, is_new in zip(entries, told, strict=True) if is_new]
        self.note(fresh)
        return len(fresh)

    def note(self, entries: Iterable[LedgerEntry]) -> None:
        """Count entries that have come into the ledger."""
        for each in entries:
            self._metrics.charged(
                each.pool, each.kind.value, each.seconds, each.micros, each.images
            )

    def is_new_period(self, account: str, period: int) -> bool:
        """Note that an account's idle time is charged in a period; return whether it was not."""
        is_new = self._periods.get(account) != period
        self._periods[account] = period
        return is_new

    def forget_periods(self, known: Collection[str]) -> None:
        """Forget the periods of accounts that are not among these."""
        if len(self._periods) > 2 * len(known):
            self._periods = {each: n for each, n in self._periods.items() if each in known}

    async def keep(self) -> None:
        """Write what waits; sums once a minute."""
        if self._clock.monotonic_s() - self._summed_s >= SUMS_EVERY_S:
            self._write_sums()
        await self._write()

    async def keep_all(self) -> None:
        """Write all that waits."""
        self._write_sums()
        await self._write()

    async def _write(self) -> None:
        async with self._writing:
            while self._entries:
                part = self._entries[:_AT_ONCE]
                await self.charge(part)
                del self._entries[: len(part)]

    def _write_sums(self) -> None:
        self._summed_s, now = self._clock.monotonic_s(), self._clock.now()
        for (worker_id, model, key_id, is_good), each in self._sums.items():
            info = self._workers[worker_id]
            self.add(
                LedgerEntry(
                    id=new_id(now),
                    at=now,
                    kind=EntryKind.ATTEMPT if is_good else EntryKind.FAILED,
                    pool=info.pool,
                    models=model,
                    worker_id=info.id,
                    seconds=round(each.seconds, 6),
                    account=account_of(info),
                    key_id=key_id,
                    attempts=each.attempts,
                    images=each.images,
                )
            )
        self._sums.clear()
        self._workers.clear()


def with_costs(
    hour_micros: int | None,
    told: Sequence[Settlement],
    most_s: float,
    price_micros: int = 0,
) -> list[Settlement]:
    """Return settlements whose timings say what each attempt costs: its share of the device, and
    what it paid to others.

    Args:
        hour_micros: What an hour of the worker costs; None where that is not known. What it tells
            of costs itself is not taken.
        told: As the worker told them.
        most_s: None of the attempts can have had more of the device, in seconds.
        price_micros: What a sample of one of the worker's models costs with others at most, by
            their cards. Of a worker whose models cost nothing there, nothing is taken.
    """
    most_paid = _MOST_PAID * price_micros
    return [_with_cost(hour_micros, each, most_s, most_paid) for each in told]


def _with_cost(
    hour_micros: int | None, settlement: Settlement, most_s: float, most_paid: int
) -> Settlement:
    outcome = settlement.outcome
    seconds = share_s(outcome.timings, most_s)
    cost = cost_micros(seconds, hour_micros)
    paid = max(0, min(outcome.timings.paid_micros, most_paid))
    if paid:
        cost = (cost or 0) + paid
    timings = _replace(outcome.timings, device_s=seconds, cost_micros=cost, paid_micros=paid)
    return _replace(settlement, outcome=_replace(outcome, timings=timings))
