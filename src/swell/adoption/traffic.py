"""Which version a task gets while a model has a canary, and which queues a version's workers serve.

Pure. Of a model that was staged the tasks that name no version lie in two queues: in that of the
model, which the live version's workers serve, and in that of the canary's part, which the canary's
workers serve while there are any, and the live version's otherwise. So nothing that waits has to be
moved when a canary is promoted, rolled back, or loses its workers.
"""

import hashlib
from typing import Final

from swell.adoption.life import Life

#: No version can be called so.
_MARK: Final = "~canary"

_PLACES: Final = 2**64


def canary_queue(model: str) -> str:
    """Return the queue of those tasks of a model that are the canary's."""
    return f"{model}:{_MARK}"


def is_of_canary(queue: str) -> bool:
    """Whether tasks of a queue are the canary's of their model."""
    return queue.endswith(f":{_MARK}")


def asked_version(queue: str) -> str:
    """Return the version that the callers of a queue's tasks insist on; empty for none."""
    version = queue.partition(":")[2]
    return "" if version == _MARK else version


def drawn_as(life: Life, version: str) -> str:
    """Return under which name the work of a version's workers is planned: the model's for the live
    one, `owner/name:version` for another.
    """
    return life.model if version == life.live else f"{life.model}:{version}"


def is_in_canary(model: str, who: str, share: float) -> bool:
    """Whether somebody's tasks go to the canary of a model.

    Everybody has a fixed place between 0 and 1 for each model, and is in while that is below the
    share: whoever is in at 5 % is also in at 25 %.

    Args:
        model: `owner/name`.
        who: The same for all tasks that have to stay together.
        share: Of the traffic, 0 to 1.
    """
    digest = hashlib.blake2b(f"{model}\0{who}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _PLACES


def queues_of(life: Life, version: str, *, is_canary_served: bool) -> tuple[str, ...]:
    """Return the queues that workers with a version serve.

    Args:
        life: Of the model.
        version: Theirs.
        is_canary_served: Whether a live worker has the canary.
    """
    model, named = life.model, f"{life.model}:{version}"
    if version == life.live:
        has_all = life.canary is None or not is_canary_served
        return (model, named, canary_queue(model)) if has_all else (model, named)
    if life.canary is not None and version == life.canary.version:
        return named, canary_queue(model)
    return (named,)
