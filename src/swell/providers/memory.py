"""Provider without workers, for tests.

The clock moves instances: they start after `boot_s` seconds, and end when the grace period of
`terminate` ends. `end` ends one earlier.
"""

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from swell.core.clock import Clock
from swell.core.provider import Instance, InstanceState, LaunchRequest, Notice, Refused


class MemoryProvider:
    """Instances in a dictionary.

    Args:
        clock: The clock.
        boot_s: Boot time of an instance, in seconds.
        capacity: Limit of living instances; None for no limit.
    """

    def __init__(self, clock: Clock, *, boot_s: float = 0.0, capacity: int | None = None) -> None:
        self._clock = clock
        self._boot_s = boot_s
        self._capacity = capacity
        self._numbers = itertools.count(1)
        self._instances: dict[str, Instance] = {}
        self._ends: dict[str, datetime] = {}
        self._notices: list[Notice] = []
        self._refusal: Refused | None = None
        #: All requests in order, for tests.
        self.launches: list[LaunchRequest] = []

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Launch instances.

        Raises:
            Refused: The request exceeds `capacity`, or `refuse` set a refusal.
        """
        if again := [
            i for i in await self.instances() if request.token and i.token == request.token
        ]:
            return again
        if self._refusal is not None:
            raise self._refusal
        living = [i for i in await self.instances() if i.state is not InstanceState.ENDED]
        if self._capacity is not None and len(living) + request.n > self._capacity:
            raise Refused(f"only {self._capacity} instances can live at a time", is_quota=True)
        self.launches.append(request)
        ids = [f"{request.pool}-{next(self._numbers)}" for _ in range(request.n)]
        for each in ids:
            self._instances[each] = Instance(
                id=each,
                pool=request.pool,
                state=InstanceState.STARTING,
                launched_at=self._clock.now(),
                token=request.token,
            )
        self._move()
        return [self._instances[each] for each in ids]

    async def instances(self, pool: str | None = None) -> list[Instance]:
        self._move()
        return [i for i in self._instances.values() if pool is None or i.pool == pool]

    async def notices(self) -> list[Notice]:
        """Return the notices of living instances."""
        self._move()
        living = {i.id for i in self._instances.values() if i.state is not InstanceState.ENDED}
        return [each for each in self._notices if each.instance_id in living]

    def refuse(self, refusal: Refused | None) -> None:
        """Refuse all launches from now on; None to accept them again."""
        self._refusal = refusal

    def warn(self, notice: Notice) -> None:
        """Report a notice from now on."""
        self._notices.append(notice)

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Let workers drain for `grace_s` seconds, then end them. Unknown ids are ignored."""
        self._move()
        for each in instance_ids:
            instance = self._instances.get(each)
            if instance is None or instance.state is InstanceState.ENDED:
                continue
            end_at = self._clock.now() + timedelta(seconds=grace_s)
            self._ends[each] = min(end_at, self._ends.get(each, end_at))
            self._instances[each] = msgspec.structs.replace(instance, state=InstanceState.STOPPING)
        self._move()

    def end(self, instance_id: str, exit_code: int = 0) -> None:
        """End an instance now."""
        self._instances[instance_id] = msgspec.structs.replace(
            self._instances[instance_id],
            state=InstanceState.ENDED,
            ended_at=self._clock.now(),
            exit_code=exit_code,
        )

    async def close(self) -> None:
        """End all instances."""
        self._move()
        for each, instance in self._instances.items():
            if instance.state is not InstanceState.ENDED:
                self.end(each)

    def _forget(self, instance_ids: Sequence[str]) -> None:
        """Remove instances from the list."""
        for each in instance_ids:
            self._instances.pop(each, None)
            self._ends.pop(each, None)

    def _move(self) -> None:
        now = self._clock.now()
        for each, instance in list(self._instances.items()):
            if instance.state is InstanceState.STARTING:
                if now >= instance.launched_at + timedelta(seconds=self._boot_s):
                    running = msgspec.structs.replace(instance, state=InstanceState.RUNNING)
                    self._instances[each] = running
            elif instance.state is InstanceState.STOPPING and now >= self._ends[each]:
                self.end(each)
