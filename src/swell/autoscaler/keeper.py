"""Keeps a fixed number of workers alive, for `swell up` on one machine.

A worker that ends soon after its start has failed. Each consecutive failure doubles the wait before
the next start. `missing` makes the decision and is pure.
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
    """Back-off for workers that end soon after their start."""

    #: A worker that ended within this time of its start has failed, in seconds.
    healthy_after_s: float = 10.0
    #: Wait after the first failure, in seconds; doubles with each consecutive one.
    base_s: float = 0.5
    #: Longest wait, in seconds.
    cap_s: float = 30.0

    def delay_s(self, failures: int) -> float:
        """Return the wait after this number of consecutive failures, in seconds."""
        if failures == 0:
            return 0.0
        return float(min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60)))


def missing(
    instances: Sequence[Instance], wanted: int, now: datetime, policy: RestartPolicy
) -> int:
    """Return the number of workers to start now."""
    living = [i for i in instances if i.state in {InstanceState.STARTING, InstanceState.RUNNING}]
    short = wanted - len(living)
    if short <= 0:
        return 0
    failures, last_end_at = _failures(instances, policy)
    if last_end_at is not None:
        if now < last_end_at + timedelta(seconds=policy.delay_s(failures)):
            return 0
        if failures > 1:
            return 1  # start failing workers one at a time
    return short


def _failures(instances: Sequence[Instance], policy: RestartPolicy) -> tuple[int, datetime | None]:
    """Count the failures since the last healthy worker, and return the time of the last end."""
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
    """Keeps `wanted` workers of one pool alive.

    Args:
        provider: Starts the workers.
        wanted: Number of workers.
        request: Launch request for one worker; names the pool.
        clock: The clock.
        policy: Back-off after failures.
        on_end: Called for each worker that ended unexpectedly.
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
        """Keep the workers alive until `drain` is called."""
        while not self._is_stopping:
            await self.step()
            await self._clock.sleep(poll_s)

    async def step(self) -> None:
        """Start missing workers once."""
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
        """Stop starting workers, terminate all, and return their ids. Repeat it to hurry them."""
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
