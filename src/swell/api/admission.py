"""What is decided before a task is accepted: whether it would be in time, what it would cost, and
how it is made cheaper where its caller allows that rather than be refused.

`POST /v1/estimate` asks the same questions as `POST /v1/tasks` and makes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from swell.adoption.traffic import is_of_canary
from swell.api.call import Call, Reply
from swell.api.cards import Target
from swell.api.drafts import Repeat, new_task, prepared
from swell.api.eta import Estimate
from swell.api.feasible import check_can_run, check_deadline, late_of
from swell.api.messages import (
    ChangeView,
    DegradeRequest,
    EstimateView,
    RefusalView,
    TaskRequest,
)
from swell.api.reading import Reader, check_json
from swell.api.service import Service
from swell.api.traffic import split, suits_its_part
from swell.api.views import encode
from swell.broker import Rank
from swell.degrade import FIXED, Change, milder, split_metadata, time_share, with_changes
from swell.errors import InvalidInput, NotFound, NoWorker, SwellError, WouldExpire
from swell.stages import begin
from swell.task import NewTask

_request = Reader(TaskRequest)
_replace = msgspec.structs.replace

#: How what comes before a task is counted.
RankOf = Callable[[NewTask], Awaitable[Rank]]


async def degraded(
    service: Service,
    call: Call,
    request: TaskRequest,
    repeat: Repeat | None,
    refusal: SwellError,
    *,
    place: tuple[str, int] = ("", 0),
    rank_of: RankOf | None = None,
) -> NewTask:
    """Return the best task that its caller accepts instead of one that is refused.

    Of each model in the order of the request the first that can be in time is taken, changed as
    little as is needed.

    Args:
        service: Who takes it.
        call: Who asks.
        request: What is asked.
        repeat: What its idempotency key says; None without one.
        refusal: Why it is refused as it is.
        place: As of `drafts.new_task`.
        rank_of: Counts what comes before a task; the broker where it is None.

    Raises:
        NoWorker: As `refusal`: nothing that is allowed helps.
        WouldExpire: As `refusal`.
    """
    allowed = request.degrade
    if allowed is None:
        raise refusal
    own = request.model
    count = rank_of or service.rank_of_new
    for model in dict.fromkeys([own, *allowed.models]):
        # Let other tasks run between two checks.
        await asyncio.sleep(0)
        try:
            target = await service.cards.target(model)
            service.cards.check_input(call, target, request.input, place[0] + "/input")
            new = new_task(call, request, target.queue, repeat, place)
            new = split(service, call, prepared(service, new, target, place[0]))
            await check_can_run(service, target, new)
        except (NotFound, InvalidInput, NoWorker):
            continue
        changes = [] if model == own else [Change("/model", own, model)]
        found = await _fitting(service, call, new, target, allowed, changes, count)
        if found is not None:
            return found
    raise _sharpened(refusal)


async def _fitting(
    service: Service,
    call: Call,
    new: NewTask,
    target: Target,
    allowed: DegradeRequest,
    changes: list[Change],
    rank_of: RankOf,
) -> NewTask | None:
    """Return a task of one model that is in time, changed as little as is needed; or None."""
    expected = await service.expected(new, await rank_of(new))
    if expected is None or late_of(new, expected) is None:
        return _with(new, None, changes)
    fixed = service.fixed_share(new)
    share = _needed_share(new, expected, fixed)
    if share is None:
        return None
    value: dict[str, Any] = msgspec.json.decode(new.input)
    mild, more, left = milder(
        value,
        target.card.input_schema,
        share=share,
        steps=allowed.steps,
        size_px=allowed.size_px,
    )
    if not more or late_of(new, _quicker(expected, left, fixed)) is not None:
        return None
    try:
        raw = msgspec.Raw(encode(mild))
        service.cards.check_input(call, target, raw)
    except InvalidInput:
        return None
    if not suits_its_part(service, call, new, raw):
        return None
    return _with(new, raw, [*changes, *more])


def _needed_share(new: NewTask, expected: Estimate, fixed: float) -> float | None:
    """Return how much of what is asked for can be drawn in time; None where nothing can."""
    start_s, own_s = expected.start.median, expected.finish.median - expected.start.median
    if new.start_by_s is not None and start_s > new.start_by_s:
        return None
    if new.finish_by_s is None or own_s <= 0:
        return None
    share = ((new.finish_by_s - start_s) / own_s - fixed) / (1.0 - fixed)
    return min(1.0, share) if share > 0 else None


def _quicker(expected: Estimate, share: float, fixed: float = FIXED) -> Estimate:
    """Return the estimate of a task that draws a share of what was asked for."""
    saved = 1.0 - time_share(share, fixed)
    start, finish = expected.start, expected.finish
    return Estimate(
        start=start,
        finish=_replace(
            finish,
            low=round(finish.low - saved * (finish.low - start.low), 3),
            median=round(finish.median - saved * (finish.median - start.median), 3),
            high=round(finish.high - saved * max(0.0, finish.high - start.high), 3),
        ),
    )


def _with(new: NewTask, raw: msgspec.Raw | None, changes: list[Change]) -> NewTask:
    if not changes:
        return new
    own = None if new.metadata is None else split_metadata(new.metadata)[0]
    changed = _replace(new, metadata=with_changes(own, changes))
    if raw is None:
        return changed
    run = new.run
    # Which stage is the first may hang on what has changed.
    run = None if run is None else begin(run.pipeline, run.version, raw) or run
    return _replace(changed, input=raw, run=run, queue=run.stage.queue if run else new.queue)


def _sharpened(refusal: SwellError) -> SwellError:
    refusal.detail += "; nothing that `degrade` allows would be in time either"
    return refusal


async def show_estimate(service: Service, call: Call) -> Reply:
    """`POST /v1/estimate`."""
    body = await call.body(service.settings.server.max_body_bytes)
    header = call.header(b"content-type")
    if header is not None and header != b"application/json":
        check_json(call)
    request: TaskRequest = _request.read(body)
    return Reply(200, encode(await _estimate_view(service, call, request)))


async def _estimate_view(service: Service, call: Call, request: TaskRequest) -> EstimateView:
    """Return what would become of a request.

    Raises:
        NotFound: No such model or version.
        InvalidInput: The input does not fit the model.
    """
    request = service.classes.apply(call.caller, request)
    target = await service.cards.target(request.model)
    service.cards.check_input(call, target, request.input)
    new = new_task(call, request, target.queue, None)
    new = split(service, call, prepared(service, new, target))
    rank = await service.rank_of_new(new)
    refusal: SwellError | None = None
    try:
        await check_can_run(service, target, new)
        await check_deadline(service, new, rank)
    except (NoWorker, WouldExpire) as error:
        try:
            new = await degraded(service, call, request, None, error)
            rank = await service.rank_of_new(new)
        except (NoWorker, WouldExpire) as still:
            refusal = still
    target = await service.cards.target(_ref_of(service, new))
    changes = [] if new.metadata is None else split_metadata(new.metadata)[1]
    expected = await service.expected(new, rank)
    # What was changed is known already where it is known how much tasks of the model draw.
    share = 1.0 if service.weighs_drawn(new) else _drawn_share(changes)
    if expected is not None and share < 1.0:
        expected = _quicker(expected, share)
    cost = service.expected_micros(new, time_share(share))
    if refusal is None:
        refusal = await service.quotas.would_refuse(new, cost or 0)
    return EstimateView(
        is_accepted=refusal is None,
        refusal=None if refusal is None else _refusal_view(refusal),
        model=new.model,
        version=target.card.version,
        input=new.input,
        priority=new.priority,
        degraded=[
            ChangeView(field=each.field, before=each.before, after=each.after) for each in changes
        ],
        position=rank.ahead + 1,
        start_s=None if expected is None else expected.start,
        finish_s=None if expected is None else expected.finish,
        cost_micros=cost,
        workers=len(service.fleet.live(new.stage_model)),
    )


def _ref_of(service: Service, new: NewTask) -> str:
    """Return what names the version that a new task gets, or its pipeline."""
    canary = service.cards.canaries.get(new.model)
    if canary is not None and is_of_canary(new.queue):
        return f"{new.model}:{canary.version}"
    return new.queue if new.run is None and not is_of_canary(new.queue) else new.model


def _drawn_share(changes: list[Change]) -> float:
    """Return how much of what was asked for is drawn after some changes."""
    share = 1.0
    for each in changes:
        if each.field.startswith("/input/"):
            share *= each.after / each.before
    return share


def _refusal_view(error: SwellError) -> RefusalView:
    after = error.headers.get("Retry-After")
    return RefusalView(
        code=error.code,
        status=error.status,
        title=error.title,
        detail=error.detail,
        retry_after_s=None if after is None else int(after),
    )
