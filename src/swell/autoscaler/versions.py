"""Which versions of staged models pools bring, and whose workers are supply for what. Pure.

What waits goes by who serves its queue. What the live version's workers serve stands under
`owner/name`, what those of another version serve under `owner/name:version`. Of a model that nobody
has staged all stands under its name, whichever version its workers have.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from swell.core.records import WorkerInfo
from swell.core.rollouts.rollout_state import Life, asked_version, drawn_as, is_of_canary

#: A version, and when the worker that brought it registered, in seconds since 1970.
Brought = tuple[str, float]

#: Workers of a version that was left stay so long, to go back to it, in seconds.
_KEPT_S: Final = 3600.0


def model_of(drawn: str) -> str:
    """Return the model of a queue, or of what workers draw."""
    return drawn.partition(":")[0]


def drawn_by(lives: Mapping[str, Life], workers: Iterable[WorkerInfo]) -> Callable[[str], str]:
    """Return what tells of a queue as what it is drawn.

    Args:
        lives: Of the models that were staged.
        workers: All of them: while nobody has a canary, its part is the live version's.
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
    """Return model → what the last worker launched in a pool has brought.

    Args:
        pool: Which one.
        workers: Of any pool, those that have gone included.
        lives: Of the models that were staged: of others it does not matter.
        before: The same as it was remembered.
    """
    found = {model: known for model, known in before.items() if model in lives}
    own = [each for each in workers if each.pool == pool and each.instance] if lives else []
    for each in sorted(own, key=lambda each: each.registered_at):
        at = each.registered_at.timestamp()
        found.update((model, (v, at)) for model, v in each.models.items() if model in lives)
    return found


def believed(brought: Mapping[str, Brought], lives: Mapping[str, Life]) -> dict[str, str]:
    """Return model → the version that a pool brings, as far as that is known.

    Since another version was made live, people may have changed what the pool launches: what it
    brings is found out anew.
    """
    return {
        model: version
        for model, (version, at) in brought.items()
        if at >= _live_since(lives[model])
    }


def _live_since(life: Life) -> float:
    """Return when the live version last changed, in seconds since 1970; 0 if never, as is known."""
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
    """Return what workers of a pool can draw: those that are there, and those that it launches.

    Args:
        models: Of the pool, by name.
        brought: What it brings; the live version, where that is not known.
        ready: Its workers.
        lives: Of the models that were staged.
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
    """Return the workers that are no supply: of a version that is not live, nor launched there."""
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
    """Return the leftovers to which nobody has gone back for long enough."""
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
    """Return the workers that a pool could not launch again while something is asked of it.

    One for each model whose live version it does not bring any more: the first that came.
    """
    found = set()
    for model, version in brought.items():
        live = lives[model].live
        able = [each for each in ready if each.models.get(model) == live]
        if version != live and able:
            found.add(min(able, key=lambda each: (each.registered_at, each.id)).id)
    return frozenset(found)
