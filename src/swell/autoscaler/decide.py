"""Turns observation and plan into actions. Pure.

The policy decides how many workers; this module chooses them. It also handles machines that are
reclaimed, fail to boot, have lost their worker, or ended on their own. No action interrupts running
tasks: workers drain, and a machine ends after its worker has exited.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from swell.autoscaler.crew import Crew, boots_to_cancel, workers_to_drain
from swell.autoscaler.fates import fate_of
from swell.autoscaler.memory import Launch, Memory, expected
from swell.autoscaler.observe import Sight
from swell.autoscaler.outlook import Plan, PoolPlan
from swell.autoscaler.pools import Pool
from swell.core.provider import Instance, Notice
from swell.core.records import WorkerInfo
from swell.protocol.autoscaler_messages import CANCELLED, FAILED, LOST, TAKEN_BACK, Decision

#: Limit of machines in one launch.
_AT_ONCE: Final = 50

#: A machine is kept this long after its worker exits, in seconds: the worker may register again.
_LEFT_S: Final = 15.0
#: Grace period of a machine without tasks, in seconds.
_SHORT_S: Final = 5.0
#: Grace period of a worker that may hold tasks, in seconds.
_PATIENT_S: Final = 3600.0
#: A machine that remains this long after its deadline is terminated again, in seconds.
_AGAIN_S: Final = 120.0
#: A termination that the provider does not show after this time is repeated, in seconds.
_HEEDED_S: Final = 15.0
#: Time for a launched machine to be listed, in seconds.
_LISTED_S: Final = 120.0
#: Limits of the retries of a launch with an unknown result: number, and time in seconds.
_TRIES: Final = 4
_TRYING_S: Final = 360.0
#: Time that a call of a previous leader can still take, in seconds.
_CALL_S: Final = 300.0

#: A worker must start to hand over its tasks this long before a reclaim, in seconds.
_HURRY_S: Final = 12.0
#: Margin between the end of a worker and the reclaim, in seconds.
_MARGIN_S: Final = 1.0

#: A boot has failed after this multiple of the 99th percentile, given this number of boots, but not
#: before the minimum, in seconds.
_TIMES_P99: Final = 3.0
_KNOWN_BOOTS: Final = 10
_LEAST_BOOT_S: Final = 60.0

#: Time until the models of a registered worker are known, in seconds.
_TOLD_S: Final = 60.0

_HOUR_S: Final = 3600.0

#: An overdue termination is forgotten after this time, in seconds.
_FORGOTTEN_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the controller."""

    #: Age of the observation, in seconds, beyond which no worker is drained.
    stale_s: float = 60.0
    #: Time for a machine to get a worker before it is terminated, in seconds.
    boot_limit_s: float = 1800.0
    #: Silence of a worker after which its machine is terminated, in seconds.
    silent_s: float = 300.0


@dataclass(frozen=True, slots=True)
class End:
    """Termination of one machine."""

    pool: str
    instance_id: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class Actions:
    """Actions in the order of execution, after the memory is saved."""

    memory: Memory
    #: Workers with an ended machine, to remove from the registry.
    forget: Sequence[WorkerInfo] = ()
    drain: Sequence[WorkerInfo] = ()
    ends: Sequence[End] = ()
    #: New and repeated launches.
    launches: Sequence[Launch] = ()
    decisions: Sequence[Decision] = ()


def decide(
    sight: Sight,
    plan: Plan,
    memory: Memory,
    pools: Sequence[Pool],
    limits: Limits,
    new_token: Callable[[], str],
    *,
    under_way: Collection[str] = (),
) -> Actions:
    """Return the actions for an observation and a plan.

    Args:
        sight: The observation.
        plan: The policy's plan.
        memory: Memory of earlier actions.
        pools: All pools.
        limits: Limits of the controller.
        new_token: Returns a unique launch token.
        under_way: Tokens of launch calls in progress.
    """
    deciding = _Deciding(sight, memory, limits, new_token)
    deciding.spend(pools)
    for pool in pools:
        deciding.look_at(pool, plan)
    deciding.settle_launches(under_way)
    state_kept = msgspec.structs.replace(deciding.memory, state=plan.state)
    return Actions(
        memory=state_kept,
        forget=deciding.forget,
        drain=deciding.drain,
        ends=deciding.ends,
        launches=deciding.launches,
        decisions=deciding.decisions,
    )


class _Deciding:
    def __init__(
        self, sight: Sight, memory: Memory, limits: Limits, new_token: Callable[[], str]
    ) -> None:
        self._sight = sight
        self._now = sight.now.timestamp()
        self._limits = limits
        self._new_token = new_token
        self._is_first = memory.state.since is None
        self.memory = memory
        self.forget: list[WorkerInfo] = []
        self.drain: list[WorkerInfo] = []
        self.ends: list[End] = []
        self.launches: list[Launch] = []
        self.decisions: list[Decision] = []

    @property
    def _is_stale(self) -> bool:
        return self._sight.observation.age_s > self._limits.stale_s

    def look_at(self, pool: Pool, plan: Plan) -> None:
        """Choose the actions for one pool."""
        crew = self._sight.crews[pool.name]
        self._remember_models(pool)
        self._remember_vain(pool, crew)
        self.forget += [each for each in crew.orphaned if not self._is_heard_of(each, crew)]
        self._judge(pool, crew)
        if pool.name not in self._sight.unseen:
            self._take_notices(pool, crew)
            self._sweep(pool, crew)
        wanted = plan.pools.get(pool.name)
        if wanted is None:
            return
        reasons = [
            each.text
            for each in plan.reasons
            if each.about == pool.name or each.about in self._sight.models[pool.name]
        ]
        self._launch(pool, crew, wanted, reasons)
        may_shrink = not self._is_stale and not self._is_first and self._sight.held is not None
        if may_shrink:
            self._cancel(pool, crew, wanted, reasons)
            self._drain(pool, crew, wanted, reasons)

    def _is_heard_of(self, worker: WorkerInfo, crew: Crew) -> bool:
        """Return whether a worker has sent heartbeats since its machine was listed as ended.

        A machine with an exit code has certainly ended.
        """
        if self._sight.silence.get(worker.id, 0.0) > _LEFT_S:
            return False
        unheard = self._sight.as_of - worker.seen_at
        return any(
            unheard < self._sight.now - machine.ended_at
            for machine, last in crew.ended
            if machine.ended_at is not None and machine.exit_code is None
            if last is not None and last.id == worker.id
        )

    def spend(self, pools: Sequence[Pool]) -> None:
        """Add the cost of machines since the last step."""
        memory, day = self.memory, self._sight.now.date().isoformat()
        since = memory.spent_at or self._now
        passed_s = max(0.0, self._now - since)
        spent = memory.spent_micros
        if day != memory.day:
            midnight = self._sight.now.replace(hour=0, minute=0, second=0, microsecond=0)
            passed_s = min(passed_s, self._now - midnight.timestamp())
            spent = 0.0
        per_hour = sum(
            (pool.hour_micros or 0) * self._sight.crews[pool.name].billed
            for pool in pools
            if not pool.is_external
        )
        self.memory = msgspec.structs.replace(
            memory,
            day=day,
            spent_micros=spent + per_hour * passed_s / _HOUR_S,
            spent_at=self._now,
        )

    def settle_launches(self, under_way: Collection[str]) -> None:
        """Remove finished launches, and retry the others."""
        kept = []
        for launch in self.memory.launches:
            if launch.token in under_way:
                kept.append(launch)
            elif launch.given is not None or launch.until is not None:
                if not self._is_over(launch):
                    kept.append(launch)
            elif launch.tries >= _TRIES or self._now - launch.at > _TRYING_S:
                kept.append(self._given_up(launch))
            else:
                kept.append(launch)
                if launch.next_at <= self._now:
                    self.launches.append(launch)
        self.memory = msgspec.structs.replace(self.memory, launches=tuple(kept))

    def _is_over(self, launch: Launch) -> bool:
        """Return whether all machines of a launch are listed, or the time for that has passed."""
        until = launch.at + _LISTED_S if launch.until is None else launch.until
        return self._sight.listed.get(launch.token, 0) >= expected(launch) or self._now >= until

    def _given_up(self, launch: Launch) -> Launch:
        """Stop retrying a launch. Its machines, if any, are found by its token."""
        why = "it is not known what came of a launch"
        self.memory = self.memory.refused(launch.pool, self._now, why, asked_at=launch.next_at)
        self._note(launch.pool, "failed", launch.n, [why])
        were_answered = launch.tries >= _TRIES
        until = self._now + (_LISTED_S if were_answered else _CALL_S + _LISTED_S)
        return msgspec.structs.replace(launch, until=until)

    def _remember_models(self, pool: Pool) -> None:
        models = self._sight.models[pool.name]
        if models != self.memory.models.get(pool.name):
            known = {**self.memory.models, pool.name: models}
            self.memory = msgspec.structs.replace(self.memory, models=known)
        brought = self._sight.brought.get(pool.name, {})
        if brought != self.memory.versions.get(pool.name, {}):
            versions = {**self.memory.versions, pool.name: brought}
            self.memory = msgspec.structs.replace(self.memory, versions=versions)

    def _remember_vain(self, pool: Pool, crew: Crew) -> None:
        """Stop waiting for configured models that the pool's workers do not serve."""
        missing = self._sight.missing.get(pool.name, ())
        known = self.memory.vain.get(pool.name, ())
        news = [each for each in missing if each not in known]
        came_up = [
            each
            for each in crew.ready
            if each.instance and (self._sight.as_of - each.registered_at).total_seconds() > _TOLD_S
        ]
        if not news or not came_up or self._is_stale:
            return
        vain = {**self.memory.vain, pool.name: missing}
        self.memory = msgspec.structs.replace(self.memory, vain=vain)
        why = f"its workers do not bring {', '.join(news)}, which pools.{pool.name}.models names"
        self._note(pool.name, "failed", 1, [why])

    def _judge(self, pool: Pool, crew: Crew) -> None:
        """Record the ends of machines since the last step."""
        failed, lost, n_leaving = [], [], 0
        for machine, worker in crew.ended:
            if machine.id in self.memory.judged:
                continue
            order = self._order(machine)
            fate = self._fate(machine, worker, order)
            self.memory = self.memory.judging(pool.name, machine.id, fate)
            if fate == order:
                continue  # announced with the termination
            if fate == FAILED:
                failed.append(machine)
            elif fate == LOST:
                lost.append(machine)
                n_leaving += order is not None or (worker is not None and worker.draining)
        if failed:
            why = f"{len(failed)} ended before a worker had registered{_words(failed)}"
            self.memory = self.memory.boot_failed(pool.name, self._now, why)
            self._note(pool.name, "failed", len(failed), [why])
        elif self._has_come_up(pool, crew):
            self.memory = self.memory.boot_succeeded(pool.name)
        if lost:
            why = f"{len(lost)} ended by themselves{_words(lost)}"
            if n_leaving:
                why += f", {n_leaving} of them draining"
            self._note(pool.name, "lost", len(lost), [why])
        self._forget_judged()

    def _order(self, machine: Instance) -> str | None:
        """Return the reason of a machine's termination; None if it was not terminated."""
        if machine.id not in self.memory.ending:
            return None
        return self.memory.orders.get(machine.id, "")

    def _fate(self, machine: Instance, worker: WorkerInfo | None, order: str | None) -> str:
        due = self.memory.ending.get(machine.id)
        held = self._sight.held
        return fate_of(
            machine,
            worker,
            order=order,
            is_overdue=due is not None and self._now >= due,
            may_hold=held is None or (worker is not None and held.get(worker.id, 0) > 0),
        )

    def _has_come_up(self, pool: Pool, crew: Crew) -> bool:
        known = self.memory.failures.get(pool.name)
        return known is not None and any(
            each.instance and each.registered_at.timestamp() > known[1] for each in crew.ready
        )

    def _forget_judged(self) -> None:
        """Forget machines that no provider lists any more.

        Waits until all providers answer, because a missing answer is not an end.
        """
        long_ago = self._now - _FORGOTTEN_S
        ending = {each: at for each, at in self.memory.ending.items() if at > long_ago}
        if len(ending) < len(self.memory.ending):
            self.memory = self.memory.expecting(ending)
        if self._sight.unseen:
            return
        listed: set[str] = set().union(*(each.machine_ids for each in self._sight.crews.values()))
        judged = tuple(each for each in self.memory.judged if each in listed)
        if judged != self.memory.judged:
            self.memory = msgspec.structs.replace(self.memory, judged=judged)

    def _take_notices(self, pool: Pool, crew: Crew) -> None:
        """Drain the workers of machines that will be reclaimed."""
        by_machine = {
            each.instance: each for each in (*crew.ready, *crew.draining) if each.instance
        }
        booting = {each.id for each in crew.booting}
        for notice in self._sight.notices:
            worker = by_machine.get(notice.instance_id)
            if worker is None and notice.instance_id not in booting:
                continue
            if worker is not None and not worker.draining:
                self.drain.append(worker)
                if notice.at is None:
                    self._note(pool.name, "drain", 1, ["the cloud may reclaim it soon"])
            self._end_in_time(pool, notice, has_worker=worker is not None)

    def _end_in_time(self, pool: Pool, notice: Notice, *, has_worker: bool) -> None:
        if notice.at is None:
            return  # a warning only: the worker drains
        each, left_s = notice.instance_id, (notice.at - self._sight.now).total_seconds()
        grace_s = max(0.0, left_s - _MARGIN_S)
        if each not in self.memory.ending:
            self._end(pool, each, grace_s, order=TAKEN_BACK)
            told = f"the cloud reclaims {each} in {max(0.0, left_s):.0f} s"
            self._note(pool.name, "end", 1, [told])
        elif has_worker and left_s <= _HURRY_S and each not in self.memory.hurried:
            # A second, earlier deadline makes the worker hand over its tasks at once.
            hurried = (*self.memory.hurried, each)
            self.memory = msgspec.structs.replace(self.memory, hurried=hurried)
            self._end(pool, each, max(0.0, grace_s - _MARGIN_S), order=TAKEN_BACK)
            self._note(
                pool.name, "hurry", 1, [f"the cloud reclaims {each} in {max(0.0, left_s):.0f} s"]
            )

    def _sweep(self, pool: Pool, crew: Crew) -> None:
        """Terminate machines without a useful worker."""
        for machine, gone_at in crew.left:
            if (self._sight.as_of - gone_at).total_seconds() > _LEFT_S:
                self._end(pool, machine.id, _SHORT_S)
        overdue = [each for each in crew.leaving if self._now > self._due(each, pool) + _AGAIN_S]
        for machine in overdue:
            self._end(pool, machine.id, 0.0)
        if overdue:
            self._note(pool.name, "end", len(overdue), ["they should have gone long ago"])
        limit_s = self._boot_limit_s(pool)
        late = [each for each in crew.booting if self._age_s(each) > limit_s]
        for machine in late:
            self._end(pool, machine.id, _patience_s(pool), order=FAILED)
        if late:
            why = f"no worker has registered within {limit_s:.0f} s"
            self.memory = self.memory.boot_failed(pool.name, self._now, why)
            self._note(pool.name, "failed", len(late), [why])
        if not self._is_stale:
            self._sweep_silent(pool, crew)
        self._insist(pool, crew)

    def _insist(self, pool: Pool, crew: Crew) -> None:
        """Repeat lost orders to workers and providers."""
        unaware = [each for each in crew.draining if not each.draining]
        self.drain += unaware
        if unaware:
            self._note(pool.name, "drain", len(unaware), ["their machines were asked to stop"])
        for machine in crew.unheeded:
            if self._now - self.memory.told.get(machine.id, 0.0) < _HEEDED_S:
                continue
            # Keep the deadline: an earlier one would hurry a worker that did get the order.
            due = self.memory.ending.get(machine.id, self._now)
            left_s = max(0.0, due - self._now)
            self._end(pool, machine.id, left_s + _MARGIN_S if left_s else 0.0, due)

    def _sweep_silent(self, pool: Pool, crew: Crew) -> None:
        silence, silent_s = self._sight.silence, self._limits.silent_s
        gone = [
            each for each in crew.silent if each.instance and silence.get(each.id, 0.0) > silent_s
        ]
        for worker in gone:
            self.forget.append(worker)
            self._end(pool, worker.instance, _SHORT_S, order=LOST)
        if gone:
            why = f"their workers were silent for {self._limits.silent_s:.0f} s"
            self._note(pool.name, "end", len(gone), [why])

    def _launch(self, pool: Pool, crew: Crew, wanted: PoolPlan, reasons: Sequence[str]) -> None:
        asked = sum(
            max(0, expected(each) - self._sight.listed.get(each.token, 0))
            for each in self.memory.launches
            if each.pool == pool.name
        )
        n = min(wanted.launch, max(0, pool.most - crew.alive - asked))
        if n <= 0 or self.memory.closed_s(pool.name, self._now) > 0:
            return
        for first in range(0, n, _AT_ONCE):
            launch = Launch(
                token=self._new_token(),
                pool=pool.name,
                n=min(_AT_ONCE, n - first),
                at=self._now,
                next_at=self._now,
            )
            launches = (*self.memory.launches, launch)
            self.memory = msgspec.structs.replace(self.memory, launches=launches)
        self._note(pool.name, "launch", n, reasons)

    def _cancel(self, pool: Pool, crew: Crew, wanted: PoolPlan, reasons: Sequence[str]) -> None:
        # Unlisted machines are the youngest. They can be cancelled once they are listed.
        unlisted = sum(
            max(0, expected(each) - self._sight.listed.get(each.token, 0))
            for each in self.memory.launches
            if each.pool == pool.name and each.until is None
        )
        chosen = boots_to_cancel(crew, wanted.cancel_boots - unlisted)
        for machine in chosen:
            # A worker that registers at this moment may finish its tasks.
            self._end(pool, machine.id, _patience_s(pool), order=CANCELLED)
        if chosen:
            self._note(pool.name, "cancel", len(chosen), reasons)

    def _drain(self, pool: Pool, crew: Crew, wanted: PoolPlan, reasons: Sequence[str]) -> None:
        going = {each.id for each in self.drain}
        left = self._sight.leftovers.get(pool.name, ())
        spared = {each.id for each in left}
        if wanted.desired:
            spared |= self._sight.last_of_live
        chosen = [
            each
            for each in workers_to_drain(
                _sparing(crew, spared),
                wanted.drain,
                self._sight.held or {},
                self._sight.now,
                pool.least_billed_s,
            )
            if each.id not in going
        ]
        self.drain += chosen
        if chosen:
            self._note(pool.name, "drain", len(chosen), reasons)
        # They may stay, unless others need their place.
        self._drain_leftovers(
            pool, left if crew.alive >= pool.most else self._sight.overdue.get(pool.name, ())
        )

    def _drain_leftovers(self, pool: Pool, left: Sequence[WorkerInfo]) -> None:
        """Drain idle workers of a version that is neither live nor launched by the pool."""
        going = {each.id for each in self.drain}
        held = self._sight.held or {}
        chosen = [
            each
            for each in left
            if each.instance and not held.get(each.id) and each.id not in going
        ]
        self.drain += chosen
        if chosen:
            why = "they have a version that is not live any more, and that the pool does not launch"
            self._note(pool.name, "drain", len(chosen), [why])

    def _end(
        self,
        pool: Pool,
        instance_id: str,
        grace_s: float,
        due: float | None = None,
        *,
        order: str = "",
    ) -> None:
        self.ends.append(End(pool.name, instance_id, grace_s))
        if pool.is_external:
            return  # it ends at once, without an end to record
        due = self._now + grace_s if due is None else due
        self.memory = self.memory.telling(instance_id, self._now, due, order)

    def _due(self, machine: Instance, pool: Pool) -> float:
        """Return the deadline of a terminated machine."""
        patient = self._now + _patience_s(pool)
        return self.memory.ending.get(machine.id, patient)

    def _boot_limit_s(self, pool: Pool) -> float:
        if pool.is_external:
            return math.inf
        times = self._sight.times[pool.name]
        p99 = times.at[2]
        if p99.seconds is None or p99.is_bound or times.ready < _KNOWN_BOOTS:
            return self._limits.boot_limit_s
        known_s = max(_LEAST_BOOT_S, _TIMES_P99 * p99.seconds)
        return min(self._limits.boot_limit_s, known_s)

    def _age_s(self, machine: Instance) -> float:
        return self._now - machine.launched_at.timestamp()

    def _note(self, pool: str, what: str, n: int, why: Sequence[str]) -> None:
        self.decisions.append(
            Decision(at=self._sight.now, about=pool, what=what, n=n, why=tuple(why))
        )
        self.memory = self.memory.counting(pool, what, n)


def _patience_s(pool: Pool) -> float:
    """Return the grace period of a worker that may hold tasks, in seconds."""
    return _PATIENT_S if pool.drain_s is None else pool.drain_s


def _words(machines: Sequence[Instance]) -> str:
    """Return the known reasons of machine ends, in brackets."""
    told: Mapping[str, None] = dict.fromkeys(
        each.why or f"exit code {each.exit_code}"
        for each in machines
        if each.why or each.exit_code is not None
    )
    return f" ({', '.join(list(told)[:3])})" if told else ""


def _sparing(crew: Crew, spared: Collection[str]) -> Crew:
    """Return the crew without the spared ready workers."""
    if not spared:
        return crew
    ready = [each for each in crew.ready if each.id not in spared]
    return msgspec.structs.replace(crew, ready=ready)
