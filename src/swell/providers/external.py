"""Workers that somebody else starts, by the number that is wanted: KEDA, an operator, a script.

The controller plans for such a pool as for any, and `GET /v1/pools` tells how many it wants. What
is asked for here is a place that a worker is expected to fill. It is never filled, since nobody can
say which worker fills it: when workers have joined, the controller has enough and takes places
back. A place is no machine: it waits for as long as it takes, costs nothing, and one that is taken
back is gone at once.

So nothing is drained by choice: whoever starts the workers also ends them, and each has its grace.
"""

from collections.abc import Sequence
from typing import Final

from swell.core.clock import Clock
from swell.providers.memory import MemoryProvider
from swell.providers.options import Options

#: No place is ever filled: in decades, in seconds.
_NEVER_S: Final = 1e9


class ExternalOptions(Options):
    """Options of a pool whose workers somebody else starts; there are none."""


class ExternalProvider(MemoryProvider):
    """Places that workers are expected to fill.

    Args:
        options: None.
        clock: The time.
        deployment: Whose they are; it does not matter.
    """

    def __init__(self, options: ExternalOptions, clock: Clock, deployment: str) -> None:
        super().__init__(clock, boot_s=_NEVER_S)

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Forget places at once: nobody works there who could finish anything, or be charged."""
        self._forget(instance_ids)

    async def close(self) -> None:
        """Forget all places."""
        self._forget([each.id for each in await self.instances()])
