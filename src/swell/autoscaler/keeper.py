"""Keeps a fixed number of workers alive: what `swell up` does on one machine.

`missing` decides and is pure; the loop gathers, asks it, and acts. A worker that ends soon after
its start has failed to start, and each further one in a row doubles the wait before the next.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from swell.core.clock import Clock
from swell.core.errors import Unavailable
from swell.core.provider import Instance, InstanceState, LaunchRequest, Provider

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How patiently a worker that keeps ending is started again."""

    #: A worker that ended within this time of its start counts as failed, in seconds.
    healthy_after_s: float = 10.0
    #: Wait after the first failure in a row, in seconds; doubles with each further one.
    base_s: float = 0.5
    #: Longest wait, in seconds.
    cap_s: float = 30.0

    def delay_s(self, failures: int) -> float:
        """Return the wait after so many failures in a row, in seconds."""
        if failures == 0:
            return 0.0
        return float(min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60)))


def missing(
    instances: Sequence[Instance], wanted: int, now: datetime, policy: RestartPolicy
) -> int:
    """Return how many workers to start now."""
    living = [i for i in instances if i.state in {InstanceState.STARTING, InstanceState.RUNNING}]
    short = wanted - len(living)
    if short <= 0:
        return 0
    failures, last_end_at = _failures(instances, policy)
    if last_end_at is not None:
        if now < last_end_at + timedelta(seconds=policy.delay_s(failures)):
            return 0
        if failures > 1:
            return 1  # what keeps failing is tried one at a time
    return short


def _failures(instances: Sequence[Instance], policy: RestartPolicy) -> tuple[int, datetime | None]:
    """Count the failed starts since the last worker that was healthy, and when the last ended."""
    healthy = timedelta(seconds=policy.healthy_after_s)
    ended = [i for i in instances if i.state is InstanceState.ENDED and i.ended_at is not None]
    ended.sort(key=lambda i: i.ended_at or i.launched_at, reverse=True)
    count = 0
    for instance in ended:
        if instance.ended_at is None or instance.ended_at - instance.launched_at >= healthy:
            break
        count += 1
    return count, ended[0].ended_at if ended else None


class Keeper:
    """Keeps `wanted` workers of one pool alive through a provider.

    Args:
        provider: Who starts them.
        wanted: How many.
        request: For one worker; it names the pool.
        clock: For the waits.
        policy: How patiently failed ones are started again.
        on_end: Told of each worker that ended without having been asked to.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        wanted: int,
        request: LaunchRequest,
        clock: Clock,
        policy: RestartPolicy = RestartPolicy(),
        on_end: Callable[[Instance], None] = lambda _: None,
    ) -> None:
        self._provider = provider
        self.pool = request.pool
        self._wanted = wanted
        self._request = request
        self._clock = clock
        self._policy = policy
        self._on_end = on_end
        self._told: set[str] = set()
        self._is_stopping = False

    async def run(self, poll_s: float = 0.25) -> None:
        """Start workers whenever some are missing, until `drain` is called."""
        while not self._is_stopping:
            await self.step()
            await self._clock.sleep(poll_s)

    async def step(self) -> None:
        """Look once, and start what is missing."""
        instances = await self._provider.instances(self.pool)
        self._tell_ends(instances)
        n = missing(instances, self._wanted, self._clock.now(), self._policy)
        for _ in range(0 if self._is_stopping else n):
            try:
                await self._provider.launch(self._request)
            except Unavailable as error:
                _log.warning("no worker could be started: %s", error.detail)
                return

    async def drain(self, grace_s: float) -> list[str]:
        """Start no more, ask all to end, and return their ids. May be repeated to hurry."""
        self._is_stopping = True
        instances = await self._provider.instances(self.pool)
        ids = [i.id for i in instances if i.state is not InstanceState.ENDED]
        self._told.update(ids)
        await self._provider.terminate(ids, grace_s=grace_s)
        return ids

    def _tell_ends(self, instances: Sequence[Instance]) -> None:
        for instance in instances:
            if instance.state is InstanceState.ENDED and instance.id not in self._told:
                self._told.add(instance.id)
                self._on_end(instance)
        self._told &= {instance.id for instance in instances}
