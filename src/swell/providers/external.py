"""Provider for workers that KEDA, an operator or a script starts.

The controller plans for such a pool as for any other, and `GET /v1/pools` reports how many workers
it wants. `launch` creates placeholders for expected workers. A placeholder stays in the state
STARTING, because the provider cannot match it to a worker: once enough workers have registered, the
controller terminates placeholders. A placeholder costs nothing and disappears at once when
terminated.

The controller never chooses workers to drain in such a pool. The external system ends them, and
each worker drains within its own grace period.
"""

from collections.abc import Sequence
from typing import Final

from swell.core.clock import Clock
from swell.providers.memory import MemoryProvider
from swell.providers.options import Options

#: Placeholders never start: some decades, in seconds.
_NEVER_S: Final = 1e9


class ExternalOptions(Options):
    """Options of an external pool: none."""


class ExternalProvider(MemoryProvider):
    """Placeholders for workers that an external system starts.

    Args:
        options: Empty.
        clock: The clock.
        deployment: Unused.
    """

    def __init__(self, options: ExternalOptions, clock: Clock, deployment: str) -> None:
        super().__init__(clock, boot_s=_NEVER_S)

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Remove placeholders at once: none has a worker to drain."""
        self._forget(instance_ids)

    async def close(self) -> None:
        """Remove all placeholders."""
        self._forget([each.id for each in await self.instances()])
