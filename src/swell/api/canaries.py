"""What becomes of canaries: what each backend sees of them, and what one of all makes of it."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from swell.adoption.evidence import Evidence, Observation, observe
from swell.adoption.kept import (
    change_life,
    forget_evidence,
    keep_evidence,
    read_evidence,
    read_told,
    tell,
)
from swell.adoption.life import Canary, Life, roll_back
from swell.adoption.traffic import asked_version, is_of_canary
from swell.adoption.verdict import Verdict, Word, judge
from swell.bus import MessageKind, PeerMessage
from swell.registry import AuditEntry
from swell.results import is_inputs_fault
from swell.task import Failed, Outcome, Succeeded, Task, TaskState, new_id

if TYPE_CHECKING:
    from swell.api.service import Service

_log = structlog.get_logger("swell.api")

#: What was seen is told and weighed so often, in seconds.
LOOK_EVERY_S: Final = 1.0

#: Of one model not more is told at once, of its live version half of it: what comes later is as
#: good.
_MOST_SEEN: Final = 4000


class Canaries:
    """What this process has seen of canaries and of the live versions beside them."""

    def __init__(self) -> None:
        #: Canary's id → what has ended since that was told.
        self._seen: dict[str, list[Observation]] = {}
        self._told = 0
        #: The lives by which workers were told what they serve.
        self._known: dict[str, Life] = {}
        #: The canaries' models that had workers then.
        self._served: set[str] = set()

    def have_changed_workers(self, served: set[str]) -> bool:
        """Whether other canaries have workers than when this was asked last."""
        before, self._served = self._served, served
        return before != served

    def has_changed(self, lives: dict[str, Life]) -> bool:
        """Whether stages have changed since this was asked last."""
        before, self._known = self._known, lives
        return before != lives

    def settled(self, life: Life, canary: Canary, task: Task, outcome: Outcome) -> None:
        """Note how an attempt ended, as far as that tells of its version.

        Of each task only the first try counts: what it asks may be why it fails, again and again.
        A cancellation, and what is the fault of the input, tell nothing.
        """
        if isinstance(outcome, Succeeded):
            took_s = outcome.timings.run_s / max(1, task.count)
            self._note(life, canary, task, Observation(False, False, took_s))
        elif isinstance(outcome, Failed) and not is_inputs_fault(outcome.error):
            self._note(life, canary, task, Observation(False, True))

    def lost(self, life: Life, canary: Canary, task: Task) -> None:
        """Note that the worker of an attempt was lost, or was too slow for its deadline."""
        self._note(life, canary, task, Observation(False, True))

    def _note(self, life: Life, canary: Canary, task: Task, seen: Observation) -> None:
        is_canary = is_of_canary(task.queue) and task.version == canary.version
        is_live = task.version == life.live and not asked_version(task.queue)
        if task.tries != 1 or not (is_canary or is_live):
            return
        kept = self._seen.setdefault(canary.id, [])
        if len(kept) < (_MOST_SEEN if is_canary else _MOST_SEEN // 2):
            kept.append(Observation(is_canary, seen.has_failed, seen.took_s))

    def take(self, canary: Canary) -> list[Observation]:
        """Return what was seen since this was asked last."""
        return self._seen.pop(canary.id, [])

    def forget_others(self, canaries: Iterable[Canary]) -> None:
        """Forget what was seen of all that are no canaries any more."""
        ids = {canary.id for canary in canaries}
        self._seen = {each: seen for each, seen in self._seen.items() if each in ids}

    def next_number(self, now_s: float) -> int:
        """Return a number that is larger than all before."""
        self._told = max(self._told + 1, int(now_s * 1000))
        return self._told


def is_canary_served(service: "Service", model: str, canary: Canary) -> bool:
    """Whether a worker has a canary: what waits for one that is lost has the live version."""
    return service.fleet.is_served(model, canary.version, within_s=lost_after_s(service))


def lost_after_s(service: "Service") -> float:
    """Return after which silence a worker is lost to its version, in seconds."""
    return min(service.settings.lost_s, service.settings.alive_s)


async def look_after_canaries(service: "Service") -> None:
    """Hear of changed stages, and tell what was seen; weigh it where that is this one's duty."""
    await service.cards.hear_lives()
    served = {
        model
        for model, canary in service.cards.canaries.items()
        if is_canary_served(service, model, canary)
    }
    have_changed = service.canaries.have_changed_workers(served)
    if service.canaries.has_changed(service.cards.lives) or have_changed:
        # Whoever waits for work may serve other queues now.
        service.fleet.wake_all()
    # Of one that was rolled back, or is weighed by another, nothing is told any more.
    service.metrics.canaries.clear()
    service.canaries.forget_others(service.cards.canaries.values())
    if not service.cards.canaries:
        return
    leads = await service.leadership.leads("canaries")
    for model, canary in list(service.cards.canaries.items()):
        seen = service.canaries.take(canary)
        if leads:
            await _weigh(service, model, canary, seen)
        elif seen:
            number = service.canaries.next_number(service.clock.now().timestamp())
            await tell(service.registry, model, canary.id, service.name, number, seen)


async def _weigh(
    service: "Service", model: str, canary: Canary, seen: Sequence[Observation]
) -> None:
    """Add to what is known of a canary, and roll it back where it is worse."""
    registry = service.registry
    evidence = await read_evidence(registry, model, canary.id)
    told, names = await read_told(registry, model, evidence)
    verdict = _added(evidence, [*told, *seen], canary)
    if told or seen:
        await keep_evidence(registry, model, evidence)
    if names:
        await registry.drop_notes(names)
    service.metrics.canaries[model] = (
        canary.share,
        verdict.failures_evidence,
        verdict.slowness_evidence,
    )
    if verdict.word is Word.WORSE and canary.watch.is_automatic:
        await _roll_back(service, model, canary, verdict)


def _added(evidence: Evidence, seen: Sequence[Observation], canary: Canary) -> Verdict:
    """Add observations in their order; stop where the canary is rolled back."""
    for each in seen:
        if observe(evidence, each) and canary.watch.is_automatic:
            verdict = judge(evidence, canary.watch)
            if verdict.word is Word.WORSE:
                return verdict
    return judge(evidence, canary.watch)


async def _roll_back(service: "Service", model: str, canary: Canary, verdict: Verdict) -> None:
    now, registry = service.clock.now(), service.registry

    def change(life: Life | None) -> Life | None:
        is_there = life is not None and life.canary is not None and life.canary.id == canary.id
        if life is None or not is_there:
            return None
        return roll_back(life, who="", at=now, reason=verdict.reason)

    if await change_life(registry, model, change) is None:
        return
    counts = service.metrics.rollbacks
    counts[model] = counts.get(model, 0) + 1
    entry = AuditEntry(
        id=new_id(now),
        at=now,
        key_id="",
        key_name="",
        address="",
        action="models.rollback",
        target=f"{model}:{canary.version}"[:200],
        status=200,
        detail=verdict.reason[:200],
    )
    _log.warning(
        "a canary was rolled back", model=model, version=canary.version, reason=verdict.reason
    )
    await tell_of_stages(service)
    await forget_evidence(registry, model)
    await registry.record([entry])


async def tell_of_stages(service: "Service") -> None:
    """Have all backends serve by stages that have just changed."""
    await service.cards.refresh()
    if service.canaries.has_changed(service.cards.lives):
        service.fleet.wake_all()
    await service.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])


def note_settled(service: "Service", task: Task, outcome: Outcome) -> None:
    """Note how an attempt ended, where its model has a canary."""
    canary, life = service.cards.canaries.get(task.model), service.cards.lives.get(task.model)
    if canary is not None and life is not None:
        service.canaries.settled(life, canary, task, outcome)


def note_swept(service: "Service", task: Task, what: str) -> None:
    """Note what time took from a worker, where the task's model has a canary."""
    canary, life = service.cards.canaries.get(task.model), service.cards.lives.get(task.model)
    if canary is None or life is None or not task.version:
        return
    if what == "lost" or (what == "expired" and task.state is TaskState.EXPIRED):
        service.canaries.lost(life, canary, task)
