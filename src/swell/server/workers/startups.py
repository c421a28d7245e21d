"""Cold starts, restarts and switches: stored, counted, charged, and summed up for operators.

Late and repeated reports change nothing: only the furthest state of each startup counts.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from msgspec.structs import replace

from swell.core.billing.ledger import EntryKind, LedgerEntry, cost_micros
from swell.core.errors import InvalidInput, SwellError
from swell.core.kaplan_meier import Observation, quantiles
from swell.core.records import KeptStartup, Scope, WorkerInfo
from swell.core.startup_phases import (
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
from swell.protocol.autoscaler_messages import DECISIONS, Decision, read
from swell.protocol.worker_messages import Registration, StartingAnswer
from swell.server.auth import check_worker
from swell.server.billing.billing_schemas import LedgerEntryView, LedgerList, LedgerQuery
from swell.server.decoding import read_body, read_query
from swell.server.models.model_cards import is_model_name
from swell.server.request import Call, Reply
from swell.server.route import Response, admin_route, worker_route
from swell.server.serializers import encode, project, rounded
from swell.server.service import Service
from swell.server.workers.worker_schemas import (
    PhaseTimesView,
    PoolList,
    PoolScalingView,
    PoolView,
    SpanView,
    StartupView,
)

_log = structlog.get_logger("swell.api")

_SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

#: A worker that imports and loads can rarely report: shorter silence is normal, in seconds.
_SILENT_S: Final = 10.0

#: Limit of the startups in one report.
_MOST_REPORTED: Final = 64

_UNDER_WAY: Final = (StartupState.STARTING, StartupState.DIED)

#: Phases that are counted when a cold start is ready, and those after its first outcome.
_UNTIL_READY: Final = frozenset({*Phase, READY} - {Phase.FIRST_TASK})
_UNTIL_DONE: Final = frozenset({Phase.FIRST_TASK, WHOLE})


@worker_route(
    "POST /worker/v1/starting",
    Response("The reporting interval", StartingAnswer),
    body=Startup,
    audit="workers.starting",
)
async def starting(service: Service, call: Call) -> Reply:
    """Report the progress of a starting worker.

    Reports the phases so far, or a failed start. A ready worker registers, and reports its cold
    start with that.
    """
    told = await read_body(service, call, Startup)
    check_worker(call.caller, told.pool, told.models)
    for name in told.models:
        if not is_model_name(name):
            raise InvalidInput(
                f"{name[:120]!r} cannot be a model's name: use owner/name, each of at most 100 "
                "letters, digits, '-', '_' and '.'"
            )
    # A worker is ready only once it has registered.
    state = told.state if told.state in _UNDER_WAY else StartupState.STARTING
    kept = replace(told, state=state, kind=StartupKind.COLD, worker_id="")
    kept = accepted(kept, service.clock.now())
    service.starts.admit(kept)
    is_new = await _keep(service, kept)
    call.of_others = is_new and Scope.ADMIN in call.caller.scopes
    call.target, call.about = told.id, f"in pool {told.pool!r}"
    return Reply(200, encode(StartingAnswer(tell_every_s=service.settings.delivery.heartbeat_s)))


def account_told(told: Registration, now: datetime) -> tuple[str, datetime]:
    """Return the account of a worker's time, and the start of its bill.

    Both are those of its cold start, which it reports again if it registers again. Without a valid
    cold start, the account is its instance (empty for its own id), and the bill starts now.
    """
    if told.startup is not None:
        with contextlib.suppress(InvalidInput):
            startup = accepted(told.startup, now)
            return startup.id, startup.begun_at or now
    return told.instance, now


async def keep_startups(
    service: Service, reported: Sequence[Startup], info: WorkerInfo, *, is_ready: bool = False
) -> None:
    """Keep the startups that a registered worker reports, except invalid ones.

    Args:
        service: The backend.
        reported: The startups.
        info: The worker.
        is_ready: Whether they are ready, since the worker registers with them.
    """
    for each in reported[:_MOST_REPORTED]:
        own = [model for model in each.models if model in info.models]
        startup = replace(
            each,
            state=StartupState.READY if is_ready and each.state in _UNDER_WAY else each.state,
            pool=info.pool,
            models=own or sorted(info.models),
            device=info.device,
            host=info.host,
            pid=info.pid,
            worker_id=info.id,
        )
        try:
            startup = accepted(startup, service.clock.now())
        except InvalidInput as error:
            _log.warning("startups: invalid report", worker_id=info.id, detail=error.detail)
        else:
            await _try_to_keep(service, startup, info)


async def _try_to_keep(service: Service, startup: Startup, info: WorkerInfo | None = None) -> None:
    """Keep a startup; log and count an error. A later report makes up for it."""
    try:
        await _keep(service, startup, info)
    except Exception as error:
        service.metrics.count("swell_duty_failures_total", "startups")
        bug = None if isinstance(error, SwellError) else error
        _log.warning("startups: cannot write", id=startup.id, error=repr(error), exc_info=bug)


async def _keep(service: Service, startup: Startup, info: WorkerInfo | None = None) -> bool:
    """Keep a startup, count and charge its progress, and return whether it is new.

    Args:
        service: The backend.
        startup: With its `begun_at`.
        info: Its worker; None before it has registered.
    """
    kept = await service.registry.put_startup(
        startup, lambda before: _entry(service, startup, before, info)
    )
    if kept.charged is not None:
        service.charges.note([kept.charged])
    if startup.kind is StartupKind.COLD:
        service.metrics.know_pool(startup.pool)
        if _is_step(startup, kept.before):
            _count(service, startup, kept)
    return kept.before is None


def _is_step(startup: Startup, before: Startup | None) -> bool:
    """Return whether a cold start has come further."""
    return is_further(startup.state, StartupState.STARTING if before is None else before.state)


def _count(service: Service, startup: Startup, kept: KeptStartup) -> None:
    """Count progress. A startup that was charged and deleted before was counted then."""
    metrics, entry = service.metrics, kept.charged
    phases: frozenset[str] = frozenset()
    if entry is not None:
        metrics.count("swell_cold_starts_total", (startup.pool, entry.outcome))
        phases |= _UNTIL_READY if entry.outcome == "ready" else frozenset()
    if startup.state is StartupState.DONE and (entry is not None or kept.before is not None):
        phases |= _UNTIL_DONE
    for (model, phase), seen in observations(startup, service.clock.now()).items():
        if phase in phases and seen.is_over:
            labels = (startup.pool, model, phase)
            metrics.observe(labels, swell_cold_start_seconds=seen.seconds)


def _entry(
    service: Service, startup: Startup, before: Startup | None, info: WorkerInfo | None
) -> LedgerEntry | None:
    """Return the charge of a startup, given its last known state.

    A cold start is charged once, when it is ready or dead; if it was thought dead and is ready, the
    rest. Restarts and switches are waste.
    """
    now, tariffs, pool = service.clock.now(), service.tariffs, startup.pool
    account, hour_micros = startup.id, tariffs.now_micros(pool)
    launch_micros = tariffs.launch_micros(pool)
    if info is not None:
        info = tariffs.priced(info)
        account, hour_micros = info.account or info.id, tariffs.hour_micros(info)
        launch_micros = info.launch_micros
    if startup.kind is StartupKind.COLD:
        if not _is_step(startup, before):
            return None
        is_dead = startup.state is StartupState.DIED
        kind, outcome = EntryKind.COLD_START, "died" if is_dead else "ready"
        seconds = startup.age_s if is_dead or startup.ready_s is None else startup.ready_s
        if before is not None and before.state is StartupState.DIED:
            seconds, launch_micros = seconds - before.age_s, 0
    else:
        if info is None or startup.state is StartupState.STARTING:
            return None
        kind, outcome, launch_micros = EntryKind.WASTED, startup.kind.value, 0
        # It cannot take longer than its worker has lived.
        seconds = min(startup.age_s, (now - info.registered_at).total_seconds())
    micros = cost_micros(seconds, hour_micros)
    return LedgerEntry(
        id=f"{startup.id}-{outcome}",
        at=now,
        kind=kind,
        pool=pool,
        models=",".join(startup.models),
        worker_id=startup.worker_id,
        ref=startup.id,
        outcome=outcome,
        seconds=round(seconds, 6),
        micros=None if micros is None else micros + launch_micros,
        account=account,
    )


async def expire_startups(service: Service) -> int:
    """Mark startups as dead that have not reported for too long; return their number.

    Their age is that of their last report, a lower bound of their duration.
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
        await _try_to_keep(service, replace(each, state=StartupState.DIED))
    return len(lost)


async def end_startups(service: Service, instances: Container[str]) -> None:
    """Mark the startups of instances that have ended as dead."""
    now = service.clock.now()
    for each in await service.registry.startups(under_way=True):
        if each.instance in instances and each.begun_at is not None:
            age_s = max(each.age_s, (now - each.begun_at).total_seconds())
            await _try_to_keep(service, replace(each, state=StartupState.DIED, age_s=age_s))


@admin_route("GET /v1/pools", Response("Pools by name", PoolList))
async def list_pools(service: Service, call: Call) -> Reply:
    """List pools, with start times of their workers."""
    return Reply(200, await service.starts.answer(lambda: _pools(service)))


async def _pools(service: Service) -> bytes:
    now, registry = service.clock.now(), service.registry
    startups: dict[str, list[Startup]] = {}
    for each in await registry.startups():
        startups.setdefault(each.pool, []).append(each)
    workers: dict[str, list[tuple[WorkerInfo, str, int]]] = {}
    for info, state, held in await service.fleet.all():
        workers.setdefault(info.pool, []).append((info, state, held))
    await service.scaling.listen()
    status = service.scaling.status
    scaled = {} if status is None else {each.pool: each for each in status.pools}
    decisions = read(await registry.note(DECISIONS), list[Decision]) or []
    decided = {each.about: each for each in decisions}
    views = []
    for pool in sorted({*workers, *startups, *scaled}):
        own, started = workers.get(pool, []), startups.get(pool, [])
        live = [(info, held) for info, state, held in own if state not in ("gone", "lost")]
        scaling = None
        if pool in scaled:
            scaling = project(PoolScalingView, scaled[pool], decision=decided.get(pool))
        view = PoolView(
            pool=pool,
            workers=Counter(state for _, state, _ in own),
            starting=sum(each.state is StartupState.STARTING for each in started),
            slots=sum(info.slots for info, _ in live),
            held=sum(held for _, held in live),
            # With many models this would block the event loop.
            times=await asyncio.to_thread(_times, started, now),
            scaling=scaling,
        )
        views.append(view)
    return encode(PoolList(pools=views))


def _times(startups: Iterable[Startup], now: datetime) -> list[PhaseTimesView]:
    """Return quantiles by kind, model and phase."""
    found: dict[tuple[str, str, str], list[Observation]] = {}
    for each in startups:
        for (model, phase), seen in observations(each, now).items():
            found.setdefault((each.kind.value, model, phase), []).append(seen)
    order = {phase: place for place, phase in enumerate((*Phase, READY, WHOLE))}
    views = []
    for kind, model, phase in sorted(found, key=lambda key: (key[0], key[1], order[key[2]])):
        observed = found[kind, model, phase]
        at = dict(zip(_SHARES, quantiles(observed, [*_SHARES.values()]), strict=True))
        over = sum(each.is_over for each in observed)
        view = PhaseTimesView(
            kind=kind,
            model=model,
            phase=phase,
            p50_s=rounded(at["p50"].seconds),
            p90_s=rounded(at["p90"].seconds),
            p99_s=rounded(at["p99"].seconds),
            at_least=[name for name, each in at.items() if each.is_bound],
            observed=over,
            not_over=len(observed) - over,
        )
        views.append(view)
    return views


def startup_view(startup: Startup) -> StartupView:
    """Return a startup as operators see it."""
    spans = [
        project(
            SpanView,
            each,
            model=each.model or None,
            start_s=round(each.start_s, 3),
            end_s=rounded(each.end_s),
        )
        for each in startup.spans
    ]
    ready_s, whole_s = rounded(startup.ready_s), rounded(startup.whole_s)
    return project(StartupView, startup, ready_s=ready_s, whole_s=whole_s, spans=spans)


@admin_route("GET /v1/ledger", Response("Entries, latest first", LedgerList), query=LedgerQuery)
async def list_ledger(service: Service, call: Call) -> Reply:
    """List the ledger of machine time."""
    query = read_query(call, LedgerQuery)
    await service.charges.keep()
    page = await service.registry.ledger(limit=query.limit, before=query.cursor)
    views = [
        project(
            LedgerEntryView,
            each,
            models=each.models.split(",") if each.models else [],
            worker_id=each.worker_id or None,
            cost_micros=each.micros,
            key_id=each.key_id or None,
            user=each.user or None,
        )
        for each in page.entries
    ]
    return Reply(200, encode(LedgerList(entries=views, cursor=page.cursor)))
