"""Reports ended machines, so that their cost adds up to the provider's bill."""

from collections.abc import Iterable

from swell.autoscaler.crew import Crew
from swell.db.instance_notices import tell_end
from swell.db.registry import Registry


class Ends:
    """Reports the end of each machine once.

    Args:
        registry: Receives the reports. The next leader repeats them, which changes nothing.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._told: set[str] = set()

    async def tell(self, crews: Iterable[Crew]) -> None:
        """Report the machines that ended since the last call."""
        ended = {machine.id: machine for crew in crews for machine, _ in crew.ended}
        self._told &= ended.keys()
        for each in sorted(ended.keys() - self._told):
            await tell_end(self._registry, ended[each])
            self._told.add(each)
