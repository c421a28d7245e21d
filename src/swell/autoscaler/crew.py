"""Matches the machines that a provider lists with registered workers. Pure.

A machine without a worker is booting. A worker without a machine was started by a person, or by a
controller with processes that this one cannot see: it counts as ready, but scaling does not drain
it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from swell.core.provider import Instance, InstanceState
from swell.core.records import WorkerInfo


class Crew(msgspec.Struct, frozen=True, kw_only=True):
    """Machines and workers of one pool, each in one group."""

    #: Workers that take tasks.
    ready: Sequence[WorkerInfo] = ()
    #: Workers that finish their tasks and exit.
    draining: Sequence[WorkerInfo] = ()
    #: Workers without recent heartbeats that have not exited.
    silent: Sequence[WorkerInfo] = ()
    #: Registered workers with an ended machine.
    orphaned: Sequence[WorkerInfo] = ()
    #: Launch times of the machines of ready workers, if listed, by worker id.
    since: Mapping[str, datetime] = {}
    #: Machines without a registered worker, oldest first.
    booting: Sequence[Instance] = ()
    #: Terminated machines without a worker.
    leaving: Sequence[Instance] = ()
    #: Terminated machines that their provider does not list as ending.
    unheeded: Sequence[Instance] = ()
    #: Machines with an exited worker, and when it exited.
    left: Sequence[tuple[Instance, datetime]] = ()
    #: Ended machines, each with its last worker.
    ended: Sequence[tuple[Instance, WorkerInfo | None]] = ()

    @property
    def machine_ids(self) -> frozenset[str]:
        """Ids of all machines, listed or reported by a worker."""
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
        """Number of silent workers with a machine, which is billed."""
        return sum(bool(each.instance) for each in self.silent)

    @property
    def alive(self) -> int:
        """Number of workers and machines, including workers that a person started."""
        gone = len(self.draining) + len(self.leaving) + len(self.left) + self.unheard
        return len(self.ready) + len(self.booting) + gone

    @property
    def billed(self) -> int:
        """Number of billed machines."""
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
    """Return the groups of a pool.

    Args:
        pool: Name of the pool.
        instances: Machines of the pool, including ended ones.
        workers: Workers of any pool, including exited ones.
        silent: Ids of workers without recent heartbeats.
        told_to_end: Ids of terminated machines, in any listed state.
    """
    machines = {each.id: each for each in instances}
    own = sorted(
        (each for each in workers if each.pool == pool), key=lambda each: each.registered_at
    )
    # A newer registration replaces an older one of the same machine.
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
    """Return the groups of machines without a worker."""
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
    """Return the time that is billed even if a worker ends now, in seconds."""
    since = crew.since.get(worker.id)
    if since is None:
        return 0.0
    return max(0.0, least_billed_s - (now - since).total_seconds())


def workers_to_drain(
    crew: Crew, n: int, held: Mapping[str, int], now: datetime, least_billed_s: float = 0.0
) -> list[WorkerInfo]:
    """Return the workers to drain: fewest tasks, then least billed time left, then youngest.

    Only launched workers are drained, not those that a person started.

    Args:
        crew: Groups of the pool.
        n: Limit of workers.
        held: Number of held tasks, by worker id.
        now: The time.
        least_billed_s: Minimum billed time of a machine, in seconds.
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
    """Return the booting machines to cancel: the youngest.

    Args:
        crew: Groups of the pool.
        n: Limit of machines.
    """
    return list(reversed(crew.booting))[: max(0, n)]
