"""How machines have ended. Pure.

Each has one end, told once: what it was told to end for, what its worker said before it went, and
what its provider knows of its process are put together.
"""

from swell.core.provider import Instance
from swell.core.records import WorkerInfo
from swell.protocol.autoscaler_messages import (
    CANCELLED,
    CUT_SHORT,
    DRAINED,
    FAILED,
    LOST,
    TAKEN_BACK,
)


def fate_of(
    machine: Instance,
    worker: WorkerInfo | None,
    *,
    order: str | None = None,
    is_overdue: bool = False,
    may_hold: bool = True,
) -> str:
    """Return how a machine has ended: one of `swell.protocol.autoscaler_messages.ENDS`.

    Args:
        machine: One that has ended.
        worker: The last that it had.
        order: What it was told to end for: the end that this would be; empty where that depends on
            its worker, None where it was not told.
        is_overdue: Whether it should have been gone by now.
        may_hold: Whether its worker may have held tasks when it was heard of last.
    """
    if order == TAKEN_BACK:
        return TAKEN_BACK
    if worker is None:
        return order or (FAILED if order is None else CANCELLED)
    if worker.said_goodbye:
        is_crash = bool(machine.exit_code) and order is None and not worker.draining
        return LOST if is_crash else DRAINED
    if order == LOST:
        return LOST
    is_unheard = machine.exit_code is None and worker.draining and not may_hold
    if machine.exit_code == 0 or is_unheard:
        return DRAINED  # only its goodbye was not heard
    was_ended = order is not None and is_overdue and worker.gone_at is None
    return CUT_SHORT if was_ended else LOST
