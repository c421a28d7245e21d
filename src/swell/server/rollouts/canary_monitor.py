"""Monitoring of canaries: every backend adds the attempts that ended there to the shared evidence,
and rolls a canary back as soon as it is worse.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.results import is_inputs_fault
from swell.core.rollouts.canary_test import Observation, Verdict, judge, must_roll_back
from swell.core.rollouts.rollout_state import (
    Canary,
    Life,
    asked_version,
    is_of_canary,
    queues_of,
    roll_back,
)
from swell.core.task import Failed, Outcome, Succeeded, Task, TaskState
from swell.db.rollouts import add_evidence, change_life

if TYPE_CHECKING:
    from swell.server.service import Service

_log = structlog.get_logger("swell.api")

#: Observations of a canary that wait for the next check; older ones are dropped.
_MAX_WAITING: Final = 4000


class Canaries:
    """What this backend has observed since its last check of all canaries."""

    def __init__(self) -> None:
        #: Canary's id → attempts that ended since.
        self.seen: dict[str, deque[Observation]] = {}
        #: The stages that waiting workers know, and the models with workers of the canary.
        self.served_by: tuple[dict[str, Life], set[str]] = ({}, set())


def is_canary_served(service: "Service", model: str, canary: Canary) -> bool:
    """Whether a live worker has a canary; otherwise its queue is the live version's."""
    return bool(service.fleet.live(model, canary.version, within_s=lost_after_s(service)))


def queues_served(service: "Service", model: str, version: str) -> tuple[str, ...]:
    """Return the queues of a staged model that workers with a version serve."""
    life = service.cards.lives[model]
    is_served = life.canary is not None and is_canary_served(service, model, life.canary)
    return queues_of(life, version, is_canary_served=is_served)


def lost_after_s(service: "Service") -> float:
    """Return the silence after which a worker no longer counts for its version, in seconds."""
    return min(service.settings.lost_s, service.settings.alive_s)


async def look_after_canaries(service: "Service") -> None:
    """Apply stages changed by other backends, then add to the evidence and act on it."""
    await service.cards.refresh_rollouts()
    canaries = dict(service.cards.canaries)
    served = {
        model for model, canary in canaries.items() if is_canary_served(service, model, canary)
    }
    if service.canaries.served_by != (service.cards.lives, served):
        service.canaries.served_by = (service.cards.lives, served)
        # Workers that wait for tasks may serve other queues now.
        service.fleet.wake_all()
    seen, service.canaries.seen = service.canaries.seen, {}
    shares, evidences = {}, {}
    for model, canary in canaries.items():
        evidence = await add_evidence(service.registry, model, canary, seen.get(canary.id, ()))
        verdict = judge(evidence, canary.rollback)
        shares[model] = canary.share
        evidences[model, "failures"] = verdict.failures_evidence
        evidences[model, "slowness"] = verdict.slowness_evidence
        if must_roll_back(verdict, canary.rollback):
            await _roll_back(service, model, canary, verdict)
    service.metrics.values["swell_canary_share"] = shares
    service.metrics.values["swell_canary_evidence"] = evidences


async def _roll_back(service: "Service", model: str, canary: Canary, verdict: Verdict) -> None:
    now = service.clock.now()

    def change(life: Life | None) -> Life | None:
        if life is None or life.canary is None or life.canary.id != canary.id:
            return None
        return roll_back(life, who="", at=now, reason=verdict.reason)

    if await change_life(service.registry, model, change) is None:
        return
    service.metrics.count("swell_canary_rollbacks_total", model)
    _log.warning(
        "canaries: rolled back", model=model, version=canary.version, reason=verdict.reason
    )
    await tell_of_stages(service)
    target = f"{model}:{canary.version}"
    await service.audit.note_own("models.rollback", target, verdict.reason)


async def tell_of_stages(service: "Service") -> None:
    """Apply changed stages here, and notify the other backends."""
    await service.cards.refresh()
    service.fleet.wake_all()
    await service.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])


def note_settled(service: "Service", task: Task, outcome: Outcome) -> None:
    """Observe a settled attempt. Cancellations and faulty inputs do not count."""
    if isinstance(outcome, Succeeded):
        _observe(service, task, run_s=outcome.timings.run_s / max(1, task.count))
    elif isinstance(outcome, Failed) and not is_inputs_fault(outcome.error):
        _observe(service, task, has_failed=True)


def note_swept(service: "Service", task: Task, what: str) -> None:
    """Observe an attempt that lost its worker, or was too slow for the deadline."""
    is_too_slow = what == "expired" and task.state is TaskState.EXPIRED
    if task.version and (what == "lost" or is_too_slow):
        _observe(service, task, has_failed=True)


def _observe(
    service: "Service", task: Task, *, has_failed: bool = False, run_s: float = 0.0
) -> None:
    """Keep an observation for the next check.

    Only first attempts count: if a task itself makes its version fail, all its attempts fail.
    """
    life = service.cards.lives.get(task.model)
    if life is None or life.canary is None or task.tries != 1:
        return
    is_canary = is_of_canary(task.queue) and task.version == life.canary.version
    is_live = task.version == life.live and not asked_version(task.queue)
    if is_canary or is_live:
        seen = service.canaries.seen.setdefault(life.canary.id, deque(maxlen=_MAX_WAITING))
        seen.append(Observation(is_canary, has_failed, run_s))
