"""Routing between the versions of a model: of new tasks into queues, and of workers to queues."""

import random
from typing import Final

import msgspec

from swell.core.records import WorkerInfo
from swell.core.rollouts.rollout_state import Canary, canary_queue, is_in_canary, is_of_canary
from swell.core.task import NewTask
from swell.server.request import Call
from swell.server.rollouts.canary_monitor import is_canary_served, queues_served
from swell.server.service import Service

_draw: Final = random.SystemRandom().random


def split(service: Service, call: Call, new: NewTask) -> NewTask:
    """Return a new task, in the canary's queue if the canary gets it.

    The canary gets a task if the place of its user or key is within the share, a live worker has
    the canary, and the canary's schema accepts the input. Called once for each task, before its
    queue is used.
    """
    model = new.model
    canary = service.cards.canaries.get(model)
    if (
        canary is None
        or new.queue != model
        or not _is_in(new, canary)
        or not is_canary_served(service, model, canary)
        or not service.cards.takes(f"{model}:{canary.version}", new.input, call)
    ):
        return new
    return msgspec.structs.replace(new, queue=canary_queue(model))


def suits_its_part(service: Service, call: Call, new: NewTask, raw: msgspec.Raw) -> bool:
    """Whether a new task may get another input, valid for the live version, in its queue."""
    canary = service.cards.canaries.get(new.model)
    if canary is None or not is_of_canary(new.queue):
        return True
    return service.cards.takes(f"{new.model}:{canary.version}", raw, call)


def staged_queues(service: Service, info: WorkerInfo) -> dict[str, tuple[str, ...]]:
    """Return model → queues that a worker serves, for its models with stages."""
    return {
        model: queues_served(service, model, version)
        for model, version in info.models.items()
        if model in service.cards.lives
    }


def _is_in(new: NewTask, canary: Canary) -> bool:
    if canary.sticky == "key":
        return is_in_canary(new.model, new.key_id, canary.share)
    if new.user is None:
        return _draw() < canary.share
    return is_in_canary(new.model, f"{new.key_id}\0{new.user}", canary.share)
