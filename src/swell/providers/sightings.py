"""What a provider was seen to have: some forget at once what has ended, and some tell late.

A cloud that was asked for machines may not list them for some seconds, and one that deletes them
lists them no more. Both would look like a machine that was lost. And some lists leave out what
earlier and later ones have.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from swell.core.clock import Clock
from swell.core.provider import Instance, InstanceState

#: For so long what was launched may be missing from a list, in seconds.
_LATE_S: Final = 120.0

#: What was listed has ended once it was missing in two lists in a row, the second of them so much
#: later, in seconds.
_SURE_S: Final = 5.0

#: For so long a list may say that what was told to end runs, in seconds. Then it is believed: a
#: cloud may have taken the order, and failed.
_GOING_S: Final = 600.0

#: For so long what has ended is still told, in seconds, and at most so many.
_KEPT_S: Final = 3600.0
_MOST: Final = 1000


class Sightings:
    """Instances as they were last seen.

    Args:
        clock: The time.
        late_s: For so long what was launched may be missing from a list, in seconds.
        sure_s: For so long what was listed may be, in seconds; 0 where lists leave nothing out.
    """

    def __init__(self, clock: Clock, *, late_s: float = _LATE_S, sure_s: float = _SURE_S) -> None:
        self._clock = clock
        self._sure = timedelta(seconds=sure_s)
        self._late_s = late_s
        self._known: dict[str, Instance] = {}
        #: What was launched and not listed so far, and when that was noted, in monotonic seconds:
        #: the cloud's clock, by which it was launched, may be minutes behind ours.
        self._unlisted: dict[str, float] = {}
        #: What the last list did not have, and since when.
        self._missing: dict[str, datetime] = {}
        #: What was told to end, and when.
        self._going: dict[str, datetime] = {}

    def launched(self, instances: Iterable[Instance]) -> list[Instance]:
        """Note what was asked for; return it as it is known."""
        noted = []
        for each in instances:
            if each.id not in self._known:
                self._known[each.id] = each
                self._unlisted[each.id] = self._clock.monotonic_s()
            noted.append(self._known[each.id])
        return noted

    def of_launch(self, pool: str, token: str) -> list[Instance]:
        """Return what was launched with a token and is remembered; nothing for an empty one."""
        found = self._known.values() if token else ()
        return [each for each in found if (each.pool, each.token) == (pool, token)]

    def told_to_go(self, instance_ids: Iterable[str]) -> None:
        """Note what was told to end: a list may say for a while that it runs."""
        now = self._clock.now()
        self._going |= {each: now for each in instance_ids if each in self._known}

    async def end_all(self, ids: Collection[str], end: Callable[[str], Awaitable[None]]) -> None:
        """Tell instances to end, all at once, and note those that were told.

        Args:
            ids: Which.
            end: Tells one.

        Raises:
            BaseException: What telling one has raised; all others were told.
        """
        came = await asyncio.gather(*map(end, ids), return_exceptions=True)
        told = dict(zip(ids, came, strict=True))
        self.told_to_go(each for each, error in told.items() if error is None)
        for error in told.values():
            if error is not None:
                raise error

    def unlisted(self) -> set[str]:
        """Return the ids of what was launched and not listed so far."""
        return set(self._unlisted)

    def listed(
        self, found: Iterable[Instance], pool: str | None = None, *, unsure: Collection[str] = ()
    ) -> list[Instance]:
        """Return all instances of a pool, given what the provider lists of it.

        Args:
            found: What it lists; of a pool, or of all.
            pool: Which pool that is; None for all.
            unsure: Locations of which it could not say what there is.
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
            # Also what was missing for a while: it costs as long as it is there.
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
        """Whether what is missing has ended, though it was not told to."""
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
    """Return an instance that has ended, and not before it began, whoever's clock that was."""
    return msgspec.structs.replace(
        instance, state=InstanceState.ENDED, ended_at=max(at, instance.launched_at)
    )
