"""Pools, workers and machines for tests of the controller, and a policy that is foretold easily."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from conformance.factories import a_new_task
from manual_clock import ManualClock
from sqlite_rig import SqliteRig
from swell.autoscaler.controller import Controller, Terms
from swell.autoscaler.decide import Limits
from swell.autoscaler.observe import Observer, Timing
from swell.autoscaler.outlook import Observation, Plan, PoolPlan, Reason, Relief, State
from swell.autoscaler.pools import Pool
from swell.core.provider import InstanceState, LaunchRequest, Provider
from swell.core.records import ModelCard, WorkerInfo
from swell.core.store_types import TaskFilter
from swell.protocol.autoscaler_messages import (
    DECISIONS,
    STATUS,
    WORKLOAD,
    Decision,
    ScalingStatus,
    Workload,
)
from swell.providers.memory import MemoryProvider

MODEL = "demo/upper"


def a_pool(provider: Provider, name: str = "gpu", **fields: Any) -> Pool:
    values: dict[str, Any] = {
        "provider_name": "memory",
        "request": LaunchRequest(pool=name),
        "models": (MODEL,),
        "most": 10,
        "start_s": 60.0,
        "rates": {MODEL: 1.0},
        "hour_micros": 3_600_000,
    }
    return Pool(name=name, provider=provider, **(values | fields))


def a_worker(clock: ManualClock, worker_id: str = "w1", **fields: Any) -> WorkerInfo:
    now = clock.now()
    values: dict[str, Any] = {"name": worker_id, "pool": "gpu", "models": {MODEL: "1"}}
    return WorkerInfo(id=worker_id, registered_at=now, seen_at=now, **(values | fields))


def one_for_each(observation: Observation, state: State) -> Plan:
    """One worker for each sample that waits or is held, in the first pool that has the model."""
    wanted: dict[str, int] = {view.pool: 0 for view in observation.pools}
    for demand in observation.demands:
        views = [view for view in observation.pools if demand.model in view.rates]
        if views:
            wanted[views[0].pool] += math.ceil(demand.waiting + demand.leased)
    pools = {}
    for view in observation.pools:
        desired = min(view.most, max(view.least, wanted[view.pool]))
        have = view.ready + len(view.booting)
        extra = max(0, have - desired)
        cancel = min(extra, len(view.booting))
        pools[view.pool] = PoolPlan(
            desired=desired,
            launch=max(0, desired - have),
            cancel_boots=cancel,
            drain=extra - cancel,
        )
    reasons = [Reason(name, "demand", f"{each.desired} wanted") for name, each in pools.items()]
    since = observation.at if state.since is None else state.since
    return Plan(pools=pools, reasons=reasons, state=State(since=since))


@dataclass
class Yard:
    """A controller over a SQLite database, whose workers come up and go as a test says."""

    clock: ManualClock = field(default_factory=ManualClock)
    pools: Sequence[Pool] = ()
    plan: Any = one_for_each
    limits: Limits = field(default_factory=Limits)
    relief: Sequence[Relief] = ()

    def __post_init__(self) -> None:
        rig = SqliteRig(self.clock)
        self.store, self.broker, self.registry = rig.store, rig.broker, rig.registry
        self.provider = MemoryProvider(self.clock, boot_s=5.0)
        self.pools = self.pools or (a_pool(self.provider),)
        self.held: dict[str, int] = {}
        self.woken = 0
        self.controller = self.another("one")

    def another(self, holder: str, *, pools: Sequence[Pool] | None = None) -> Controller:
        """Return a controller as another process would have it."""
        pools = pools or self.pools
        observer = Observer(self.broker, self.registry, pools, self.clock, Timing(lost_s=30.0))

        async def wake() -> None:
            self.woken += 1

        return Controller(
            observer,
            self.registry,
            pools,
            self.clock,
            lambda observation, state: self.plan(observation, state),
            Terms(holder=holder, limits=self.limits),
            wake,
        )

    async def describe(self, model: str = MODEL) -> None:
        """Have a model's card known."""
        await self.registry.put_models([ModelCard(name=model, version="1")])

    async def submit(self, n: int = 1, count: int = 1) -> list[str]:
        """Accept tasks."""
        accepted = await self.store.accept([a_new_task(count=count) for _ in range(n)])
        return [each.task.id for each in accepted]

    async def finish(self) -> None:
        """Take all tasks away."""
        page = await self.store.page(TaskFilter(), limit=1000)
        await self.store.cancel([task.id for task in page.tasks])

    async def tell_workload(self) -> None:
        """Tell what backends know, and that workers were heard of."""
        living = [each.id for each in await self.registry.workers() if each.gone_at is None]
        await self.registry.touch_workers(living, self.clock.now())
        work = Workload(at=self.clock.now(), held=self.held)
        await self.registry.put_note(WORKLOAD, msgspec.json.encode(work))

    async def come_up(self) -> None:
        """Register a worker for every machine that runs and has none."""
        known = {each.instance for each in await self.registry.workers()}
        for each in await self.provider.instances():
            if each.state is InstanceState.RUNNING and each.id not in known:
                worker = a_worker(self.clock, f"w-{each.id}", instance=each.id, pool=each.pool)
                await self.registry.put_worker(worker)

    async def step(self, passed_s: float = 3.0) -> None:
        """Let time pass, and the controller look once, with all that it has asked for done."""
        self.clock.advance(passed_s)
        await self.tell_workload()
        await self.controller.step()
        await self.controller.settled()

    async def living(self, pool: str | None = None) -> list[str]:
        return [
            each.id
            for each in await self.provider.instances(pool)
            if each.state in (InstanceState.STARTING, InstanceState.RUNNING)
        ]

    async def status(self) -> ScalingStatus:
        note = await self.registry.note(STATUS)
        assert note is not None
        return msgspec.json.decode(note, type=ScalingStatus)

    async def decisions(self) -> list[Decision]:
        note = await self.registry.note(DECISIONS)
        return [] if note is None else msgspec.json.decode(note, type=list[Decision])

    def ago(self, seconds: float) -> datetime:
        return self.clock.now() - timedelta(seconds=seconds)
