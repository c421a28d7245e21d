"""Classifies the end of a machine. Pure.

Combines the reason of its termination, the last report of its worker, and the provider's knowledge
of its process.
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
    """Return the kind of an end: one of `swell.protocol.autoscaler_messages.ENDS`.

    Args:
        machine: An ended machine.
        worker: Its last worker.
        order: Expected kind of end, if it was terminated; empty if that depends on the worker, None
            if it was not terminated.
        is_overdue: Whether the deadline of the termination has passed.
        may_hold: Whether the worker may have held tasks at its last heartbeat.
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
        return DRAINED  # only the goodbye was lost
    was_ended = order is not None and is_overdue and worker.gone_at is None
    return CUT_SHORT if was_ended else LOST
