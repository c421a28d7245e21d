"""Costs: idle time is charged so that the ledger adds up to the bill, budgets are watched, and
operators are told what was paid for what.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Final

import msgspec
import structlog

from swell.accounts import Spent, drop_ends, keep_spent, last_spent, told_ends
from swell.api.call import Call, Reply
from swell.api.charges import SUMS_EVERY_S, account_of
from swell.api.messages import CostKinds, CostMicros, CostsList, CostsQuery, CostView
from swell.api.reading import read_query
from swell.api.service import Service
from swell.api.startups import end_startups
from swell.api.tariffs import Tariffs
from swell.api.views import encode
from swell.errors import InvalidInput
from swell.money.bill import Life, entries_of, paid_micros, rest
from swell.money.costs import By, Cost, added, costs_by
from swell.money.ledger import Charged, EntryKind, LedgerEntry, cost_micros, day_of
from swell.phases import Startup, StartupKind
from swell.provider import Instance
from swell.registry import AuditEntry, WorkerInfo
from swell.task import Task, TaskState, new_id

_log = structlog.get_logger("swell.api")

#: Whoever launched a worker may tell so late when it ended, in seconds; then its goodbye counts, or
#: when it was heard of last.
_END_LATE_S: Final = 600.0

#: An end that is told later than this counts no more, in seconds: workers are forgotten in a day.
_TOO_LATE_S: Final = 12 * 3600.0

#: Another backend may take so long to write what attempts had that it has heard of, in seconds.
_OTHERS_S: Final = 1.5 * SUMS_EVERY_S

#: Alarms, in hundredths of the budget.
ALARMS: Final = (50, 80, 100)

#: So many days at most are told at once.
MOST_DAYS: Final = 366
#: By user, of whom there may be many, fewer.
MOST_DAYS_OF_USERS: Final = 31
_USUAL_DAYS: Final = 30


# --- what nobody was charged for -----------------------------------------------------------------


def lives_of(workers: Iterable[WorkerInfo], tariffs: Tariffs, now: datetime) -> list[Life]:
    """Return the machines of workers, each with all workers that it was. Pure.

    One that registered again is the same machine. Of one whose end nobody has told, the goodbye of
    its worker counts after a while, or when it was heard of last.
    """
    by_account: dict[str, list[WorkerInfo]] = {}
    for info in workers:
        by_account.setdefault(account_of(info), []).append(info)
    return [_life(account, infos, tariffs, now) for account, infos in by_account.items()]


def _life(account: str, infos: Sequence[WorkerInfo], tariffs: Tariffs, now: datetime) -> Life:
    newest = tariffs.priced(max(infos, key=lambda info: (info.registered_at, info.id)))
    told = [info.ended_at for info in infos if info.ended_at is not None]
    heard_at = max(info.seen_at for info in infos)
    ended_at = max(told, default=None)
    gone_at = newest.gone_at
    if ended_at is None and gone_at is not None and (now - gone_at).total_seconds() > _END_LATE_S:
        ended_at = gone_at if newest.said_goodbye else heard_at
    return Life(
        account=account,
        pool=newest.pool,
        worker_id=newest.id,
        models=",".join(sorted(newest.models)),
        launched_at=min(info.launched_at or info.registered_at for info in infos),
        heard_at=heard_at,
        ended_at=ended_at,
        said_goodbye=newest.said_goodbye,
        hour_micros=newest.hour_micros,
        steps=tariffs.steps(newest.pool),
        launch_micros=newest.launch_micros,
        least_billed_s=newest.least_billed_s,
    )


async def settle(service: Service, *, others_s: float = _OTHERS_S) -> int:
    """Charge what nobody was charged for; return how many entries that took.

    Idle time of those that live once in `settle_every_s`, the rest of those that have ended once
    all backends have written what their attempts have had.

    Args:
        service: The backend.
        others_s: Other backends may take so long for that, in seconds.
    """
    wait_s = others_s if service.backend.is_shared else 0.0
    await service.charges.keep_all()
    await service.tariffs.refresh()
    ends = await told_ends(service.registry)
    if ends:
        # Read once: a region that vanishes has many ends, and each is of other workers.
        before = await service.registry.workers()
        for each in ends.values():
            await _ended(service, each, before)
        await drop_ends(service.registry, ends)
    await service.fleet.refresh()
    now, registry = service.clock.now(), service.registry
    workers = await registry.workers()
    lives = lives_of(workers, service.tariffs, now)
    gone = {info.id for info in workers if info.gone_at is not None}
    for info in workers:
        priced = service.tariffs.priced(info)
        if info.id in gone and priced is not info:
            # A later price changes nothing of a machine that has gone.
            await registry.put_worker(priced)
    charged = await registry.charged([life.account for life in lives])
    entries: list[LedgerEntry] = []
    for life, known in zip(lives, charged, strict=True):
        if life.ended_at is not None:
            if (now - life.ended_at).total_seconds() >= wait_s:
                entries += _last_entries(life, known, now)
        elif life.worker_id not in gone:
            entries += await _idle_entries(service, life, known, now)
    service.charges.forget_periods({life.account for life in lives})
    return await service.charges.charge(entries) if entries else 0


def _last_entries(life: Life, known: Charged, now: datetime) -> list[LedgerEntry]:
    """Return what is left of a machine that has ended."""
    ended_at = life.ended_at
    assert ended_at is not None, "the caller has looked"
    name = f"end-{round(ended_at.timestamp() * 1000)}-{round(known.seconds * 1000)}"
    return entries_of(life, rest(life, known, ended_at), name, now)


async def _idle_entries(
    service: Service, life: Life, known: Charged, now: datetime
) -> list[LedgerEntry]:
    """Return the idle time of a machine that lives, up to when it has begun what it is at."""
    every_s = service.settings.settle_every_s
    period = int(now.timestamp() // every_s)
    if not service.charges.is_new_period(life.account, period):
        return []
    until = now
    if (now - life.heard_at).total_seconds() > service.settings.lost_s:
        until = life.heard_at
    elif held := service.fleet.held_by(life.worker_id):
        tasks = await service.store.get(held)
        until = min([now, *(_begun(task, life.worker_id, now) for task in tasks if task)])
    return entries_of(life, rest(life, known, until), f"idle-{period}", now)


def _begun(task: Task, worker_id: str, now: datetime) -> datetime:
    is_at_it = task.state is TaskState.RUNNING and task.worker_id == worker_id
    return task.started_at if is_at_it and task.started_at is not None else now


async def charge_taken(service: Service, tasks: Sequence[Task]) -> None:
    """Charge attempts that were taken from their workers, which tell nothing of them any more.

    They are charged since their start, all that a worker has lost together, as far as nobody else
    was charged for that time.
    """
    by_worker: dict[str, list[Task]] = {}
    for task in tasks:
        if task.worker_id is not None and task.started_at is not None:
            by_worker.setdefault(task.worker_id, []).append(task)
    if not by_worker:
        return
    await service.charges.keep_all()
    now = service.clock.now()
    workers = await service.registry.workers()
    mine = [service.tariffs.priced(info) for info in workers if info.id in by_worker]
    charged = await service.registry.charged([account_of(info) for info in mine])
    entries: list[LedgerEntry] = []
    for info, known in zip(mine, charged, strict=True):
        price = service.tariffs.hour_micros(info)
        entries += _taken_entries(info, price, known, by_worker[info.id], now)
    await service.charges.charge(entries)


def _taken_entries(
    info: WorkerInfo,
    hour_micros: int | None,
    known: Charged,
    tasks: Sequence[Task],
    now: datetime,
) -> list[LedgerEntry]:
    until = min(now, info.seen_at, info.ended_at or now)
    began = min(task.started_at or now for task in tasks)
    alive_s = (until - (info.launched_at or info.registered_at)).total_seconds()
    whole_s = min((until - began).total_seconds(), alive_s - known.seconds)
    each_s = round(max(0.0, whole_s) / len(tasks), 6)
    return [
        LedgerEntry(
            id=f"{task.id}-{task.attempt}",
            at=now,
            kind=EntryKind.FAILED,
            pool=info.pool,
            models=task.stage_model,
            worker_id=info.id,
            ref=task.id,
            outcome="expired" if task.state is TaskState.EXPIRED else "worker_lost",
            seconds=each_s,
            micros=cost_micros(each_s, hour_micros),
            account=account_of(info),
            key_id=task.key_id,
            user=(task.user or "") if info.hour_micros is not None else "",
            attempts=1,
        )
        for task in tasks
    ]


async def instance_ended(
    service: Service, instance: Instance, *, host: str = "", pid: int | None = None
) -> None:
    """Note when an instance began and ended, so that all of its time is charged, and no more.

    Its worker is known by the name of the instance, or by its process on a host; one that never
    registered is charged here. Whoever launches in another process calls `accounts.tell_end`.

    Args:
        service: The backend.
        instance: With its `ended_at`.
        host: Where its process ran; empty where that is not known.
        pid: Of the process.
    """
    await _ended(service, instance, await service.registry.workers(), host, pid)


async def _ended(
    service: Service,
    instance: Instance,
    known: Iterable[WorkerInfo],
    host: str = "",
    pid: int | None = None,
) -> None:
    ended_at = instance.ended_at
    if ended_at is None:
        return

    def is_it(worker: WorkerInfo | Startup) -> bool:
        if worker.instance:
            return worker.instance == instance.id
        return pid is not None and (worker.host, worker.pid) == (host, pid)

    # Later nobody knows any more what it was charged.
    if (service.clock.now() - ended_at).total_seconds() > _TOO_LATE_S:
        return
    own = [info for info in known if is_it(info)]
    # The number of a process may be another's by now. The name of an instance is its own, however
    # wrong the clock may be by which it ended.
    workers = [info for info in own if info.instance or info.registered_at <= ended_at]
    for info in [info for info in workers if info.ended_at is None]:
        gone_at = info.gone_at or ended_at
        over = msgspec.structs.replace(
            service.tariffs.priced(info),
            launched_at=instance.launched_at,
            ended_at=ended_at,
            gone_at=gone_at,
        )
        await service.registry.put_worker(over)
    if not workers:
        await end_startups(service, host, pid, ended_at, instance.id)
        await _charge_unregistered(service, instance, ended_at)


async def _charge_unregistered(service: Service, instance: Instance, ended_at: datetime) -> None:
    """Charge what is left of an instance whose worker never registered."""
    own = [
        each
        for each in await service.registry.startups()
        if each.kind is StartupKind.COLD and each.instance == instance.id
    ]
    if any(each.worker_id for each in own):
        return
    account = own[0].id if own else instance.id
    tariffs, pool = service.tariffs, instance.pool
    life = Life(
        account=account,
        pool=pool,
        launched_at=instance.launched_at,
        heard_at=(own[0].seen_at if own else None) or instance.launched_at,
        ended_at=ended_at,
        said_goodbye=False,
        hour_micros=tariffs.now_micros(pool),
        steps=tariffs.steps(pool),
        launch_micros=tariffs.launch_micros(pool),
        least_billed_s=tariffs.least_billed_s(pool),
    )
    [known] = await service.registry.charged([account])
    parts = rest(life, known, ended_at)
    await service.charges.charge(entries_of(life, parts, "end", service.clock.now()))


# --- what was spent ------------------------------------------------------------------------------


async def spent(service: Service) -> Spent:
    """Return what was spent so far, with the time that is not charged yet."""
    today = day_of(service.clock.now())
    open_micros = await _open_micros(service)
    day_micros = await _sum(service, today, today) + open_micros
    before_micros = await _before(service, today)
    return Spent(day=today, day_micros=day_micros, month_micros=before_micros + day_micros)


async def _before(service: Service, today: date) -> int:
    """Return what was spent in this month before today, which does not change any more."""
    kept = service.charges.spent_before
    if kept is None or kept[0] != today:
        first, yesterday = today.replace(day=1), today - timedelta(days=1)
        micros = 0 if today == first else await _sum(service, first, yesterday)
        kept = service.charges.spent_before = today, micros
    return kept[1]


async def _sum(service: Service, since: date, until: date) -> int:
    return sum(row.micros or 0 for row in await service.registry.costs(since, until))


async def _open_micros(service: Service) -> int:
    """Return what machines that live have cost and were not charged yet."""
    await service.fleet.look_again()
    now, registry = service.clock.now(), service.registry
    workers = [info for info in await registry.workers() if info.gone_at is None]
    lives = [
        life
        for life in lives_of(workers, service.tariffs, now)
        if (now - life.heard_at).total_seconds() <= service.settings.lost_s
    ]
    charged = await registry.charged([life.account for life in lives])
    whole = 0
    for life, known in zip(lives, charged, strict=True):
        cost = paid_micros(life, now)
        if cost is not None:
            whole += max(0, cost - known.micros)
    for each in await registry.startups(under_way=True):
        price = service.tariffs.now_micros(each.pool)
        if each.kind is StartupKind.COLD and each.begun_at is not None:
            whole += cost_micros((now - each.begun_at).total_seconds(), price) or 0
    return whole


class _Told(msgspec.Struct, frozen=True):
    """Which alarm was given last, and of which day or month."""

    period: str
    share: int


async def watch_budget(service: Service) -> None:
    """Tell what was spent so far, and give the alarms that are due: each once in a day or month."""
    settings, found = service.settings, await spent(service)
    await keep_spent(service.registry, found)
    today = found.day
    _count_spent(service, found)
    for name, period, budget, micros in (
        ("day", today.isoformat(), settings.costs.budget_day_micros, found.day_micros),
        ("month", f"{today:%Y-%m}", settings.costs.budget_month_micros, found.month_micros),
    ):
        if budget is None:
            continue
        reached = max((each for each in ALARMS if 100 * micros >= each * budget), default=0)
        if reached and await _is_new_alarm(service, name, _Told(period, reached)):
            await _alarm(service, name, reached, f"{micros / 1e6:.2f} of {budget / 1e6:.2f} $")


async def hear_spent(service: Service) -> None:
    """Count what another process has told of what was spent, which watches budgets now."""
    told = await last_spent(service.registry)
    if told is not None:
        _count_spent(service, told)


def _count_spent(service: Service, told: Spent) -> None:
    """Count what was spent of the day and the month that are not over."""
    settings, today = service.settings, day_of(service.clock.now())
    amounts = {}
    if told.day == today:
        amounts["day"] = told.day_micros
    if (told.day.year, told.day.month) == (today.year, today.month):
        amounts["month"] = told.month_micros
    budgets = {"day": settings.costs.budget_day_micros, "month": settings.costs.budget_month_micros}
    service.metrics.spent_micros = amounts
    service.metrics.budget_micros = {
        period: micros for period, micros in budgets.items() if micros is not None
    }


async def _is_new_alarm(service: Service, name: str, alarm: _Told) -> bool:
    """Note an alarm; return whether nobody has given it, or one that is further, before."""
    note = f"budget-{name}"
    before = await service.registry.note(note)
    if before is not None:
        told = msgspec.json.decode(before, type=_Told)
        if told.period == alarm.period and told.share >= alarm.share:
            return False
    return await service.registry.swap_note(note, before, msgspec.json.encode(alarm))


async def _alarm(service: Service, name: str, share: int, amounts: str) -> None:
    _log.warning("budget", period=name, percent=share, spent=amounts)
    now = service.clock.now()
    entry = AuditEntry(
        id=new_id(now),
        at=now,
        key_id="",
        key_name="",
        address="",
        action=f"budget.{name}",
        target=f"{share} %",
        status=200,
        detail=f"{share} % of the budget of this {name} are spent: {amounts}",
    )
    await service.registry.record([entry])


# --- what operators ask --------------------------------------------------------------------------


async def show_costs(service: Service, call: Call) -> Reply:
    """`GET /v1/costs`."""
    query = read_query(call, CostsQuery)
    today = day_of(service.clock.now())
    until = query.until or today
    since = query.since or until - timedelta(days=_USUAL_DAYS - 1)
    if since > until:
        raise InvalidInput(f"from ({since}) is after to ({until}): exchange them")
    by = By(query.by)
    most = MOST_DAYS_OF_USERS if by is By.USER else MOST_DAYS
    if (until - since).days >= most:
        raise InvalidInput(
            f"from {since} to {until} are more than {most} days: ask for fewer at a time"
        )
    rows = await service.registry.costs(since, until, users=by is By.USER)
    # Of many users that takes a while, in which others are to be answered.
    found = await asyncio.to_thread(costs_by, rows, by)
    names = sorted(found, key=lambda name: _place(by, name, found))
    shown, others = names[: query.limit], names[query.limit :]
    price = service.settings.costs.api_image_micros
    view = CostsList(
        since=since,
        until=until,
        by=query.by,
        api_image_micros=price,
        costs=[_view(name, found[name], price) for name in shown],
        others=_view(None, added(found[name] for name in others), price) if others else None,
        total=_view(None, added(found.values()), price),
    )
    return Reply(200, encode(view))


def _place(by: By, name: str | None, found: dict[str | None, Cost]) -> tuple[object, ...]:
    """Return where something stands: days in order, else the dearest first, and nobody last."""
    if by is By.DAY:
        return (name or "",)
    cost = found[name]
    return name is None, -(cost.whole_micros or 0), -cost.whole_s, name or ""


def _view(name: str | None, cost: Cost, price: int | None) -> CostView:
    seconds, micros = cost.seconds, cost.micros
    return CostView(
        name=name,
        attempts=cost.attempts,
        images=cost.images,
        seconds=CostKinds(
            attempts=round(seconds.get(EntryKind.ATTEMPT, 0.0), 3),
            failed=round(seconds.get(EntryKind.FAILED, 0.0), 3),
            idle=round(seconds.get(EntryKind.IDLE, 0.0), 3),
            cold=round(seconds.get(EntryKind.COLD_START, 0.0), 3),
            wasted=round(seconds.get(EntryKind.WASTED, 0.0), 3),
            total=round(cost.whole_s, 3),
        ),
        micros=None
        if cost.whole_micros is None
        else CostMicros(
            attempts=micros.get(EntryKind.ATTEMPT, 0),
            failed=micros.get(EntryKind.FAILED, 0),
            idle=micros.get(EntryKind.IDLE, 0),
            cold=micros.get(EntryKind.COLD_START, 0),
            wasted=micros.get(EntryKind.WASTED, 0),
            total=cost.whole_micros,
        ),
        image_micros=_rounded(cost.image_micros),
        loaded_image_micros=_rounded(cost.loaded_image_micros),
        api_micros=None if price is None else price * cost.priced_images,
    )


def _rounded(micros: float | None) -> float | None:
    return None if micros is None else round(micros, 3)
