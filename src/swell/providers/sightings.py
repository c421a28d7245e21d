"""Memory of the instances that a provider has listed, to correct incomplete lists.

A cloud can list a new machine some seconds late, and stops listing a deleted one. Without a memory,
both would look like lost machines. Some lists also omit a machine that earlier and later lists
contain.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from swell.core.clock import Clock
from swell.core.provider import Instance, InstanceState

#: Time until a new instance must be listed, in seconds.
_LATE_S: Final = 120.0

#: An instance has ended if two consecutive lists omit it, this many seconds apart.
_SURE_S: Final = 5.0

#: Time to believe that a terminated instance is stopping although it is listed as running, in
#: seconds. After that, the termination may have failed.
_GOING_S: Final = 600.0

#: Time to list an ended instance, in seconds, and the limit of listed ended instances.
_KEPT_S: Final = 3600.0
_MOST: Final = 1000


class Sightings:
    """Corrects the lists of a provider.

    Args:
        clock: The clock.
        late_s: Time until a new instance must be listed, in seconds.
        sure_s: Time that a listed instance may be missing, in seconds; 0 if lists are complete.
    """

    def __init__(self, clock: Clock, *, late_s: float = _LATE_S, sure_s: float = _SURE_S) -> None:
        self._clock = clock
        self._sure = timedelta(seconds=sure_s)
        self._late_s = late_s
        self._known: dict[str, Instance] = {}
        #: Instances not listed yet, with the launch in monotonic seconds. `launched_at` is the
        #: cloud's time, which can differ from ours by minutes.
        self._unlisted: dict[str, float] = {}
        #: Instances missing from the last list, and since when.
        self._missing: dict[str, datetime] = {}
        #: Terminated instances, and when.
        self._going: dict[str, datetime] = {}

    def launched(self, instances: Iterable[Instance]) -> list[Instance]:
        """Add launched instances, and return their known state."""
        noted = []
        for each in instances:
            if each.id not in self._known:
                self._known[each.id] = each
                self._unlisted[each.id] = self._clock.monotonic_s()
            noted.append(self._known[each.id])
        return noted

    def of_launch(self, pool: str, token: str) -> list[Instance]:
        """Return the known instances of a launch token; none for an empty token."""
        found = self._known.values() if token else ()
        return [each for each in found if (each.pool, each.token) == (pool, token)]

    def told_to_go(self, instance_ids: Iterable[str]) -> None:
        """Record terminated instances, which may be listed as running for a while."""
        now = self._clock.now()
        self._going |= {each: now for each in instance_ids if each in self._known}

    async def end_all(self, ids: Collection[str], end: Callable[[str], Awaitable[None]]) -> None:
        """Terminate instances concurrently, and record each success.

        Args:
            ids: Instance ids.
            end: Terminates one instance.

        Raises:
            BaseException: The first error, after all calls have finished.
        """
        came = await asyncio.gather(*map(end, ids), return_exceptions=True)
        told = dict(zip(ids, came, strict=True))
        self.told_to_go(each for each, error in told.items() if error is None)
        for error in told.values():
            if error is not None:
                raise error

    def unlisted(self) -> set[str]:
        """Return the ids of instances that are not listed yet."""
        return set(self._unlisted)

    def listed(
        self, found: Iterable[Instance], pool: str | None = None, *, unsure: Collection[str] = ()
    ) -> list[Instance]:
        """Return all instances of a pool, given the provider's list.

        Args:
            found: The provider's list.
            pool: Pool of the list; None for all pools.
            unsure: Locations that did not answer.
        """
        now = self._clock.now()
        there = {each.id: each for each in found}
        for each in there.values():
            self._known[each.id] = self._seen(each, now)
            self._unlisted.pop(each.id, None)
            self._missing.pop(each.id, None)
        for known in list(self._known.values()):
            is_asked = pool is None or known.pool == pool
            if is_asked and known.id not in there and known.location not in unsure:
                self._miss(known, now)
        self._forget(now)
        return [each for each in self._known.values() if pool is None or each.pool == pool]

    def _seen(self, instance: Instance, now: datetime) -> Instance:
        if instance.state is InstanceState.ENDED:
            before = self._known.get(instance.id)
            return _ended(instance, instance.ended_at or (before and before.ended_at) or now)
        told_at = self._going.get(instance.id)
        if told_at is None or now > told_at + timedelta(seconds=_GOING_S):
            # Also one that counted as ended: it is listed, so it is billed.
            return instance
        before = self._known.get(instance.id)
        if before is not None and before.state is InstanceState.ENDED:
            return before
        return msgspec.structs.replace(instance, state=InstanceState.STOPPING)

    def _miss(self, known: Instance, now: datetime) -> None:
        if known.state is InstanceState.ENDED:
            return
        since = self._missing.setdefault(known.id, now)
        is_going = known.id in self._going or known.state is InstanceState.STOPPING
        if not is_going and not self._is_sure(known, now, since):
            return
        del self._missing[known.id]
        self._unlisted.pop(known.id, None)
        self._known[known.id] = _ended(known, since)

    def _is_sure(self, known: Instance, now: datetime, since: datetime) -> bool:
        """Return whether a missing instance has ended, although it was not terminated."""
        noted_s = self._unlisted.get(known.id)
        if noted_s is not None:
            return self._clock.monotonic_s() >= noted_s + self._late_s
        return now >= since + self._sure

    def _forget(self, now: datetime) -> None:
        ended = [each for each in self._known.values() if each.ended_at is not None]
        ended.sort(key=lambda each: each.ended_at or now)
        kept = {each.id for each in ended[-_MOST:]}
        for each in ended:
            is_old = each.ended_at is None or now > each.ended_at + timedelta(seconds=_KEPT_S)
            if is_old or each.id not in kept:
                del self._known[each.id]
                self._going.pop(each.id, None)


def _ended(instance: Instance, at: datetime) -> Instance:
    """Return the ended instance. Its end is never before its launch, although clocks differ."""
    return msgspec.structs.replace(
        instance, state=InstanceState.ENDED, ended_at=max(at, instance.launched_at)
    )
