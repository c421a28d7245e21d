"""Cold starts, restarts and switches: heard of, counted, charged, and added up for operators.

What is told late, twice or by two ways changes nothing: of each startup only the furthest counts.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from swell.api.auth import check_worker
from swell.api.call import Call, Reply
from swell.api.cards import is_model_name
from swell.api.charges import account_of
from swell.api.messages import (
    LedgerEntryView,
    LedgerList,
    LedgerQuery,
    PhaseTimesView,
    PoolList,
    PoolView,
    SpanView,
    StartupView,
)
from swell.api.reading import Reader, read_query
from swell.api.scaling import pool_scaling_view
from swell.api.service import Service
from swell.api.views import encode
from swell.dispatch import Registration, Report, StartingAnswer
from swell.errors import InvalidInput, SwellError
from swell.money.ledger import EntryKind, LedgerEntry, cost_micros
from swell.phases import (
    READY,
    WHOLE,
    Phase,
    Startup,
    StartupKind,
    StartupState,
    accepted,
    is_further,
    observations,
)
from swell.registry import KeptStartup, Scope, WorkerInfo
from swell.scaling import DECISIONS, Decision, PoolScaling, read
from swell.survival import Observation, quantiles

_log = structlog.get_logger("swell.api")

_SHARES: Final = (0.5, 0.9, 0.99)

#: A worker that imports and loads has little time to tell of it: a shorter silence says nothing,
#: however often working ones are heard of, in seconds.
_SILENT_S: Final = 10.0

#: So many startups of one report are heard.
_MOST_TOLD: Final = 64

_startup = Reader(Startup)
_UNDER_WAY: Final = (StartupState.STARTING, StartupState.DIED)

#: What is counted when a cold start is ready, and what once its first outcome is there.
_UNTIL_READY: Final = (*(phase for phase in Phase if phase is not Phase.FIRST_TASK), READY)
_UNTIL_DONE: Final = (Phase.FIRST_TASK, WHOLE)


async def starting(service: Service, call: Call) -> Reply:
    """`POST /worker/v1/starting`."""
    told = await _startup.read_call(call, service.settings.server.max_body_bytes)
    check_worker(call.caller, told.pool, told.models)
    for name in told.models:
        if not is_model_name(name):
            raise InvalidInput(
                f"{name[:120]!r} cannot be a model's name: use owner/name, each of at most 100 "
                "letters, digits, '-', '_' and '.'"
            )
    # Whoever is ready registers, and only then it is taken for that.
    if told.state not in _UNDER_WAY:
        told = msgspec.structs.replace(told, state=StartupState.STARTING)
    kept = msgspec.structs.replace(told, kind=StartupKind.COLD, worker_id="")
    kept = accepted(kept, service.clock.now())
    service.starts.admit(kept)
    is_new = await keep_startup(service, kept)
    call.of_others = is_new and Scope.ADMIN in call.caller.scopes
    call.target, call.about = told.id, f"in pool {told.pool!r}"
    return Reply(200, encode(StartingAnswer(tell_every_s=service.settings.delivery.heartbeat_s)))


def startup_of_worker(startup: Startup, info: WorkerInfo, now: datetime) -> Startup:
    """Return what is kept of a startup that a registered worker tells.

    Raises:
        InvalidInput: It cannot be.
    """
    own = [model for model in startup.models if model in info.models]
    told = msgspec.structs.replace(
        startup,
        pool=info.pool,
        models=own or sorted(info.models),
        device=info.device,
        host=info.host,
        pid=info.pid,
        worker_id=info.id,
    )
    return accepted(told, now)


def account_told(told: Registration, now: datetime) -> tuple[str, datetime]:
    """Return to what a worker's time is charged, and since when it is paid.

    That is its cold start, which it tells again where it registers again; one that tells of none,
    or of one that cannot be, is paid since it has registered. Its account is its machine's, so that
    it is the same where it registers again, or its own (empty) where nobody has launched it.
    """
    if told.startup is not None:
        with contextlib.suppress(InvalidInput):
            startup = accepted(told.startup, now)
            return startup.id, startup.begun_at or now
    return told.instance, now


async def register_startup(service: Service, told: Registration, info: WorkerInfo) -> None:
    """Note that a cold start is ready, or further where the worker registers again.

    What cannot be kept is logged and counted: the worker is registered all the same, and its first
    outcome makes up for it.
    """
    if told.startup is None:
        return
    try:
        startup = startup_of_worker(told.startup, info, service.clock.now())
    except InvalidInput as error:
        _log.warning("a startup cannot be", worker_id=info.id, detail=error.detail)
        return
    if startup.state in _UNDER_WAY:
        startup = msgspec.structs.replace(startup, state=StartupState.READY)
    await _keep_if_possible(service, startup, info)


async def hear_of_startups(service: Service, told: Report, info: WorkerInfo) -> None:
    """Keep the startups in a report. Those that cannot be, or cannot be kept, are left out."""
    for each in told.startups[:_MOST_TOLD]:
        try:
            startup = startup_of_worker(each, info, service.clock.now())
        except InvalidInput as error:
            _log.warning("a startup cannot be", worker_id=info.id, detail=error.detail)
            continue
        await _keep_if_possible(service, startup, info)


async def keep_startup(service: Service, startup: Startup, info: WorkerInfo | None = None) -> bool:
    """Keep a startup, count and charge what is new of it, and return whether all of it is.

    Args:
        service: The backend.
        startup: With its `begun_at`.
        info: The worker that tells it; None before it has registered.
    """
    price = _price(service, startup, info)
    entry: LedgerEntry | None = None

    def charged(before: Startup | None) -> LedgerEntry | None:
        nonlocal entry
        entry = _charged(startup, before, price)
        return entry

    kept = await service.registry.put_startup(startup, charged)
    if kept.is_charged and entry is not None:
        service.charges.note([entry])
    if startup.kind is StartupKind.COLD:
        service.metrics.know_pool(startup.pool)
        if startup.state is not StartupState.STARTING:
            service.starts.over(startup)
        if _is_step(startup, kept.before):
            _count(service, startup, kept)
    return kept.before is None


@dataclass(frozen=True, slots=True)
class _Price:
    """What a startup is charged to, and by which price."""

    at: datetime
    account: str
    hour_micros: int | None
    launch_micros: int
    #: A restart or a switch cannot have taken longer, in seconds.
    most_s: float = 0.0


def _price(service: Service, startup: Startup, info: WorkerInfo | None) -> _Price:
    now, tariffs, pool = service.clock.now(), service.tariffs, startup.pool
    if info is None:
        launch_micros = tariffs.launch_micros(pool)
        return _Price(now, startup.id, tariffs.now_micros(pool), launch_micros)
    info = tariffs.priced(info)
    most_s = (now - info.registered_at).total_seconds()
    hour_micros = tariffs.hour_micros(info)
    return _Price(now, account_of(info), hour_micros, info.launch_micros, most_s)


async def _keep_if_possible(
    service: Service, startup: Startup, info: WorkerInfo | None = None
) -> None:
    """Keep a startup; accounting never stops what it accounts for."""
    try:
        await keep_startup(service, startup, info)
    except SwellError as error:
        service.metrics.duty_failed("startups")
        _log.warning("a startup cannot be kept", id=startup.id, detail=error.detail)
    except Exception:
        service.metrics.duty_failed("startups")
        _log.exception("a startup cannot be kept", id=startup.id)


def _is_step(startup: Startup, before: Startup | None) -> bool:
    """Whether a cold start has come further than it was known to be."""
    was = StartupState.STARTING if before is None else before.state
    return is_further(startup.state, was)


def _count(service: Service, startup: Startup, kept: KeptStartup) -> None:
    """Count what is new: what was charged before, and forgotten since, was counted then."""
    metrics, now = service.metrics, service.clock.now()
    phases: tuple[str, ...] = ()
    if kept.is_charged:
        outcome = _outcome(startup)
        metrics.cold_start_ended(startup.pool, outcome)
        phases += _UNTIL_READY if outcome == "ready" else ()
    if startup.state is StartupState.DONE and (kept.is_charged or kept.before is not None):
        phases += _UNTIL_DONE
    for (model, phase), seen in observations(startup, now).items():
        if phase in phases and seen.is_over:
            metrics.cold_start(startup.pool, model, phase).observe(seen.seconds)


def _outcome(startup: Startup) -> str:
    return "died" if startup.state is StartupState.DIED else "ready"


def _charged(startup: Startup, before: Startup | None, price: _Price) -> LedgerEntry | None:
    """Return what a cold start is charged for: its end, and so the same when it is ready and done.

    One that was taken for dead and is ready after all pays the rest. Where it was not heard that it
    is ready, its first outcome makes up for that. Restarts and switches serve nobody.
    """
    if startup.kind is not StartupKind.COLD:
        return _wasted(startup, price)
    if not _is_step(startup, before):
        return None
    outcome = _outcome(startup)
    seconds, launch_micros = startup.age_s, price.launch_micros
    if outcome == "ready" and startup.ready_s is not None:
        seconds = startup.ready_s
    if before is not None and before.state is StartupState.DIED:
        seconds, launch_micros = seconds - before.age_s, 0
    micros = cost_micros(seconds, price.hour_micros)
    return LedgerEntry(
        id=f"{startup.id}-{outcome}",
        at=price.at,
        kind=EntryKind.COLD_START,
        pool=startup.pool,
        models=",".join(startup.models),
        worker_id=startup.worker_id,
        ref=startup.id,
        outcome=outcome,
        seconds=round(seconds, 6),
        micros=None if micros is None else micros + launch_micros,
        account=price.account,
    )


def _wasted(startup: Startup, price: _Price) -> LedgerEntry | None:
    """Return what a restart of a model process, or a switch of models, took of its worker."""
    if not startup.worker_id or startup.state is StartupState.STARTING:
        return None
    seconds = min(startup.age_s, price.most_s)
    return LedgerEntry(
        id=f"{startup.id}-{startup.kind.value}",
        at=price.at,
        kind=EntryKind.WASTED,
        pool=startup.pool,
        models=",".join(startup.models),
        worker_id=startup.worker_id,
        ref=startup.id,
        outcome=startup.kind.value,
        seconds=round(seconds, 6),
        micros=cost_micros(seconds, price.hour_micros),
        account=price.account,
    )


async def look_after_startups(service: Service) -> int:
    """Take those for dead that were not heard of for too long; return how many.

    They have come as far as when they were heard of last: how long they would have taken is not
    known.
    """
    now = service.clock.now()
    silent = timedelta(seconds=max(service.settings.lost_s, _SILENT_S))
    lost = [
        each
        for each in await service.registry.startups(under_way=True)
        if each.seen_at is not None and now - each.seen_at > silent
    ]
    for each in lost:
        _log.warning("a starting worker stopped reporting", pool=each.pool, host=each.host)
        await _keep_if_possible(service, msgspec.structs.replace(each, state=StartupState.DIED))
    return len(lost)


async def end_startups(
    service: Service,
    host: str,
    pid: int | None,
    ended_at: datetime | None = None,
    instance: str = "",
) -> None:
    """Note that a process, or an instance, has ended: whatever it was starting has died.

    Args:
        service: The backend.
        host: Where the process ran.
        pid: The process.
        ended_at: When that was; None for now.
        instance: Its name, where it has one.
    """
    now = ended_at or service.clock.now()
    for each in await service.registry.startups(under_way=True):
        is_it = (each.host, each.pid) == (host, pid)
        if each.instance and instance:
            is_it = each.instance == instance
        if is_it and each.begun_at is not None:
            age_s = max(each.age_s, (now - each.begun_at).total_seconds())
            died = msgspec.structs.replace(each, state=StartupState.DIED, age_s=age_s)
            await _keep_if_possible(service, died)


async def list_pools(service: Service, call: Call) -> Reply:
    """`GET /v1/pools`."""
    return Reply(200, await service.starts.answer(lambda: _pools(service)))


async def _pools(service: Service) -> bytes:
    now = service.clock.now()
    startups = await service.registry.startups()
    states: dict[str, dict[str, int]] = {}
    slots: dict[str, tuple[int, int]] = {}
    for info, state, held in await service.fleet.all():
        of_pool = states.setdefault(info.pool, {})
        of_pool[state] = of_pool.get(state, 0) + 1
        if state not in ("gone", "lost"):
            may_hold, holds = slots.get(info.pool, (0, 0))
            slots[info.pool] = (may_hold + info.slots, holds + held)
    by_pool: dict[str, list[Startup]] = {}
    for each in startups:
        by_pool.setdefault(each.pool, []).append(each)
    scaled, decided = await _scaled(service)
    views = [
        PoolView(
            pool=pool,
            workers=states.get(pool, {}),
            starting=sum(s.state is StartupState.STARTING for s in by_pool.get(pool, ())),
            slots=slots.get(pool, (0, 0))[0],
            held=slots.get(pool, (0, 0))[1],
            # A history of many models takes a while, in which others are to be answered.
            times=await asyncio.to_thread(_times, by_pool.get(pool, ()), now),
            scaling=pool_scaling_view(scaled[pool], decided.get(pool)) if pool in scaled else None,
        )
        for pool in sorted({*states, *by_pool, *scaled})
    ]
    return encode(PoolList(pools=views))


async def _scaled(service: Service) -> tuple[dict[str, PoolScaling], dict[str, Decision]]:
    """Return how each pool stands that is scaled, and what was decided last about it."""
    await service.scaling.listen()
    status = service.scaling.status
    told = read(await service.registry.note(DECISIONS), list[Decision]) or []
    pools = () if status is None else status.pools
    return {each.pool: each for each in pools}, {each.about: each for each in told}


def _times(startups: Iterable[Startup], now: datetime) -> list[PhaseTimesView]:
    """Return quantiles by kind, model and phase."""
    found: dict[tuple[str, str, str], list[Observation]] = {}
    for each in startups:
        for (model, phase), seen in observations(each, now).items():
            found.setdefault((each.kind.value, model, phase), []).append(seen)
    order = {phase: place for place, phase in enumerate((*Phase, READY, WHOLE))}
    keys = sorted(found, key=lambda key: (key[0], key[1], order[key[2]]))
    return [_times_view(*key, found[key]) for key in keys]


def _times_view(
    kind: str, model: str, phase: str, observed: Sequence[Observation]
) -> PhaseTimesView:
    p50, p90, p99 = quantiles(observed, _SHARES)
    over = sum(each.is_over for each in observed)
    return PhaseTimesView(
        kind=kind,
        model=model,
        phase=phase,
        p50_s=_rounded(p50.seconds),
        p90_s=_rounded(p90.seconds),
        p99_s=_rounded(p99.seconds),
        at_least=[
            name for name, each in (("p50", p50), ("p90", p90), ("p99", p99)) if each.is_bound
        ],
        observed=over,
        not_over=len(observed) - over,
    )


def startup_view(startup: Startup) -> StartupView:
    """Return a startup as operators see it."""
    return StartupView(
        id=startup.id,
        kind=startup.kind.value,
        state=startup.state.value,
        pool=startup.pool,
        models=startup.models,
        host=startup.host,
        pid=startup.pid,
        begun_at=startup.begun_at,
        seen_at=startup.seen_at,
        ready_s=_rounded(startup.ready_s),
        whole_s=_rounded(startup.whole_s),
        spans=[
            SpanView(
                phase=each.phase,
                model=each.model or None,
                start_s=round(each.start_s, 3),
                end_s=_rounded(each.end_s),
                source=each.source,
            )
            for each in startup.spans
        ],
    )


async def list_ledger(service: Service, call: Call) -> Reply:
    """`GET /v1/ledger`."""
    query = read_query(call, LedgerQuery)
    page = await service.registry.ledger(limit=query.limit, before=query.cursor)
    views = [
        LedgerEntryView(
            id=each.id,
            at=each.at,
            kind=each.kind.value,
            pool=each.pool,
            models=each.models.split(",") if each.models else [],
            worker_id=each.worker_id or None,
            ref=each.ref,
            outcome=each.outcome,
            seconds=each.seconds,
            cost_micros=each.micros,
            key_id=each.key_id or None,
            user=each.user or None,
            attempts=each.attempts,
            images=each.images,
        )
        for each in page.entries
    ]
    return Reply(200, encode(LedgerList(entries=views, cursor=page.cursor)))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
