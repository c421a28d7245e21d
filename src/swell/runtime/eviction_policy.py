"""Which models leave the device so that another one fits. Pure.

Several models share a device whose memory holds a few of them. When it is the turn of one that is
not there, others go: first those that nobody waits for, and of these the one that was used longest
ago; never one that is at work. No more go than must. A model that is larger than the whole budget
has the device to itself.

What leaves may wait in the host's memory, which is quicker than loading anew. That has a budget of
its own, in which the one that left longest ago makes room.
"""

from collections.abc import Iterable, Sequence

import msgspec


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A model that takes memory: of the device, or of the host while it is away."""

    name: str
    size_bytes: int
    #: When it was last used; larger is later.
    used: int
    #: Whether somebody waits for it.
    is_wanted: bool = False
    #: Whether it computes at this moment.
    is_at_work: bool = False


def _order(residents: Iterable[Resident]) -> list[Resident]:
    """Return those that may leave, the first to go first."""
    idle = [each for each in residents if not each.is_at_work]
    return sorted(idle, key=lambda each: (each.is_wanted, each.used))


def leaving(size_bytes: int, residents: Sequence[Resident], budget_bytes: int) -> list[str]:
    """Return who leaves so that so many bytes more fit; all that may, if even that is too little.

    Args:
        size_bytes: Of the model that comes; 0 to only keep the budget.
        residents: Those that are on the device.
        budget_bytes: What all models together may take of it.
    """
    missing = sum(each.size_bytes for each in residents) + size_bytes - budget_bytes
    going: list[Resident] = []
    for each in _order(residents):
        if missing <= 0:
            break
        going.append(each)
        missing -= each.size_bytes
    # A large one at the end may have made a small one before it unnecessary.
    for each in reversed(going[:-1]):
        if missing + each.size_bytes <= 0:
            going.remove(each)
            missing += each.size_bytes
    return [each.name for each in going]


def next_to_leave(residents: Sequence[Resident]) -> str | None:
    """Return who leaves where the device has less memory than was thought; None if nobody may."""
    return next((each.name for each in _order(residents)), None)


def forgotten(copies: Sequence[Resident], budget_bytes: int | None) -> list[str]:
    """Return which of the models in the host's memory are given up, oldest first."""
    if budget_bytes is None:
        return []
    return leaving(0, copies, budget_bytes)
