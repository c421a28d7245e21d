"""Queue positions, estimates of start and end, and expected costs of tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from swell.core.billing.ledger import cost_micros
from swell.core.broker_types import NOT_STAGED, Rank, ServedWith
from swell.core.pipeline_stages import Done, Stage, stages_ahead
from swell.core.rollouts.rollout_state import asked_version, drawn_as, is_of_canary
from swell.core.task import NewTask, Task, TaskState
from swell.server.estimates.eta import (
    Estimate,
    EtaSeconds,
    IssuedEstimate,
    Pace,
    ServiceStats,
    Workers,
    forecast,
)
from swell.server.rollouts.canary_monitor import is_canary_served, queues_served
from swell.server.tasks.sample_counts import Demand, demand_of

if TYPE_CHECKING:
    from swell.server.service import Service

#: The note of the registry that saves the service times.
_NOTE: Final = "service_times"

#: Larger groups of tasks get interpolated positions.
_LARGE: Final = 8

#: The position in the queue (1 is next) and the estimate; None if unknown.
Position = tuple[int | None, Estimate | None]


class Estimates:
    """Estimates the tasks of one backend.

    Args:
        service: The backend.
    """

    def __init__(self, service: "Service") -> None:
        self._service = service

    # ---- positions

    async def position(self, task: Task, *, is_new: bool = False) -> Position:
        """Return the position and the estimate of a task."""
        if task.state is not TaskState.QUEUED:
            return None, None
        [found] = await self.positions([task], are_new=is_new)
        return found

    async def positions(self, tasks: Sequence[Task], *, are_new: bool = False) -> list[Position]:
        """Return the positions and estimates of tasks.

        The estimates of new tasks are remembered and compared with their ends.
        """
        ranks, fleet = await self._ranks(tasks), self._service.fleet
        # A worker may hold some of them by now. Only its earlier leases come before these.
        held = {each for each in ranks if fleet.held_attempt(each) is not None}
        n_held = len(held)
        found: list[Position] = []
        for task in tasks:
            rank = ranks.get(task.id)
            if rank is None:
                found.append((None, None))
                continue
            is_held = task.id in held
            before = Rank(ahead=0, samples=0) if is_held else rank
            issued = await self._estimate_stage(task, before, n_later=n_held if is_held else 0)
            n_held -= is_held
            found.append((rank.ahead + 1, await self._whole(task, issued)))
            if are_new and issued is not None and task.run is None:
                self._service.calibration.issued(task.id, issued)
        return found

    async def rank_of_new(self, new: NewTask) -> Rank:
        """Return the rank of a task that is sent now."""
        served_with = self.served_with(new.queue)
        return await self._service.broker.rank_of_new(new, served_with=served_with)

    async def _ranks(self, tasks: Sequence[Task]) -> dict[str, Rank]:
        """Return the rank of each waiting task by its id.

        Of a large group, the broker counts for the first and the last task only. The others are
        spread evenly in between.
        """
        groups: dict[tuple[str, int, str], list[Task]] = {}
        for task in tasks:
            if task.state is TaskState.QUEUED:
                groups.setdefault((task.queue, task.priority, task.key_id), []).append(task)
        found: dict[str, Rank] = {}
        for group in groups.values():
            group.sort(key=lambda task: (task.tag, task.created_at))
            counted = group if len(group) <= _LARGE else [group[0], group[-1]]
            served_with = self.served_with(group[0].queue)
            ranks = await self._service.broker.ranks(counted, served_with=served_with)
            if len(counted) < len(group):
                ranks = spread(ranks[0], ranks[1], len(group))
            ranked = zip(group, ranks, strict=True)
            found.update({task.id: rank for task, rank in ranked if rank is not None})
        return found

    def served_with(self, queue: str) -> ServedWith:
        """Return a queue of a staged model → all queues that its workers serve."""
        model, version = queue.partition(":")[0], self._version(queue)
        if model not in self._service.cards.lives or version is None:
            return NOT_STAGED
        return {queue: queues_served(self._service, model, version)}

    def _version(self, queue: str) -> str | None:
        """Return the version that serves a queue; None for any."""
        service = self._service
        model, _, version = queue.partition(":")
        life = service.cards.lives.get(model)
        if life is None:
            return version or None
        canary = life.canary
        if canary is not None and is_of_canary(queue) and is_canary_served(service, model, canary):
            return canary.version
        return asked_version(queue) or life.live

    # ---- times

    async def expected(self, new: NewTask, rank: Rank) -> Estimate | None:
        """Return the estimate of a task that is sent now; None before its model has ended one."""
        return await self._whole(new, await self._estimate_stage(new, rank))

    async def expected_last(self, queue: str, ready: int, samples: int) -> Estimate | None:
        """Return the estimate of a usual task behind all ready tasks of a queue."""
        model = queue.partition(":")[0]
        stats = self._service.times.stats(model, self._version(queue))
        if stats is None:
            return None
        new = NewTask(model=model, queue=queue, input=msgspec.Raw(b"{}"))
        count = max(1, round(stats.mean_count))
        issued = await self._estimate_stage(new, Rank(ahead=ready, samples=samples), count=count)
        return None if issued is None else issued.estimate

    async def _estimate_stage(
        self, task: Task | NewTask, rank: Rank, *, n_later: int = 0, count: float | None = None
    ) -> IssuedEstimate | None:
        """Return the estimate of a task, or of the current stage of a pipeline.

        Args:
            task: The task.
            rank: The waiting tasks of its model that come first.
            n_later: Tasks that its workers hold and that come later, itself included.
            count: As of `_usual_samples`; None to compute it.
        """
        times, fleet = self._service.times, self._service.fleet
        model, version = task.stage_model, self._version(task.queue)
        stats = times.stats(model, version)
        if stats is None:
            return None
        usual = times.usual_pace(model, version, stats)
        live, at_once, pace = fleet.pace(model, version, usual)

        def stats_of(other: str) -> tuple[ServiceStats, Pace]:
            known = None if other == model else times.stats(other)
            return (stats, pace) if known is None else (known, times.usual_pace(other, None, known))

        ahead, work_s = float(rank.ahead), pace.sample_s * rank.samples
        for other, n in fleet.running(model, version).items():
            n = max(0, n - n_later) if other == model else n
            other_stats, other_pace = stats_of(other)
            ahead += n
            work_s += n * other_stats.mean_count * other_pace.sample_s
        rivals = fleet.rivals(model, version, staged=self._service.cards.lives)
        backlogs = await self._service.broker.backlogs(list(rivals), task.priority)
        for (other, rival), backlog in zip(rivals.items(), backlogs, strict=True):
            # More urgent tasks come first. With the others, the models take turns.
            turns = min(backlog.equal, rank.ahead + 1)
            samples = backlog.equal_samples * turns / max(1, backlog.equal)
            ahead += rival.part * (backlog.urgent + turns)
            work_s += rival.part * (backlog.urgent_samples + samples) * stats_of(other)[1].sample_s
        workers = self._workers(model, version, live, at_once)
        count = self._usual_samples(task) if count is None else count
        expected = forecast(stats, ahead, work_s, workers, count)
        estimate = self._service.calibration.corrected(model, expected)
        return IssuedEstimate(model, expected, estimate, self._service.clock.monotonic_s())

    def _workers(self, model: str, version: str | None, live: int, at_once: float) -> Workers:
        scaling, life = self._service.scaling, self._service.cards.lives.get(model)
        name = model if life is None or version is None else drawn_as(life, version)
        coming = scaling.coming(name)
        if live:
            return Workers(live=live, at_once=at_once, coming=coming)
        first_s, by_s = scaling.ready_in_s(name)
        return Workers(live=0, coming=coming or [(first_s, 1)], first_by_s=by_s)

    async def _whole(self, task: Task | NewTask, issued: IssuedEstimate | None) -> Estimate | None:
        """Return the estimate of a whole task; of a pipeline, with the stages that follow."""
        if issued is None or task.run is None:
            return None if issued is None else issued.estimate
        finishes = [issued.estimate.finish]
        for stage in stages_ahead(task.run, task.input)[1:]:
            new = NewTask(
                model=stage.model,
                queue=stage.queue,
                input=msgspec.Raw(b"{}"),
                count=task.count if stage.counts else 1,
                priority=task.priority,
                key_id=task.key_id,
                user=task.user,
            )
            count = self._usual_samples(task, stage)
            later = await self._estimate_stage(new, await self.rank_of_new(new), count=count)
            if later is None:
                return None
            finishes.append(later.estimate.finish)
        finish = EtaSeconds(
            low=sum(each.low for each in finishes),
            median=sum(each.median for each in finishes),
            high=sum(each.high for each in finishes),
        )
        return msgspec.structs.replace(issued.estimate, finish=finish)

    # ---- costs

    def cost_micros(self, new: NewTask | Task) -> int | None:
        """Return the cost that nine in ten such tasks do not exceed, in millionths of a dollar.

        None before a task of its model has ended, or if the price of its workers is unknown and
        nothing is paid to others. A pipeline costs as much as all stages that may run.
        """
        stages: Sequence[Stage | None] = (None,)
        if new.run is not None:
            stages = stages_ahead(new.run, new.input)
        total = 0
        for stage in stages:
            asked = self._demand(new, stage)
            card = self._service.cards.of_queue(asked.queue)
            paid = 0 if card is None else card.price_micros * asked.count * asked.pack
            used = self._worker_micros(asked.queue, self._usual_samples(new, stage))
            if used is None and not paid:
                return None
            total += paid + (used or 0)
        return total

    def _worker_micros(self, queue: str, count: float) -> int | None:
        service = self._service
        model, version = queue.partition(":")[0], self._version(queue)
        stats = service.times.stats(model, version)
        hours = [
            service.tariffs.hour_micros(each.info) for each in service.fleet.live(model, version)
        ]
        prices = [each for each in hours if each is not None] or service.scaling.prices(model)
        if stats is None or not prices:
            return None
        work_s = count * service.times.usual_pace(model, version, stats).sample_s
        return cost_micros(work_s * max(1.0, stats.ratios[2]), max(prices))

    # ---- sizes

    def _demand(self, task: Task | NewTask, stage: Stage | None = None) -> Demand:
        """Return the demand of a task, or of a stage of its pipeline; None is the current stage."""
        run = task.run
        if run is None:
            return demand_of(self._service.cards, task)
        return demand_of(self._service.cards, task, stage or run.stage, run.done)

    def _usual_samples(self, task: Task | NewTask, stage: Stage | None = None) -> float:
        """Return how many samples of average size take as long as a task."""
        asked = self._demand(task, stage)
        usual = self._service.times.usual_size(asked.queue.partition(":")[0])
        return asked.count * asked.size / usual

    def observe_size(self, task: Task) -> None:
        """Learn the size of a task that has succeeded, or of the last stage that has."""
        run, cards, stage, done = task.run, self._service.cards, None, list[Done]()
        if run is not None:
            *done, last = run.done
            stage = next(each for each in run.pipeline.stages if each.name == last.name)
        model = task.model if stage is None else stage.model
        if model in cards.packed or model in cards.drawing:
            size = demand_of(cards, task, stage, done).size
            self._service.times.observe_size(model, size)

    # ---- restarts

    async def load_times(self) -> None:
        """Read the service times from before the last restart."""
        saved = await self._service.registry.note(_NOTE)
        if saved is not None:
            self._service.times.load(saved)

    async def save_times(self) -> None:
        """Write the service times if they have changed; of several backends, one does."""
        times = self._service.times
        if times.has_changed and await self._service.leadership.leads("times"):
            await self._service.registry.put_note(_NOTE, times.dump())


def spread(first: Rank | None, last: Rank | None, n: int) -> list[Rank | None]:
    """Return `n` ranks from `first` to `last`; all None if either has left the queue. Pure."""
    if first is None or last is None:
        return [None] * n
    return [
        Rank(
            ahead=first.ahead + round((last.ahead - first.ahead) * at / max(1, n - 1)),
            samples=first.samples + round((last.samples - first.samples) * at / max(1, n - 1)),
        )
        for at in range(n)
    ]
