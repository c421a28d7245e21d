"""Admission of new tasks: workers, deadlines, and cheaper fallbacks that `degrade` allows.

`POST /v1/estimate` asks the same questions as `POST /v1/tasks` and creates nothing.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from swell.core.broker_types import Rank
from swell.core.errors import Forbidden, InvalidInput, NotFound, NoWorker, SwellError, WouldExpire
from swell.core.pipeline_stages import begin, stages_ahead
from swell.core.quality_fallback import Change, reduce_input, split_metadata, with_changes
from swell.core.rollouts.rollout_state import drawn_as, is_of_canary
from swell.core.task import NewTask, Task, again
from swell.server.decoding import read_body
from swell.server.estimates.eta import Estimate
from swell.server.models.model_cards import Target
from swell.server.request import Call, Reply
from swell.server.rollouts.version_routing import suits_its_part
from swell.server.route import TASK_EXAMPLE, Body, Response, task_route
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.tasks.submit import Repeat, draft, new_task, with_webhook
from swell.server.tasks.task_schemas import (
    ChangeView,
    DegradeRequest,
    EstimateView,
    RefusalView,
    TaskRequest,
)

#: `Retry-After` of a model without workers.
_NO_WORKER_RETRY_S: Final = "10"

#: Estimates are rounded to milliseconds.
_ROUNDING_S: Final = 0.001

_replace = msgspec.structs.replace

#: Counts the tasks that come before a new one.
RankOf = Callable[[NewTask], Awaitable[Rank]]


async def check(
    service: Service,
    call: Call,
    request: TaskRequest,
    repeat: Repeat | None = None,
    *,
    place: tuple[str, int] = ("", 0),
    rank_of: RankOf | None = None,
) -> NewTask:
    """Return the task of a request after all checks except quotas.

    Args:
        service: The backend.
        call: The call.
        request: The request, or one of its batch. Its fields must be within their bounds.
        repeat: Its idempotency key; None without one.
        place: As of `submit.new_task`.
        rank_of: As of `admit`.

    Raises:
        NotFound: No such model or version.
        InvalidInput: The input does not fit the model.
        NoWorker: No worker can run it, now or soon.
        WouldExpire: It would miss its deadline.
    """
    if repeat is not None and repeat.is_known:
        # A repeat returns its task, even if a new one would be refused.
        return new_task(call, request, request.model, repeat, place)
    if call.caller.classes or request.class_name is not None:
        request = service.classes.apply(call.caller, request)
    target, new = await draft(service, call, request, repeat, place)
    admitted = await admit(service, call, request, target, new, rank_of=rank_of)
    if admitted is not new:
        service.metrics.count("swell_tasks_degraded_total", target.model)
    if request.webhook is not None:
        return await with_webhook(service, call, admitted, request.webhook, place[0])
    return admitted


async def admit(
    service: Service,
    call: Call,
    request: TaskRequest,
    target: Target,
    new: NewTask,
    *,
    rank_of: RankOf | None = None,
) -> NewTask:
    """Return a new task, or the best fallback that its caller allows if it would be refused.

    Models are tried in the order of the request. The first that meets the deadline is taken, with
    as few changes as possible.

    Args:
        service: The backend.
        call: The call.
        request: The request.
        target: Its model.
        new: Its task.
        rank_of: Counts the tasks before a new one; None asks the broker.

    Raises:
        NoWorker: No worker can run it.
        WouldExpire: It would miss its deadline.
    """
    rank_of = rank_of or service.estimates.rank_of_new
    try:
        await check_can_run(service, target, new)
        if new.start_by_s is not None or new.finish_by_s is not None:
            await check_deadline(service, new, await rank_of(new))
    except (NoWorker, WouldExpire) as refusal:
        if request.degrade is None:
            raise
        for model in dict.fromkeys([request.model, *request.degrade.models]):
            # Let other requests run.
            await asyncio.sleep(0)
            found = await _fallback(service, call, _replace(request, model=model), new, rank_of)
            if found is not None:
                fallback, changes = found
                if model != request.model:
                    changes = [Change("/model", request.model, model), *changes]
                own = None if new.metadata is None else split_metadata(new.metadata)[0]
                return _replace(fallback, metadata=with_changes(own, changes))
        refusal.detail += "; nothing that `degrade` allows would be in time either"
        raise
    return new


async def _fallback(
    service: Service, call: Call, request: TaskRequest, asked: NewTask, rank_of: RankOf
) -> tuple[NewTask, list[Change]] | None:
    """Return a request's task and its changes if it can be in time.

    Args:
        service: The backend.
        call: The call.
        request: The request, for the model of the fallback.
        asked: The task of the original request.
        rank_of: Counts the tasks before a new one.
    """
    try:
        target, new = await draft(service, call, request, None)
        await check_can_run(service, target, new)
    except (NotFound, InvalidInput, NoWorker):
        return None
    new = _replace(new, idempotency_key=asked.idempotency_key, fingerprint=asked.fingerprint)
    rank, allowed = await rank_of(new), request.degrade
    expected = await service.estimates.expected(new, rank)
    if expected is None or late_of(new, expected) is None:
        return new, []
    if allowed is None or new.finish_by_s is None:
        return None
    least, changes, left = _reduced(new, target, allowed, 0.0)
    quickest = await service.estimates.expected(least, rank)
    if not changes or quickest is None or late_of(new, quickest) is not None:
        return None
    # The time is linear in the part that is left.
    saved_s = expected.finish.median - quickest.finish.median
    spare_s = new.finish_by_s - quickest.finish.median + _ROUNDING_S
    share = min(1.0, left + (1.0 - left) * spare_s / max(_ROUNDING_S, saved_s))
    reduced, changes, _ = _reduced(new, target, allowed, share)
    try:
        service.cards.check_input(call, target, reduced.input)
    except InvalidInput:
        return None
    return (reduced, changes) if suits_its_part(service, call, new, reduced.input) else None


def _reduced(
    new: NewTask, target: Target, allowed: DegradeRequest, share: float
) -> tuple[NewTask, list[Change], float]:
    """Return a task that is reduced to a share of its steps and area, as far as allowed.

    Returns:
        The task, the changes, and the share that is left.
    """
    value: dict[str, Any] = msgspec.json.decode(new.input)
    value, changes, left = reduce_input(
        value,
        target.card.input_schema,
        share=share,
        steps=allowed.steps,
        size_px=allowed.size_px,
    )
    raw, run = msgspec.Raw(encode(value)), new.run
    if run is not None:
        # The input may decide which stage comes first.
        run = begin(run.pipeline, run.version, raw) or run
    queue = new.queue if run is None else run.stage.queue
    return _replace(new, input=raw, run=run, queue=queue), changes, left


async def check_can_run(service: Service, target: Target, new: NewTask) -> None:
    """Check that a worker has the model, or that one can be launched.

    A pipeline needs this for all stages that may run. The canary's part of a model needs it for the
    live version if no worker has the canary.

    Raises:
        NoWorker: There is no worker, and none can be launched.
    """
    if new.run is not None:
        for stage in stages_ahead(new.run, new.input):
            needed = await service.cards.target(stage.queue)
            if not service.fleet.live(needed.model, needed.needed_version):
                await _look_for_workers(service, needed)
        return
    has_workers = service.fleet.live(target.model, target.needed_version)
    canary = service.cards.canaries.get(target.model)
    if not has_workers and canary is not None and is_of_canary(new.queue):
        has_workers = service.fleet.live(target.model, canary.version)
    if not has_workers:
        await _look_for_workers(service, target)


async def check_can_run_again(service: Service, task: Task) -> None:
    """Check that a task can run again, unless the store refuses to repeat it anyway.

    Raises:
        NotFound: Its model or version no longer exists.
        NoWorker: There is no worker, and none can be launched.
    """
    if task.state.is_terminal and not task.inputs_removed:
        has_own_version = task.run is None and not is_of_canary(task.queue)
        target = await service.cards.target(task.queue if has_own_version else task.model)
        await check_can_run(service, target, again(task))


async def check_deadline(service: Service, new: NewTask, rank: Rank) -> None:
    """Check that a task starts and ends in time.

    Raises:
        WouldExpire: It would be late.
        Unavailable: The clock of this backend is wrong.
    """
    service.skew.check()
    expected = await service.estimates.expected(new, rank)
    late = None if expected is None else late_of(new, expected)
    if late is not None:
        name, allowed_s, expected_s = late
        verb = "start" if name == "start_by_s" else "end"
        retry_s = min(3600, max(1, math.ceil(expected_s - allowed_s)))
        raise WouldExpire(
            f"it would {verb} in about {expected_s:.1f} s, later than {name} = {allowed_s:g}: "
            "try again later, or allow more time",
            headers={"Retry-After": str(retry_s)},
        )


def late_of(new: NewTask, expected: Estimate) -> tuple[str, float, float] | None:
    """Return (deadline, its seconds, expected seconds) if a task would miss one, else None."""
    for name, allowed_s, expected_s in (
        ("start_by_s", new.start_by_s, expected.start.median),
        ("finish_by_s", new.finish_by_s, expected.finish.median),
    ):
        if allowed_s is not None and expected_s > allowed_s:
            return name, allowed_s, expected_s
    return None


async def _look_for_workers(service: Service, target: Target) -> None:
    model, version = target.model, target.needed_version
    # A worker may just have registered at another backend.
    await service.fleet.look_again()
    if service.fleet.live(model, version) or await _can_launch(service, model, version):
        return
    named = model if version is None else f"{model}:{version}"
    advice = "start one with `swell worker`, or try again"
    if model in service.cards.lives:
        advice = (
            "have a pool launch this version or start one with `swell worker`, or make the version "
            f"live that there is (`swell models rollout {model}:VERSION --promote`; "
            f"`swell models rollout {model}` shows them)"
        )
    raise NoWorker(
        f"no live worker has {named} and none can be started: {advice}",
        headers={"Retry-After": _NO_WORKER_RETRY_S},
    )


async def _can_launch(service: Service, model: str, version: str | None) -> bool:
    """Whether this backend or the autoscaler can launch a worker; None is any version."""
    scaling, life = service.scaling, service.cards.lives.get(model)
    is_launchable = model in service.backend.launchable()
    if life is not None and version is not None:
        if await scaling.can_launch(drawn_as(life, version)):
            return True
        # Without an autoscaler's status, pools are expected to launch the live version.
        return scaling.status is None and version == life.live and is_launchable
    if not is_launchable and not await scaling.can_launch(model):
        return False
    # A new worker has the version that requests without a version get.
    return version is None or (await service.cards.target(model)).card.version == version


@task_route(
    "POST /v1/estimate",
    Response("The estimate", EstimateView),
    body=Body(TaskRequest, example=TASK_EXAMPLE),
    errors=(Forbidden, NotFound),
)
async def show_estimate(service: Service, call: Call) -> Reply:
    """Estimate a task.

    Takes the body of `POST /v1/tasks` and creates nothing. Returns the place in the queue,
    start, end and cost, the changes that `degrade` would make, and whether and why the task
    would be refused.
    """
    request = await read_body(service, call, TaskRequest)
    return Reply(200, encode(await _estimate_view(service, call, request)))


async def _estimate_view(service: Service, call: Call, request: TaskRequest) -> EstimateView:
    request = service.classes.apply(call.caller, request)
    target, new = await draft(service, call, request, None)
    refusal: SwellError | None = None
    try:
        new = await admit(service, call, request, target, new)
    except (NoWorker, WouldExpire) as error:
        refusal = error
    rank = await service.estimates.rank_of_new(new)
    expected = await service.estimates.expected(new, rank)
    cost = service.estimates.cost_micros(new)
    if refusal is None:
        refusal = await service.quotas.would_refuse(new, cost or 0)
    target = await service.cards.target(_ref_of(service, new))
    changes = [] if new.metadata is None else split_metadata(new.metadata)[1]
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
    """Return the version that a new task gets, or its pipeline."""
    if not is_of_canary(new.queue):
        return new.queue if new.run is None else new.model
    canary = service.cards.canaries.get(new.model)
    return new.model if canary is None else f"{new.model}:{canary.version}"


def _refusal_view(error: SwellError) -> RefusalView:
    after = error.headers.get("Retry-After")
    return RefusalView(
        code=error.code,
        status=error.status,
        title=error.title,
        detail=error.detail,
        retry_after_s=None if after is None else int(after),
    )
