"""Prices of pools that change while their workers live, as whoever scales them tells.

A worker whose pool had a price when it registered is charged by the price in force; one whose pool
had none stays without. What no autoscaler tells of is charged by the settings.
"""

from collections.abc import Mapping, Sequence

from swell.money.tariffs import TARIFFS, PoolTariff, Step
from swell.registry import Registry, WorkerInfo
from swell.scaling import read

__all__ = ["Tariffs"]


class Tariffs:
    """What was heard last.

    Args:
        registry: Where it is told.
        is_used: Whether any pool may have such a price; nothing is ever read else.
    """

    def __init__(self, registry: Registry, *, is_used: bool) -> None:
        self._registry = registry
        self._is_used = is_used
        self._steps: Mapping[str, Sequence[Step]] = {}

    async def refresh(self) -> None:
        """Read what is told now."""
        if not self._is_used:
            return
        told = read(await self._registry.note(TARIFFS), dict[str, PoolTariff])
        if told is not None:
            self._steps = {pool: each.steps for pool, each in told.items() if each.steps}

    def steps(self, pool: str) -> Sequence[Step]:
        """Return how the price of a pool has changed; nothing where it does not."""
        return self._steps.get(pool, ())

    def now_micros(self, pool: str, usual: int | None) -> int | None:
        """Return what an hour of a new worker costs, in millionths of a dollar.

        Args:
            pool: Which one.
            usual: By the settings; None where they say nothing.
        """
        steps = self._steps.get(pool)
        return steps[-1].hour_micros if steps else usual

    def hour_micros(self, info: WorkerInfo) -> int | None:
        """Return what an hour of a worker costs now, in millionths of a dollar."""
        if info.hour_micros is None or not self._steps:
            return info.hour_micros
        return self.now_micros(info.pool, info.hour_micros)
