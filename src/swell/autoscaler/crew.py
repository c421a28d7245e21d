"""Who is who in a pool: machines as its provider lists them, workers as the registry does. Pure.

A machine without a worker boots. A worker without a machine was started by somebody, or by a
controller whose processes this one cannot see: it counts, and is let go only where it was launched.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from swell.core.provider import Instance, InstanceState
from swell.core.records import WorkerInfo


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """The machines and workers of one pool, each in one place."""

    #: Workers that take tasks.
    ready: Sequence[WorkerInfo] = ()
    #: Workers that finish what they hold and go.
    draining: Sequence[WorkerInfo] = ()
    #: Workers that are not heard of, though they have not gone.
    silent: Sequence[WorkerInfo] = ()
    #: Workers whose machine has ended, and of whom the registry does not know that.
    orphaned: Sequence[WorkerInfo] = ()
    #: Worker that is ready → when its machine was asked for, as far as that is listed.
    since: Mapping[str, datetime] = {}
    #: Machines of which no worker has registered yet, the oldest first.
    booting: Sequence[Instance] = ()
    #: Machines that were told to end and have no worker any more.
    leaving: Sequence[Instance] = ()
    #: Machines that were told to end, and of which their provider does not say that they do.
    unheeded: Sequence[Instance] = ()
    #: Machines whose worker has gone, with when.
    left: Sequence[tuple[Instance, datetime]] = ()
    #: Machines that have ended, with the last worker that each had.
    ended: Sequence[tuple[Instance, WorkerInfo | None]] = ()

    @property
    def machine_ids(self) -> frozenset[str]:
        """The machines that are listed, or whose workers are."""
        workers = (*self.ready, *self.draining, *self.silent, *self.orphaned)
        machines = (*self.booting, *self.leaving)
        pairs = (*self.left, *self.ended)
        return frozenset(
            (
                *(each.instance for each in workers),
                *(each.id for each in machines),
                *(machine.id for machine, _ in pairs),
            )
        )

    @property
    def unheard(self) -> int:
        """How many machines are paid for whose workers are not heard of."""
        return sum(bool(each.instance) for each in self.silent)

    @property
    def alive(self) -> int:
        """How many workers and machines there are, whoever has started them."""
        gone = len(self.draining) + len(self.leaving) + len(self.left) + self.unheard
        return len(self.ready) + len(self.booting) + gone

    @property
    def billed(self) -> int:
        """How many machines are paid for."""
        on = {each.instance for each in (*self.ready, *self.draining, *self.silent)} - {""}
        return len(on) + len(self.booting) + len(self.leaving) + len(self.left)


def crew_of(
    pool: str,
    instances: Iterable[Instance],
    workers: Iterable[WorkerInfo],
    *,
    silent: Collection[str] = (),
    told_to_end: Collection[str] = (),
) -> Crew:
    """Return who is who.

    Args:
        pool: Which one.
        instances: Of the pool, those that have ended included.
        workers: Of any pool, those that have gone included.
        silent: Workers that are not heard of.
        told_to_end: Machines that were told to end, whatever the provider says of them.
    """
    machines = {each.id: each for each in instances}
    own = sorted(
        (each for each in workers if each.pool == pool), key=lambda each: each.registered_at
    )
    # One that has registered again is the same worker.
    last = {each.instance: each for each in own if each.instance}
    ready, draining, unheard, orphaned = [], [], [], []
    for each in own:
        if each.gone_at is not None:
            continue
        machine = machines.get(each.instance)
        is_last = not each.instance or last[each.instance].id == each.id
        if not is_last or (machine is not None and machine.state is InstanceState.ENDED):
            orphaned.append(each)
        elif each.id in silent:
            unheard.append(each)
        elif each.draining or _is_told(machine, told_to_end):
            draining.append(each)
        else:
            ready.append(each)
    return msgspec.structs.replace(
        _machines(machines, last, told_to_end),
        unheeded=[each for each in machines.values() if _is_unheeded(each, told_to_end)],
        ready=ready,
        since={
            each.id: machines[each.instance].launched_at
            for each in ready
            if each.instance in machines
        },
        draining=draining,
        silent=unheard,
        orphaned=orphaned,
    )


def _is_told(machine: Instance | None, told_to_end: Collection[str]) -> bool:
    if machine is None:
        return False
    return machine.state is InstanceState.STOPPING or machine.id in told_to_end


def _is_unheeded(machine: Instance, told_to_end: Collection[str]) -> bool:
    is_on = machine.state in (InstanceState.STARTING, InstanceState.RUNNING)
    return is_on and machine.id in told_to_end


def _machines(
    machines: Mapping[str, Instance],
    last: Mapping[str, WorkerInfo],
    told_to_end: Collection[str],
) -> Crew:
    """Return the machines that have no worker (any more)."""
    booting: list[Instance] = []
    leaving: list[Instance] = []
    left: list[tuple[Instance, datetime]] = []
    ended: list[tuple[Instance, WorkerInfo | None]] = []
    for each in sorted(machines.values(), key=lambda each: (each.launched_at, each.id)):
        worker = last.get(each.id)
        if each.state is InstanceState.ENDED:
            ended.append((each, worker))
        elif worker is not None and worker.gone_at is None:
            continue
        elif _is_told(each, told_to_end):
            leaving.append(each)
        elif worker is None or worker.gone_at is None:
            booting.append(each)
        else:
            left.append((each, worker.gone_at))
    return Crew(booting=booting, leaving=leaving, left=left, ended=ended)


def paid_s(crew: Crew, worker: WorkerInfo, now: datetime, least_billed_s: float) -> float:
    """Return for how long a worker is paid from now on whatever it does, in seconds."""
    since = crew.since.get(worker.id)
    if since is None:
        return 0.0
    return max(0.0, least_billed_s - (now - since).total_seconds())


def workers_to_drain(
    crew: Crew, n: int, held: Mapping[str, int], now: datetime, least_billed_s: float = 0.0
) -> list[WorkerInfo]:
    """Return whom to let go: who holds least first; of these who is paid for the shortest time.

    Of these again the youngest. Only who was launched: what somebody started is somebody's to stop.

    Args:
        crew: Of the pool.
        n: At most so many.
        held: Worker → how many tasks it holds.
        now: The time.
        least_billed_s: For how long each is paid at least, in seconds.
    """
    launched = [each for each in crew.ready if each.instance]
    launched.sort(
        key=lambda each: (
            held.get(each.id, 0),
            paid_s(crew, each, now, least_billed_s),
            -each.registered_at.timestamp(),
            each.id,
        )
    )
    return launched[: max(0, n)]


def boots_to_cancel(crew: Crew, n: int) -> list[Instance]:
    """Return which machines need not boot any further: the youngest.

    Args:
        crew: Of the pool.
        n: At most so many.
    """
    return list(reversed(crew.booting))[: max(0, n)]
