"""Queues of a model with stages, and which version serves them. Pure.

Tasks without a version wait in two queues: the model's, served by workers of the live version, and
the canary's, served by workers of the canary, or of the live version while the canary has none. So
no waiting task moves when a canary is promoted, rolled back, or loses its workers.
"""

import hashlib
from typing import Final

from swell.adoption.life import Life

#: No version can have this name.
_CANARY: Final = "~canary"


def canary_queue(model: str) -> str:
    """Return the queue of a model's canary."""
    return f"{model}:{_CANARY}"


def is_of_canary(queue: str) -> bool:
    """Whether a queue is that of its model's canary."""
    return queue.endswith(f":{_CANARY}")


def asked_version(queue: str) -> str:
    """Return the version that tasks in a queue name; empty for none."""
    version = queue.partition(":")[2]
    return "" if version == _CANARY else version


def drawn_as(life: Life, version: str) -> str:
    """Return the name under which the autoscaler plans a version: `owner/name` if it is live."""
    return life.model if version == life.live else f"{life.model}:{version}"


def is_in_canary(model: str, who: str, share: float) -> bool:
    """Whether the tasks of a user or key go to the canary.

    A hash gives each of them a fixed place between 0 and 1 for each model; the canary gets those
    below its share. So a larger share keeps the users of a smaller one.

    Args:
        model: `owner/name`.
        who: The user or key.
        share: Of the traffic, 0 to 1.
    """
    digest = hashlib.blake2b(f"{model}\0{who}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def queues_of(life: Life, version: str, *, is_canary_served: bool) -> tuple[str, ...]:
    """Return the queues that workers with a version serve.

    Args:
        life: Stages of the model.
        version: Version of the workers.
        is_canary_served: Whether a live worker has the canary.
    """
    model, named = life.model, f"{life.model}:{version}"
    is_canary = life.canary is not None and version == life.canary.version
    if version == life.live and (life.canary is None or not is_canary_served):
        return model, named, canary_queue(model)
    if version == life.live:
        return model, named
    return (named, canary_queue(model)) if is_canary else (named,)
