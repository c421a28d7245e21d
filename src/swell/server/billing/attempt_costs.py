"""Prices of workers, and the cost of attempts, which is written into the ledger.

In a pool with a price, each attempt has its own entry with the attempt's id, so a repeated report
is charged once. In other pools, attempts are summed by worker, model and key, since an entry each
would slow down short tasks (docs/decisions/0045). Entries and sums are written every few seconds,
after the tasks' own commits. What a crash loses becomes idle time
(`swell.server.billing.cost_routes`).
"""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from msgspec.structs import replace

from swell.core.billing.ledger import EntryKind, LedgerEntry, cost_micros
from swell.core.billing.price_history import TARIFFS, PoolTariff, Step, price_at
from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.records import WorkerInfo
from swell.core.store_types import Ended
from swell.core.task import Settlement, Succeeded, Task, Timings, new_id
from swell.db.registry import Registry
from swell.protocol.autoscaler_messages import read
from swell.server.admin.autoscaler_status import Scaling
from swell.server.dependencies import ApiSettings
from swell.server.metrics import Metrics
from swell.server.tasks.sample_counts import images_of_stage, pictures_in

_log = structlog.get_logger("swell.api")

#: Interval of writing entries, in seconds.
KEEP_EVERY_S: Final = 5.0

#: Entries per call.
_AT_ONCE: Final = 500

#: Outcome of entries for payments to remote services, and prefix of their accounts.
PAID: Final = "paid"

#: Limit of the samples that one attempt pays for: 100 of a task, with a pack each.
_MOST_PAID: Final = 10_000


def share_s(timings: Timings, most_s: float) -> float:
    """Return an attempt's share of the device in seconds, as reported, from 0 to `most_s`."""
    seconds = timings.run_s if timings.device_s is None else timings.device_s
    return min(seconds, most_s) if math.isfinite(seconds) and seconds > 0 else 0.0


def attempt_entry(
    info: WorkerInfo, task: Task, attempt: int, *, is_good: bool = False, **fields: Any
) -> LedgerEntry:
    """Return an entry for an attempt at a worker. A failed one has no images.

    In a pipeline, the model and the images are of the stage that the attempt ran.
    """
    run, (model, _, _), images = task.run, task.queue.partition(":"), 0
    if run is None:
        images = (pictures_in(task.artifacts) if task.artifacts else 0) or task.count
    elif (done := run.done_by(attempt)) is not None:
        model, images = done.model, images_of_stage(run, done, task.count)
    return LedgerEntry(
        id=f"{task.id}-{attempt}",
        kind=EntryKind.ATTEMPT if is_good else EntryKind.FAILED,
        pool=info.pool,
        models=model,
        worker_id=info.id,
        ref=task.id,
        account=info.account or info.id,
        key_id=task.key_id,
        user=(task.user or "") if info.hour_micros is not None else "",
        attempts=1,
        images=images if is_good else 0,
        **fields,
    )


class Tariffs:
    """Caches the prices of workers, from the settings or from the autoscaler's report.

    A worker keeps the price with which it registered; if its pool had none yet, the price counts
    from when it is known. If the price of a pool changes, its workers cost the price in force.

    Args:
        registry: Has the changes of prices.
        scaling: Has the autoscaler's report of pools.
        settings: Have precedence over the report.
    """

    def __init__(self, registry: Registry, scaling: Scaling, settings: ApiSettings) -> None:
        self._registry = registry
        self._scaling = scaling
        self._settings = settings
        #: Pool → the changes of its price; pools with a constant price are not in it.
        self.steps: Mapping[str, Sequence[Step]] = {}

    async def refresh(self) -> None:
        """Read the changes of prices."""
        tariffs = read(await self._registry.note(TARIFFS), dict[str, PoolTariff])
        if tariffs is not None:
            self.steps = {pool: each.steps for pool, each in tariffs.items() if each.steps}

    def now_micros(self, pool: str) -> int | None:
        """Return the price of an hour of a new worker, in millionths of a dollar."""
        if steps := self.steps.get(pool):
            return steps[-1].hour_micros
        scaled = self._scaling.pools.get(pool)
        return self._settings.hour_micros.get(pool, scaled.hour_micros if scaled else None)

    def launch_micros(self, pool: str) -> int:
        """Return the extra cost of the launch of a worker, in millionths of a dollar."""
        scaled = self._scaling.pools.get(pool)
        return self._settings.launch_micros.get(pool, scaled.launch_micros if scaled else 0)

    def least_billed_s(self, pool: str) -> float:
        """Return the minimum billing of a worker, in seconds."""
        scaled = self._scaling.pools.get(pool)
        return self._settings.least_billed_s.get(pool, scaled.least_billed_s if scaled else 0)

    def priced(self, info: WorkerInfo) -> WorkerInfo:
        """Return a worker with the price of its pool, if it registered without a price."""
        micros = self.now_micros(info.pool) if info.hour_micros is None else None
        if micros is None:
            return info
        if steps := self.steps.get(info.pool):
            micros = price_at(steps, info.registered_at, steps[0].hour_micros)
        return replace(
            info,
            hour_micros=micros,
            launch_micros=self.launch_micros(info.pool),
            least_billed_s=self.least_billed_s(info.pool),
        )

    def hour_micros(self, info: WorkerInfo) -> int | None:
        """Return the current price of an hour of a worker, in millionths of a dollar."""
        if steps := self.steps.get(info.pool):
            return steps[-1].hour_micros
        return self.priced(info).hour_micros


class Charges:
    """Entries of one backend process that wait to be written.

    Args:
        registry: Has the ledger.
        clock: The time.
        metrics: Counts new entries.
    """

    def __init__(self, registry: Registry, clock: Clock, metrics: Metrics) -> None:
        self._registry = registry
        self._clock = clock
        self._metrics = metrics
        self._entries: list[LedgerEntry] = []
        #: (worker id, model, key id, kind) → the sum of attempts in a pool without a price.
        self._sums: dict[tuple[str, str, str, str], LedgerEntry] = {}
        self._writing = asyncio.Lock()

    def settled(self, info: WorkerInfo, settlements: Sequence[Settlement], ended: Ended) -> None:
        """Charge attempts of a worker.

        Args:
            info: The worker.
            settlements: How its attempts ended, with their costs (`with_costs`).
            ended: The tasks; None for attempts that the store has not taken.
        """
        now, is_priced = self._clock.now(), info.hour_micros is not None
        most_s = (now - info.registered_at).total_seconds()
        for place, (each, task) in enumerate(zip(settlements, ended, strict=True)):
            # A repeated attempt may be in a sum already, which has no ids.
            if task is None or (place in ended.again and not is_priced):
                continue
            timings = each.outcome.timings
            cost, paid = timings.cost_micros, timings.paid_micros
            entry = attempt_entry(
                info,
                task,
                each.attempt,
                is_good=isinstance(each.outcome, Succeeded),
                at=now,
                outcome=str(each.outcome.__struct_config__.tag),
                seconds=round(share_s(timings, most_s), 6),
            )
            if is_priced:
                self._entries.append(replace(entry, micros=None if cost is None else cost - paid))
            else:
                # The entry of `pay` has the images of a paid attempt.
                self._sum(replace(entry, images=0) if paid else entry)

    def _sum(self, entry: LedgerEntry) -> None:
        key = entry.worker_id, entry.models, entry.key_id, entry.kind
        known = self._sums.get(key)
        if known is None:
            known = replace(entry, id=new_id(entry.at), ref="", outcome="")
        else:
            seconds = round(known.seconds + entry.seconds, 6)
            images = known.images + entry.images
            known = replace(known, seconds=seconds, attempts=known.attempts + 1, images=images)
        self._sums[key] = known

    async def pay(self, info: WorkerInfo, paying: Sequence[tuple[Settlement, Task, bool]]) -> None:
        """Charge payments to remote services, which are not part of the machine's bill.

        They are written before the worker gets its answer, so a crash loses none: the worker
        reports again, and a repeated report is charged once.

        Args:
            info: The worker.
            paying: How attempts ended, their tasks, and whether the store has refused the outcome.
        """
        entries = []
        for each, task, is_lost in paying:
            is_good = isinstance(each.outcome, Succeeded) and not is_lost
            micros, now = each.outcome.timings.paid_micros, self._clock.now()
            entry = attempt_entry(
                info, task, each.attempt, is_good=is_good, at=now, outcome=PAID, seconds=0.0
            )
            model = entry.models
            if is_lost and task.run is not None and model not in info.models:
                # The pipeline is at another stage now.
                stages = (stage.model for stage in task.run.pipeline.stages)
                model = next((each for each in stages if each in info.models), model)
            paid = replace(
                entry,
                id=f"{entry.id}-{PAID}",
                micros=micros,
                models=model,
                account=f"{PAID}:{model}",
                worker_id="",
                user=task.user or "",
                attempts=0,
                # Images count in the entry that has a price.
                images=entry.images if info.hour_micros is None else 0,
            )
            entries.append(paid)
        try:
            await self.charge(entries)
        except SwellError as error:
            _log.warning("ledger: cannot write charges, retrying", detail=error.detail)
            self._entries += entries

    async def charge(self, entries: Sequence[LedgerEntry]) -> int:
        """Write entries now; return how many are new."""
        are_new = await self._registry.charge(entries)
        self.note(each for each, is_new in zip(entries, are_new, strict=True) if is_new)
        return sum(are_new)

    def note(self, entries: Iterable[LedgerEntry]) -> None:
        """Count new entries of the ledger in the metrics."""
        for each in entries:
            self._metrics.charged(
                each.pool, each.kind.value, each.seconds, each.micros, each.images
            )

    async def keep(self) -> None:
        """Write all entries and sums; return once they are in the ledger."""
        self._entries += self._sums.values()
        self._sums.clear()
        async with self._writing:
            while part := self._entries[:_AT_ONCE]:
                await self.charge(part)
                del self._entries[: len(part)]


def with_costs(
    hour_micros: int | None, settlements: Sequence[Settlement], most_s: float, price_micros: int = 0
) -> list[Settlement]:
    """Return settlements with the cost of each attempt in their timings.

    The cost is the share of the device and the payments to remote services. Costs that the worker
    reports are ignored.

    Args:
        hour_micros: The price of an hour of the worker; None if unknown.
        settlements: As the worker reported them.
        most_s: Limit of an attempt's time on the device, in seconds.
        price_micros: The highest price of a sample at a remote service, by the cards of the
            worker's models; 0 if they pay for none.
    """
    found = []
    for each in settlements:
        timings = each.outcome.timings
        seconds = share_s(timings, most_s)
        cost = cost_micros(seconds, hour_micros)
        paid = max(0, min(timings.paid_micros, _MOST_PAID * price_micros))
        if paid:
            cost = (cost or 0) + paid
        timings = replace(timings, device_s=seconds, cost_micros=cost, paid_micros=paid)
        found.append(replace(each, outcome=replace(each.outcome, timings=timings)))
    return found
