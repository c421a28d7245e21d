"""Chooses the models to evict from a device, or from the host's memory. Pure.

Models without waiting tasks go first, and of these the least recently used; a model that computes
never goes. No more go than necessary. A model larger than the whole budget runs alone.
"""

from collections.abc import Iterable, Sequence

import msgspec


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A model that takes memory of the device, or of the host."""

    name: str
    size_bytes: int
    #: Order of the last use; larger is later.
    used: int
    #: Whether tasks wait for it.
    is_wanted: bool = False
    #: Whether it computes now.
    is_at_work: bool = False


def _order(residents: Iterable[Resident]) -> list[Resident]:
    """Return the models that may be evicted, in that order."""
    idle = [each for each in residents if not each.is_at_work]
    return sorted(idle, key=lambda each: (each.is_wanted, each.used))


def leaving(size_bytes: int, residents: Sequence[Resident], budget_bytes: int) -> list[str]:
    """Return the models to evict; all that may go, if even that is too little.

    Args:
        size_bytes: Size of the new model; 0 to only keep the budget.
        residents: Models on the device.
        budget_bytes: Budget of all models together.
    """
    missing = sum(each.size_bytes for each in residents) + size_bytes - budget_bytes
    going: list[Resident] = []
    for each in _order(residents):
        if missing <= 0:
            break
        going.append(each)
        missing -= each.size_bytes
    # A large model at the end may have made a small one before it unnecessary.
    for each in reversed(going[:-1]):
        if missing + each.size_bytes <= 0:
            going.remove(each)
            missing += each.size_bytes
    return [each.name for each in going]


def next_to_leave(residents: Sequence[Resident]) -> str | None:
    """Return the next model to evict, if the device ran out of memory; None if none may go."""
    return next((each.name for each in _order(residents)), None)


def forgotten(copies: Sequence[Resident], budget_bytes: int | None) -> list[str]:
    """Return the models to drop from the host's memory, the oldest first."""
    if budget_bytes is None:
        return []
    return leaving(0, copies, budget_bytes)
