"""Prices of workers, from the settings or from the autoscaler's report.

A worker keeps the price with which it registered; if its pool had none yet, the price counts from
when it is known. If the price of a pool changes, its workers cost the price in force.
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
    """Caches the prices of pools.

    Args:
        registry: Has the changes of prices.
        scaling: Has the autoscaler's report of pools.
        settings: Have precedence over the report.
    """

    def __init__(self, registry: Registry, scaling: Scaling, settings: ApiSettings) -> None:
        self._registry = registry
        self._scaling = scaling
        self._settings = settings
        self._steps: Mapping[str, Sequence[Step]] = {}

    async def refresh(self) -> None:
        """Read the changes of prices."""
        tariffs = read(await self._registry.note(TARIFFS), dict[str, PoolTariff])
        if tariffs is not None:
            self._steps = {pool: each.steps for pool, each in tariffs.items() if each.steps}

    def steps(self, pool: str) -> Sequence[Step]:
        """Return the changes of a pool's price; empty if it is constant."""
        return self._steps.get(pool, ())

    def now_micros(self, pool: str) -> int | None:
        """Return the price of an hour of a new worker, in millionths of a dollar."""
        if steps := self.steps(pool):
            return steps[-1].hour_micros
        scaled = self._scaling.pool(pool)
        return self._settings.hour_micros.get(pool, scaled.hour_micros if scaled else None)

    def launch_micros(self, pool: str) -> int:
        """Return the extra cost of the launch of a worker, in millionths of a dollar."""
        scaled = self._scaling.pool(pool)
        return self._settings.launch_micros.get(pool, scaled.launch_micros if scaled else 0)

    def least_billed_s(self, pool: str) -> float:
        """Return the minimum billing of a worker, in seconds."""
        scaled = self._scaling.pool(pool)
        return self._settings.least_billed_s.get(pool, scaled.least_billed_s if scaled else 0)

    def priced(self, info: WorkerInfo) -> WorkerInfo:
        """Return a worker with the price of its pool, if it registered without a price."""
        micros = self.now_micros(info.pool)
        if info.hour_micros is not None or micros is None:
            return info
        if steps := self.steps(info.pool):
            micros = price_at(steps, info.registered_at, steps[0].hour_micros)
        return msgspec.structs.replace(
            info,
            hour_micros=micros,
            launch_micros=self.launch_micros(info.pool),
            least_billed_s=self.least_billed_s(info.pool),
        )

    def hour_micros(self, info: WorkerInfo) -> int | None:
        """Return the current price of an hour of a worker, in millionths of a dollar."""
        if steps := self.steps(info.pool):
            return steps[-1].hour_micros
        return self.priced(info).hour_micros
