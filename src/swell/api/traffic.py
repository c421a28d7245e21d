"""Who gets which version while versions share a model's traffic: at the door, and at the leases."""

import random
from typing import Final

import msgspec

from swell.adoption.life import Canary
from swell.adoption.traffic import canary_queue, is_in_canary, is_of_canary, queues_of
from swell.api.call import Call
from swell.api.canaries import is_canary_served
from swell.api.service import Service
from swell.registry import WorkerInfo
from swell.task import NewTask

#: Whoever cannot be told from others is another one each time.
_draw: Final = random.SystemRandom().random


def split(service: Service, call: Call, new: NewTask) -> NewTask:
    """Return a new task, in the canary's queue if it is the canary's.

    A task goes to the canary if its caller's place is within the share, a live worker has the
    canary, and the canary takes its input too: it was checked against the live version's schema.
    To be asked once of each task, and before anything is made of the queue that it waits in.
    """
    canary = service.cards.canaries.get(new.model)
    return new if canary is None else _sent(service, call, new, canary)


def suits_its_part(service: Service, call: Call, new: NewTask, raw: msgspec.Raw) -> bool:
    """Whether a new task may have another input, which fits the live version, where it waits."""
    canary = service.cards.canaries.get(new.model)
    if canary is None or not is_of_canary(new.queue):
        return True
    return service.cards.takes(f"{new.model}:{canary.version}", raw, call)


def staged_queues(service: Service, info: WorkerInfo) -> dict[str, tuple[str, ...]]:
    """Return model → the queues of it that a worker serves, of the models that were staged."""
    lives = service.cards.lives
    found = {}
    for model, version in info.models.items():
        life = lives.get(model)
        if life is not None:
            canary = life.canary
            is_served = canary is not None and is_canary_served(service, model, canary)
            found[model] = queues_of(life, version, is_canary_served=is_served)
    return found


def _sent(service: Service, call: Call, new: NewTask, canary: Canary) -> NewTask:
    model = new.model
    if (
        new.queue != model
        or not _is_in(new, canary)
        or not is_canary_served(service, model, canary)
        or not service.cards.takes(f"{model}:{canary.version}", new.input, call)
    ):
        return new
    return msgspec.structs.replace(new, queue=canary_queue(model))


def _is_in(new: NewTask, canary: Canary) -> bool:
    if canary.is_by_key:
        return is_in_canary(new.model, new.key_id, canary.share)
    if new.user is None:
        return _draw() < canary.share
    return is_in_canary(new.model, f"{new.key_id}\0{new.user}", canary.share)
