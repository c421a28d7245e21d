"""What workers cost, from the settings or from the report of the autoscaler.

A backend may know nothing of pools. A worker that registered before the price of its pool was known
has that price from when it is; every other one the price with which it registered first. Where the
price of a pool changes while its workers live, they are charged by the price in force.
"""

from collections.abc import Mapping, Sequence

import msgspec

from swell.api.scaling import Scaling
from swell.api.settings import ApiSettings
from swell.db.registry import Registry
from swell.money.tariffs import TARIFFS, PoolTariff, Step, price_at
from swell.registry import WorkerInfo
from swell.scaling import read


class Tariffs:
    """What was heard last.

    Args:
        registry: Where changes of prices are told.
        scaling: Has what the autoscaler tells of pools.
        settings: What they say of a pool comes before that.
    """

    def __init__(self, registry: Registry, scaling: Scaling, settings: ApiSettings) -> None:
        self._registry = registry
        self._scaling = scaling
        self._settings = settings
        self._steps: Mapping[str, Sequence[Step]] = {}

    async def refresh(self) -> None:
        """Read what is told now."""
        told = read(await self._registry.note(TARIFFS), dict[str, PoolTariff])
        if told is not None:
            self._steps = {pool: each.steps for pool, each in told.items() if each.steps}

    def steps(self, pool: str) -> Sequence[Step]:
        """Return how the price of a pool has changed; nothing where it does not."""
        return self._steps.get(pool, ())

    def now_micros(self, pool: str) -> int | None:
        """Return what an hour of a new worker costs, in millionths of a dollar."""
        if steps := self._steps.get(pool):
            return steps[-1].hour_micros
        told = self._scaling.pool(pool)
        return self._settings.hour_micros.get(pool, None if told is None else told.hour_micros)

    def launch_micros(self, pool: str) -> int:
        """Return what a launch of a worker costs besides, in millionths of a dollar."""
        told = self._scaling.pool(pool)
        return self._settings.launch_micros.get(pool, 0 if told is None else told.launch_micros)

    def least_billed_s(self, pool: str) -> float:
        """Return for how long a worker is paid at least, in seconds."""
        told = self._scaling.pool(pool)
        return self._settings.least_billed_s.get(pool, 0 if told is None else told.least_billed_s)

    def priced(self, info: WorkerInfo) -> WorkerInfo:
        """Return a worker that registered without a price with that of its pool, where known."""
        micros = self.now_micros(info.pool) if info.hour_micros is None else None
        if micros is None:
            return info
        if steps := self._steps.get(info.pool):
            micros = price_at(steps, info.registered_at, steps[0].hour_micros)
        return msgspec.structs.replace(
            info,
            hour_micros=micros,
            launch_micros=self.launch_micros(info.pool),
            least_billed_s=self.least_billed_s(info.pool),
        )

    def hour_micros(self, info: WorkerInfo) -> int | None:
        """Return what an hour of a worker costs now, in millionths of a dollar."""
        if steps := self._steps.get(info.pool):
            return steps[-1].hour_micros
        return self.priced(info).hour_micros
