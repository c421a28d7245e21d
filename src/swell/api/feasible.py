"""Whether somebody can run a new task, and whether it would be in time."""

from typing import Final

from swell.adoption.traffic import is_of_canary
from swell.api.cards import Target
from swell.api.eta import Estimate, retry_after_s
from swell.api.service import Service
from swell.broker import Rank
from swell.errors import NoWorker, WouldExpire
from swell.stages import stages_ahead
from swell.task import NewTask, Task, again

#: After how many seconds a caller may ask again for a model that nobody serves.
_NO_WORKER_RETRY_S: Final = "10"


async def check_can_run(service: Service, target: Target, new: NewTask) -> None:
    """Check that a worker has a model, or one that has it can be started.

    Of a pipeline that goes for the models of all stages that may run, and of what is the canary's
    part for the live version where no worker has the canary.

    Raises:
        NoWorker: Neither is so.
    """
    if new.run is None:
        if not _has_canary(service, new.queue):
            await _check_is_served(service, target)
        return
    for stage in stages_ahead(new.run, new.input):
        await _check_is_served(service, await service.cards.target(stage.queue))


async def check_can_run_again(service: Service, task: Task) -> None:
    """Check that a task which is to be repeated can run, as far as it can be repeated at all.

    Raises:
        NotFound: Its model or version is there no more.
        NoWorker: No worker has it, and none that has it can be started.
    """
    if not task.state.is_terminal or task.inputs_removed:
        # The store says why not.
        return
    asks_none = task.run is not None or is_of_canary(task.queue)
    target = await service.cards.target(task.model if asks_none else task.queue)
    await check_can_run(service, target, again(task))


async def check_deadline(service: Service, new: NewTask, rank: Rank) -> None:
    """Check that a task with this before it would start and end in time.

    Raises:
        WouldExpire: It would not.
        Unavailable: This backend cannot tell, since its clock is wrong.
    """
    service.skew.check()
    expected = await service.expected(new, rank)
    late = None if expected is None else late_of(new, expected)
    if late is not None:
        name, allowed_s, expected_s = late
        verb = "start" if name == "start_by_s" else "end"
        raise WouldExpire(
            f"it would {verb} in about {expected_s:.1f} s, later than {name} = {allowed_s:g}: "
            "try again later, or allow more time",
            headers={"Retry-After": str(retry_after_s(expected_s, allowed_s))},
        )


def late_of(new: NewTask, expected: Estimate) -> tuple[str, float, float] | None:
    """Return the deadline that a task would miss, its seconds and those expected; None if none."""
    for name, allowed_s, expected_s in (
        ("start_by_s", new.start_by_s, expected.start.median),
        ("finish_by_s", new.finish_by_s, expected.finish.median),
    ):
        if allowed_s is not None and expected_s > allowed_s:
            return name, allowed_s, expected_s
    return None


def _has_canary(service: Service, queue: str) -> bool:
    """Whether a queue is a canary's that a live worker has."""
    model = queue.partition(":")[0]
    canary = service.cards.canaries.get(model) if is_of_canary(queue) else None
    return canary is not None and service.fleet.is_served(model, canary.version)


async def _check_is_served(service: Service, target: Target) -> None:
    needed = target.needed_version
    if service.fleet.is_served(target.model, needed):
        return
    # One that has just registered at another backend may not have been heard of here.
    await service.fleet.look_again()
    if service.fleet.is_served(target.model, needed):
        return
    if await service.can_launch(target.model, needed):
        return
    named = target.model if needed is None else f"{target.model}:{needed}"
    advice = "start one with `swell worker`, or try again"
    if target.model in service.cards.lives:
        advice = (
            "have a pool launch this version or start one with `swell worker`, or make the version "
            f"live that there is (`swell models rollout {target.model}:VERSION --promote`; "
            f"`swell models rollout {target.model}` shows them)"
        )
    raise NoWorker(
        f"no live worker has {named} and none can be started: {advice}",
        headers={"Retry-After": _NO_WORKER_RETRY_S},
    )
