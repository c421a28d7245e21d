"""Matches versions of staged models with the workers that serve them. Pure.

Demand and supply are matched by queue. Workers of the live version serve `owner/name`; those of
another version serve `owner/name:version`. All workers of a model that was never staged serve its
name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from swell.core.records import WorkerInfo
from swell.core.rollouts.rollout_state import Life, asked_version, drawn_as, is_of_canary

#: A version, and the registration time of its worker as a Unix time in seconds.
Brought = tuple[str, float]

#: Time to keep workers of the previous version for a rollback, in seconds.
_KEPT_S: Final = 3600.0


def model_of(drawn: str) -> str:
    """Return the model of a queue name."""
    return drawn.partition(":")[0]


def drawn_by(lives: Mapping[str, Life], workers: Iterable[WorkerInfo]) -> Callable[[str], str]:
    """Return a function from a queue to the model or version that serves it.

    Args:
        lives: Staged models.
        workers: All workers: without a worker of the canary, the live version serves its share.
    """
    if not lives:
        return model_of
    served = {
        pair
        for each in workers
        if each.gone_at is None and not each.draining
        for pair in each.models.items()
    }

    def drawn(queue: str) -> str:
        model = model_of(queue)
        life = lives.get(model)
        if life is None:
            return model
        version = asked_version(queue) or life.live
        canary = life.canary
        if is_of_canary(queue) and canary is not None and (model, canary.version) in served:
            version = canary.version
        return drawn_as(life, version)

    return drawn


def brought_by(
    pool: str,
    workers: Iterable[WorkerInfo],
    lives: Mapping[str, Life],
    before: Mapping[str, Brought],
) -> dict[str, Brought]:
    """Return the version from the last launched worker of a pool, by model.

    Args:
        pool: Name of the pool.
        workers: Workers of any pool, including exited ones.
        lives: Staged models; others are omitted.
        before: The stored result.
    """
    found = {model: known for model, known in before.items() if model in lives}
    own = [each for each in workers if each.pool == pool and each.instance] if lives else []
    for each in sorted(own, key=lambda each: each.registered_at):
        at = each.registered_at.timestamp()
        found.update((model, (v, at)) for model, v in each.models.items() if model in lives)
    return found


def believed(brought: Mapping[str, Brought], lives: Mapping[str, Life]) -> dict[str, str]:
    """Return the version that a pool launches, if known, by model.

    A version from before the last promotion or rollback is ignored, because operators may have
    changed the pool's image.
    """
    return {
        model: version
        for model, (version, at) in brought.items()
        if at >= _live_since(lives[model])
    }


def _live_since(life: Life) -> float:
    """Return the time of the last change of the live version as a Unix time; 0 if unknown."""
    history = life.history
    for place, change in enumerate(history, 1):
        steps = (
            each.action
            for each in history[place:]
            if each.version == change.version and each.action in ("canary", "promote")
        )
        is_of_canary = change.action == "rollback" and next(steps, "") == "canary"
        if change.action in ("promote", "rollback") and not is_of_canary:
            return change.at.timestamp()
    return 0.0


def draws_of(
    models: Iterable[str],
    brought: Mapping[str, str],
    ready: Sequence[WorkerInfo],
    lives: Mapping[str, Life],
) -> tuple[str, ...]:
    """Return what the ready and future workers of a pool can serve.

    Args:
        models: Models of the pool.
        brought: Versions that it launches; the live version if unknown.
        ready: Its ready workers.
        lives: Staged models.
    """
    found = []
    for model in models:
        life = lives.get(model)
        if life is None:
            found.append(model)
            continue
        if any(each.models.get(model) == life.live for each in ready):
            found.append(model)
        found.append(drawn_as(life, brought.get(model, life.live)))
    return tuple(dict.fromkeys(found))


def leftovers(
    ready: Iterable[WorkerInfo], draws: Sequence[str], lives: Mapping[str, Life]
) -> list[WorkerInfo]:
    """Return the workers of versions that are neither live nor launched by the pool."""
    if not lives:
        return []
    return [
        each
        for each in ready
        if any(
            model in lives and drawn_as(lives[model], version) not in draws
            for model, version in each.models.items()
        )
    ]


def overdue(
    workers: Iterable[WorkerInfo], lives: Mapping[str, Life], now: datetime
) -> list[WorkerInfo]:
    """Return the leftovers that are not needed for a rollback any more."""
    return [
        each
        for each in workers
        if all(
            (now - change.at).total_seconds() > _KEPT_S
            for model in each.models
            if model in lives
            for change in lives[model].history[:1]
        )
    ]


def last_of_live(
    ready: Sequence[WorkerInfo], brought: Mapping[str, str], lives: Mapping[str, Life]
) -> frozenset[str]:
    """Return ready workers of a live version that the pool does not launch any more.

    One per model, the oldest: the pool could not replace it while there is demand.
    """
    found = set()
    for model, version in brought.items():
        live = lives[model].live
        able = [each for each in ready if each.models.get(model) == live]
        if version != live and able:
            found.add(min(able, key=lambda each: (each.registered_at, each.id)).id)
    return frozenset(found)
