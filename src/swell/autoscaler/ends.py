"""Tells of machines that have ended, so that what they cost adds up to the bill."""

from collections.abc import Iterable

from swell.autoscaler.crew import Crew
from swell.db.instance_notices import tell_end
from swell.db.registry import Registry


class Ends:
    """Tells each end once, as long as its provider lists it.

    Args:
        registry: Where it is told. Another process that takes over tells it again, which changes
            nothing.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._told: set[str] = set()

    async def tell(self, crews: Iterable[Crew]) -> None:
        """Tell of those that have ended since the last time."""
        ended = {machine.id: machine for crew in crews for machine, _ in crew.ended}
        self._told &= ended.keys()
        for each in sorted(ended.keys() - self._told):
            await tell_end(self._registry, ended[each])
            self._told.add(each)
