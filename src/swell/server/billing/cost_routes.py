"""Charges idle time so that the ledger equals the bill, watches budgets, and reports costs."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from msgspec.json import encode as to_json
from msgspec.structs import replace

from swell.core.billing.cost_breakdown import By, Cost, added, costs_by
from swell.core.billing.idle_time import Life, paid_micros, remainder
from swell.core.billing.ledger import Charged, EntryKind, LedgerEntry, cost_micros, day_of
from swell.core.errors import InvalidInput
from swell.core.provider import Instance
from swell.core.records import WorkerInfo
from swell.core.startup_phases import Startup, StartupKind
from swell.core.task import Task, TaskState
from swell.db.instance_notices import Spent, keep_spent, last_spent, tell_end, told_ends
from swell.protocol.autoscaler_messages import read
from swell.server.billing.attempt_costs import KEEP_EVERY_S, Tariffs, attempt_entry
from swell.server.billing.billing_schemas import (
    CostKinds,
    CostMicros,
    CostsList,
    CostsQuery,
    CostView,
)
from swell.server.decoding import read_query
from swell.server.request import Call, Reply
from swell.server.route import Response, admin_route
from swell.server.serializers import encode, project, rounded
from swell.server.service import Service
from swell.server.workers.startups import end_startups

_log = structlog.get_logger("swell.api")

#: How long the launcher of a worker may take to report its end, in seconds. Then its deregistration
#: or last message counts as the end.
_END_LATE_S: Final = 600.0

#: Older reports of an end are ignored, in seconds: workers are deleted after a day.
_TOO_LATE_S: Final = 12 * 3600.0

#: Another backend writes the attempts of an ended worker within this time, in seconds.
_OTHERS_S: Final = 3 * KEEP_EVERY_S

#: Alarms, in hundredths of the budget.
ALARMS: Final = (50, 80, 100)

#: Longest reports in days; shorter by user, since there may be many.
MOST_DAYS: Final = 366
MOST_DAYS_OF_USERS: Final = 31
_USUAL_DAYS: Final = 30

#: Field of a report → kind of entry.
_FIELDS: Final = {
    "attempts": EntryKind.ATTEMPT,
    "failed": EntryKind.FAILED,
    "idle": EntryKind.IDLE,
    "cold": EntryKind.COLD_START,
    "wasted": EntryKind.WASTED,
}


# --- the remainder of bills ----------------------------------------------------------------------


async def _bills(
    service: Service, workers: Iterable[WorkerInfo], now: datetime
) -> list[tuple[Life, Charged]]:
    """Return the machines of workers, and their charges so far.

    A worker that registers again is the same machine.
    """
    by_account: dict[str, list[WorkerInfo]] = {}
    for info in workers:
        by_account.setdefault(info.account or info.id, []).append(info)
    lives = [_life(each, infos, service.tariffs, now) for each, infos in by_account.items()]
    charged = await service.registry.charged(list(by_account))
    return list(zip(lives, charged, strict=True))


def _life(account: str, infos: Sequence[WorkerInfo], tariffs: Tariffs, now: datetime) -> Life:
    newest = tariffs.priced(max(infos, key=lambda info: (info.registered_at, info.id)))
    heard_at = max(info.seen_at for info in infos)
    ended_at = max((info.ended_at for info in infos if info.ended_at is not None), default=None)
    gone_at = newest.gone_at
    if ended_at is None and gone_at is not None and (now - gone_at).total_seconds() > _END_LATE_S:
        ended_at = gone_at if newest.said_goodbye else heard_at
    return project(
        Life,
        newest,
        account=account,
        worker_id=newest.id,
        models=",".join(sorted(newest.models)),
        launched_at=min(info.launched_at or info.registered_at for info in infos),
        heard_at=heard_at,
        ended_at=ended_at,
        steps=tariffs.steps.get(newest.pool, ()),
    )


async def settle(service: Service, *, others_s: float = _OTHERS_S) -> int:
    """Charge the remainder of bills; return the number of new entries.

    Live machines are charged once in `settle_every_s`; ended ones as soon as all backends have
    written their attempts.

    Args:
        service: The backend.
        others_s: How long other backends may take for that, in seconds.
    """
    registry, tariffs = service.registry, service.tariffs
    await service.charges.keep()
    await tariffs.refresh()
    ends = await told_ends(registry)
    unregistered = await _take_ends(service, ends.values()) if ends else []
    await service.fleet.refresh()
    now, wait_s = service.clock.now(), others_s if service.backend.is_shared else 0.0
    workers = await registry.workers()
    gone = {info.id for info in workers if info.gone_at is not None}
    for info in workers:
        if info.id in gone and (priced := tariffs.priced(info)) is not info:
            # Later prices do not change the bill of a machine that has gone.
            await registry.put_worker(priced)
    busy_since = await _busy_since(service)
    period = int(now.timestamp() // service.settings.settle_every_s)
    entries: list[LedgerEntry] = []
    for life, known in await _bills(service, [*workers, *unregistered], now):
        if life.ended_at is not None:
            until = life.ended_at
            name = f"end-{until.timestamp():.3f}-{known.seconds:.3f}"
            # A machine without a worker has had no attempts.
            is_due = not life.worker_id or (now - until).total_seconds() >= wait_s
        else:
            is_lost = (now - life.heard_at).total_seconds() > service.settings.lost_s
            until = life.heard_at if is_lost else busy_since.get(life.worker_id, now)
            name, is_due = f"idle-{period}", life.worker_id not in gone
        if is_due:
            entries += remainder(life, known, until, name=name, at=now)
    n = await service.charges.charge(entries) if entries else 0
    await registry.drop_notes(list(ends))
    return n


async def _busy_since(service: Service) -> dict[str, datetime]:
    """Return worker → the start of its oldest running attempt."""
    found: dict[str, datetime] = {}
    for task in await service.store.get(service.fleet.held_tasks()):
        if task is None or task.state is not TaskState.RUNNING:
            continue
        if task.worker_id is not None and task.started_at is not None:
            since = found.get(task.worker_id, task.started_at)
            found[task.worker_id] = min(since, task.started_at)
    return found


async def instance_ended(service: Service, instance: Instance) -> None:
    """Note the end of a machine, which `settle` charges.

    A launcher in another process calls `tell_end`.
    """
    await tell_end(service.registry, instance)
    await _take_ends(service, [instance])


async def _take_ends(service: Service, told: Iterable[Instance]) -> list[WorkerInfo]:
    """Note the ends of machines; return machines without a registered worker, as workers."""
    registry, oldest = service.registry, service.clock.now() - timedelta(seconds=_TOO_LATE_S)
    ends = {each.id: each for each in told if each.ended_at and each.ended_at >= oldest}
    workers = await registry.workers()
    for info in workers:
        end = ends.get(info.instance)
        if end is not None and info.ended_at is None:
            over = replace(
                service.tariffs.priced(info),
                launched_at=end.launched_at,
                ended_at=end.ended_at,
                gone_at=info.gone_at or end.ended_at,
            )
            await registry.put_worker(over)
    unregistered = ends.keys() - {info.instance for info in workers}
    if not unregistered:
        return []
    await end_startups(service, unregistered)
    startups = {each.instance: each for each in await registry.startups()}
    return [_as_worker(ends[each], startups.get(each)) for each in unregistered]


def _as_worker(instance: Instance, startup: Startup | None) -> WorkerInfo:
    return project(
        WorkerInfo,
        instance,
        id="",
        name="",
        models={},
        account=instance.id if startup is None else startup.id,
        registered_at=instance.launched_at,
        seen_at=(startup and startup.seen_at) or instance.launched_at,
    )


async def charge_lost(service: Service, tasks: Sequence[Task]) -> None:
    """Charge attempts that were taken from their workers.

    The lost attempts of a worker share its time since the first of them started, as far as it is
    not charged yet.
    """
    by_worker: dict[str, list[Task]] = {}
    for task in tasks:
        if task.worker_id is not None and task.started_at is not None:
            by_worker.setdefault(task.worker_id, []).append(task)
    if not by_worker:
        return
    await service.charges.keep()
    now, tariffs = service.clock.now(), service.tariffs
    workers = await service.registry.workers()
    workers = [tariffs.priced(info) for info in workers if info.id in by_worker]
    charged = await service.registry.charged([info.account or info.id for info in workers])
    entries: list[LedgerEntry] = []
    for info, known in zip(workers, charged, strict=True):
        lost = by_worker[info.id]
        until = min(now, info.seen_at, info.ended_at or now)
        began = min(task.started_at or now for task in lost)
        uncharged_s = (until - (info.launched_at or info.registered_at)).total_seconds()
        uncharged_s -= known.seconds
        whole_s = max(0.0, min((until - began).total_seconds(), uncharged_s))
        seconds = round(whole_s / len(lost), 6)
        micros = cost_micros(seconds, tariffs.hour_micros(info))
        entries += [
            attempt_entry(
                info,
                task,
                task.attempt,
                at=now,
                outcome="expired" if task.state is TaskState.EXPIRED else "worker_lost",
                seconds=seconds,
                micros=micros,
            )
            for task in lost
        ]
    await service.charges.charge(entries)


# --- budgets -------------------------------------------------------------------------------------


async def spent(service: Service) -> Spent:
    """Return the money spent so far, including time that is not charged yet."""
    today = day_of(service.clock.now())
    open_micros = await _open_micros(service)
    day = await service.registry.spent(today, today)
    month = await service.registry.spent(today.replace(day=1), today)
    return Spent(day=today, day_micros=day + open_micros, month_micros=month + open_micros)


async def _open_micros(service: Service) -> int:
    """Return the cost of live machines that is not charged yet."""
    await service.fleet.look_again()
    now, registry, tariffs = service.clock.now(), service.registry, service.tariffs
    workers = [info for info in await registry.workers() if info.gone_at is None]
    whole = 0
    for life, known in await _bills(service, workers, now):
        if (now - life.heard_at).total_seconds() <= service.settings.lost_s:
            whole += max(0, (paid_micros(life, now) or 0) - known.micros)
    for each in await registry.startups(under_way=True):
        if each.kind is StartupKind.COLD and each.begun_at is not None:
            age_s = (now - each.begun_at).total_seconds()
            whole += cost_micros(age_s, tariffs.now_micros(each.pool)) or 0
    return whole


async def watch_budget(service: Service) -> None:
    """Publish the money spent so far, and raise each due alarm once in its day or month."""
    found = await spent(service)
    await keep_spent(service.registry, found)
    _set_metrics(service, found)
    day = found.day.isoformat()
    amounts = {"day": (day, found.day_micros), "month": (day[:7], found.month_micros)}
    for name, budget in service.metrics.values["swell_budget_micros"].items():
        period, micros = amounts[name]
        share = max((each for each in ALARMS if 100 * micros >= each * budget), default=0)
        if share and await _is_new_alarm(service, name, (period, share)):
            await _alarm(service, name, share, f"{micros / 1e6:.2f} of {budget / 1e6:.2f} $")


async def hear_spent(service: Service) -> None:
    """Show the money spent in the metrics, as computed by the backend that watches budgets."""
    found = await last_spent(service.registry)
    if found is not None:
        _set_metrics(service, found)


def _set_metrics(service: Service, found: Spent) -> None:
    costs, today = service.settings.costs, day_of(service.clock.now())
    amounts: dict[str, float] = {"day": found.day_micros} if found.day == today else {}
    if found.day.replace(day=1) == today.replace(day=1):
        amounts["month"] = found.month_micros
    budgets = {"day": costs.budget_day_micros, "month": costs.budget_month_micros}
    service.metrics.values["swell_spent_micros"] = amounts
    service.metrics.values["swell_budget_micros"] = {
        period: micros for period, micros in budgets.items() if micros is not None
    }


async def _is_new_alarm(service: Service, name: str, alarm: tuple[str, int]) -> bool:
    """Note an alarm (period, share); return whether it is beyond the last one of any backend."""
    note = f"budget-{name}"
    before = await service.registry.note(note)
    last = read(before, tuple[str, int])
    if last is not None and last >= alarm:
        return False
    return await service.registry.swap_note(note, before, to_json(alarm))


async def _alarm(service: Service, name: str, share: int, amounts: str) -> None:
    _log.warning("budget", period=name, percent=share, spent=amounts)
    detail = f"{share} % of the budget of this {name} are spent: {amounts}"
    await service.audit.note_own(f"budget.{name}", f"{share} %", detail)


# --- reports -------------------------------------------------------------------------------------


@admin_route("GET /v1/costs", Response("Costs and their total", CostsList), query=CostsQuery)
async def show_costs(service: Service, call: Call) -> Reply:
    """Show costs."""
    query = read_query(call, CostsQuery)
    until = query.until or day_of(service.clock.now())
    since = query.since or until - timedelta(days=_USUAL_DAYS - 1)
    if since > until:
        raise InvalidInput(f"from ({since}) is after to ({until}): exchange them")
    by = query.by
    most = MOST_DAYS_OF_USERS if by == "user" else MOST_DAYS
    if (until - since).days >= most:
        raise InvalidInput(
            f"from {since} to {until} are more than {most} days: ask for fewer at a time"
        )
    await service.charges.keep()
    rows = await service.registry.costs(since, until, users=by == "user")
    # With many users this would block the event loop.
    found = await asyncio.to_thread(costs_by, rows, by)
    names = sorted(found, key=lambda name: _sort_key(by, name, found))
    shown, others = names[: query.limit], names[query.limit :]
    price = service.settings.costs.api_image_micros
    view = CostsList(
        since=since,
        until=until,
        by=by,
        api_image_micros=price,
        costs=[_view(name, found[name], price) for name in shown],
        others=_view(None, added(found[name] for name in others), price) if others else None,
        total=_view(None, added(found.values()), price),
    )
    return Reply(200, encode(view))


def _sort_key(by: By, name: str | None, found: dict[str | None, Cost]) -> tuple[object, ...]:
    """Sort days by date, others by descending cost, and unassigned costs last."""
    if by == "day":
        return (name or "",)
    cost = found[name]
    return name is None, -(cost.whole_micros or 0), -cost.whole_s, name or ""


def _view(name: str | None, cost: Cost, price: int | None) -> CostView:
    seconds = {field: round(cost.seconds.get(kind, 0.0), 3) for field, kind in _FIELDS.items()}
    micros = {field: cost.micros.get(kind, 0) for field, kind in _FIELDS.items()}
    total = cost.whole_micros
    return CostView(
        name=name,
        attempts=cost.attempts,
        images=cost.images,
        seconds=CostKinds(**seconds, total=round(cost.whole_s, 3)),
        micros=None if total is None else CostMicros(**micros, total=total),
        image_micros=rounded(cost.image_micros),
        loaded_image_micros=rounded(cost.loaded_image_micros),
        api_micros=None if price is None else price * cost.priced_images,
    )
