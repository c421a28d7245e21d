"""Quotas and credits of keys and their users: kept in the store, so that all backends share them.

What is limited and how it is counted says `swell.quotas`. A task of a key with quotas is entered
there before the store accepts it, under the id that it will have, and released when it has ended.
What a crash leaves between the two is found by `look_after`: a hold whose task was never accepted,
or has ended, is released then. Keys without quotas cost a look into a set.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from swell.api.call import Call
from swell.api.questions import SingleFlight
from swell.api.samples import made_by
from swell.clock import Clock
from swell.db.registry import Registry
from swell.errors import CreditsUsedUp, QuotaExceeded, SwellError
from swell.money.amounts import dollars
from swell.quotas import (
    Ask,
    Refusal,
    Settled,
    Standing,
    Verdict,
    enter,
    place_of,
    resets_at,
)
from swell.store import Accepted
from swell.stores.tasks import Store
from swell.task import NewTask, Task, TaskState, new_id

#: Which keys have quotas is looked up so often, in seconds.
_FRESH_S: Final = 2.0

#: What has ended is entered so often, and what was left behind is looked for, in seconds.
SETTLE_EVERY_S: Final = 1.0
LOOK_EVERY_S: Final = 60.0

#: A hold without a task is that of one that was never accepted after so long, in seconds.
_LEFT_S: Final = 120.0
_AT_ONCE: Final = 500

#: What was used on a day is kept for so long.
_KEPT: Final = timedelta(days=62)

_replace = msgspec.structs.replace

#: Has the store accept tasks.
Make = Callable[[Sequence[NewTask]], Awaitable[list[Accepted | SwellError]]]


class Quotas:
    """The door of one backend process for keys that have quotas.

    Args:
        registry: Keeps what is used.
        store: Knows which tasks have ended.
        clock: The time.
        price: Returns what a task will cost most probably, in millionths of a dollar.
        samples: Returns how many samples a task makes.
        sample_micros: What a sample costs where its worker's pool has no price.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        clock: Clock,
        price: Callable[[NewTask], int | None],
        samples: Callable[[Task | NewTask], int],
        sample_micros: int = 0,
    ) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._price = price
        self._samples = samples
        self._sample_micros = sample_micros
        self._keys: frozenset[str] = frozenset()
        #: Those that ever had quotas while this process ran: tasks of theirs may be held.
        self._ever: frozenset[str] = frozenset()
        self._read_at_s = -math.inf
        self._asked: list[tuple[list[Ask], asyncio.Future[Verdict]]] = []
        self._entering: asyncio.Task[None] | None = None
        self._ended: list[Settled] = []
        self._looked_at = ""
        self._flights: SingleFlight[str, None] = SingleFlight()
        #: How often all was forgotten: what was read before that does not count after it.
        self._forgotten = 0

    def may_limit(self, key_id: str) -> bool:
        """Whether a key has quotas, or that is to be looked up."""
        if self._clock.monotonic_s() - self._read_at_s > _FRESH_S:
            return True
        return key_id in self._keys

    def forget(self) -> None:
        """Look up which keys have quotas before anything else is accepted."""
        self._flights.forget()
        self._forgotten += 1
        self._read_at_s = -math.inf

    async def accept(
        self, call: Call, news: Sequence[NewTask], make: Make
    ) -> list[Accepted | SwellError]:
        """Have the store accept tasks of one key, if there is so much left for them.

        Args:
            call: Who asks: the key, or an operator.
            news: The tasks.
            make: Has the store accept them.

        Raises:
            QuotaExceeded: A limit is used up until the day or the month is over.
            CreditsUsedUp: They would cost more than was paid.
        """
        key_id = news[0].key_id
        if not await self._limits(key_id) or await self._is_repeat(news[0]):
            return await make(news)
        now, is_own = self._clock.now(), call.caller.id == key_id
        named = [_replace(each, id=each.id or new_id(now)) for each in news]
        verdict = await self._enter([self._ask(each, now) for each in named])
        if is_own:
            self._tell(call, verdict.standings, now)
        if verdict.refusal is not None:
            raise _error_of(verdict.refusal, now, "this key" if is_own else f"key {key_id}")
        try:
            accepted = await make(named)
        except SwellError as error:
            # Where the store failed it may have been accepted all the same: `look_after` finds out.
            if error.status < 500:
                self._never_were(named)
            raise
        taken = {each.task.id for each in accepted if isinstance(each, Accepted) and each.is_new}
        self._never_were([each for each in named if each.id not in taken])
        return accepted

    def _never_were(self, entered: Sequence[NewTask | Ask]) -> None:
        self._ended += [Settled(each.id or "", was_task=False) for each in entered]

    async def would_refuse(self, new: NewTask, micros: int) -> SwellError | None:
        """Return how a task would be refused now; None where it would be accepted."""
        if not await self._limits(new.key_id):
            return None
        now = self._clock.now()
        ask = _replace(self._ask(_replace(new, id="0"), now), micros=micros)
        places = [place_of(new.key_id, None)]
        if new.user:
            places.append((new.key_id, f"={new.user}"))
        sheet = await self._registry.sheet(places, now)
        verdict, _ = enter(sheet.copy(), [ask])
        return None if verdict.refusal is None else _error_of(verdict.refusal, now)

    def ended(self, task: Task) -> None:
        """Note that a task has ended."""
        if task.key_id in self._ever:
            self._ended.append(self._settled(task))

    async def settle(self) -> None:
        """Enter what has ended since the last time."""
        while self._ended:
            part, self._ended = self._ended[:_AT_ONCE], self._ended[_AT_ONCE:]
            try:
                await self._registry.release(part)
            except BaseException:
                self._ended = part + self._ended
                raise

    async def look_after(self) -> None:
        """Release what a crash has left: holds of tasks that have ended, or never were."""
        now = self._clock.now()
        before = now - timedelta(seconds=_LEFT_S)
        holds = await self._registry.holds(after=self._looked_at, before=before, limit=_AT_ONCE)
        self._looked_at = holds[-1].id if len(holds) == _AT_ONCE else ""
        if holds:
            tasks = await self._store.get([each.id for each in holds])
            over = [
                Settled(hold.id, was_task=False) if task is None else self._settled(task)
                for hold, task in zip(holds, tasks, strict=True)
                if task is None or task.state.is_terminal
            ]
            if over:
                await self._registry.release(over)
        await self._registry.forget_uses((now - _KEPT).date())

    async def refresh(self) -> None:
        """Look up which keys have quotas."""
        forgotten = -1
        while forgotten != self._forgotten:
            forgotten = self._forgotten
            await self._flights.run("which", self._read)

    async def _read(self) -> None:
        at_s, forgotten = self._clock.monotonic_s(), self._forgotten
        keys = await self._registry.quota_keys()
        self._ever |= keys
        # What was asked before a quota was set is not the answer to who asks after it, and what was
        # asked first may be answered last.
        if self._forgotten == forgotten and at_s >= self._read_at_s:
            self._keys, self._read_at_s = keys, at_s

    async def _limits(self, key_id: str) -> bool:
        if self._clock.monotonic_s() - self._read_at_s > _FRESH_S:
            await self.refresh()
        return key_id in self._keys

    async def _is_repeat(self, new: NewTask) -> bool:
        """Whether tasks were accepted before under the same idempotency key: those are there."""
        key = new.idempotency_key
        return key is not None and await self._store.knows(new.key_id, key)

    def _ask(self, new: NewTask, now: datetime) -> Ask:
        assert new.id is not None, "named before"
        micros, samples = self._price(new), self._samples(new)
        if micros is None:
            micros = self._sample_micros * samples
        return Ask(
            id=new.id,
            key_id=new.key_id,
            user=new.user,
            samples=samples,
            micros=micros,
            at=now,
        )

    def _settled(self, task: Task) -> Settled:
        if task.state is not TaskState.SUCCEEDED:
            return Settled(task.id)
        made = made_by(task)
        micros = None if task.timings is None else task.timings.cost_micros
        if micros is None:
            micros = self._sample_micros * (made or self._samples(task))
        return Settled(task.id, micros, made)

    async def _enter(self, asks: list[Ask]) -> Verdict:
        """Enter tasks; all that want to in one turn of the loop share a transaction."""
        done: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._asked.append((asks, done))
        if self._entering is None:
            self._entering = asyncio.create_task(self._enter_all(), name="quotas")
        return await done

    async def _enter_all(self) -> None:
        try:
            while self._asked:
                await asyncio.sleep(0)
                part, self._asked = self._asked[:_AT_ONCE], self._asked[_AT_ONCE:]
                try:
                    verdicts = await self._registry.reserve([asks for asks, _ in part])
                    entered = list(zip(part, verdicts, strict=True))
                except BaseException as error:
                    for _, done in part:
                        if not done.done():
                            done.set_exception(error)
                    if not isinstance(error, Exception):
                        raise
                    continue
                for (asks, done), verdict in entered:
                    if not done.done():
                        done.set_result(verdict)
                    elif verdict.refusal is None:
                        # Whoever asked has gone.
                        self._never_were(asks)
        finally:
            self._entering = None

    def _tell(self, call: Call, standings: Sequence[Standing], now: datetime) -> None:
        for each in standings:
            name = each.name.encode()
            left = max(0, each.left)
            if not each.period:
                call.tell(b"ratelimit-policy", b'"%s";q=%d' % (name, max(0, each.limit)))
                call.tell(b"ratelimit", b'"%s";r=%d' % (name, left))
                continue
            window_s = 86_400 if len(each.period) > 7 else 2_678_400
            policy = b'"%s";q=%d;w=%d' % (name, each.limit, window_s)
            call.tell(b"ratelimit-policy", policy)
            call.tell(b"ratelimit", b'"%s";r=%d;t=%d' % (name, left, _until_s(each.period, now)))


def _until_s(period: str, now: datetime) -> int:
    return max(1, math.ceil((resets_at(period) - now).total_seconds()))


def _error_of(refusal: Refusal, now: datetime, key: str = "this key") -> SwellError:
    standing = refusal.standing
    whose = key if standing.user is None else f"user {standing.user!r} of {key}"
    if not standing.period:
        return CreditsUsedUp(
            f"{whose} has credits of {dollars(standing.left)} left, and this would cost about "
            f"{dollars(refusal.asked)}: ask the operator to top up (`swell quotas "
            "KEY_ID --credit`), or ask for less"
        )
    is_money = standing.unit == "micros"
    limit = dollars(standing.limit) if is_money else f"{standing.limit:,} {standing.unit}"
    left = dollars(max(0, standing.left)) if is_money else f"{max(0, standing.left):,}"
    asked = dollars(refusal.asked) if is_money else f"{refusal.asked:,}"
    wait_s = _until_s(standing.period, now)
    name = "month" if len(standing.period) == 7 else "day"
    return QuotaExceeded(
        f"{whose} may use {limit} per {name} (UTC), with {left} left, and this "
        f"request needs {asked}: the next {name} begins in {wait_s} s. Ask for "
        "less until then, or ask the operator for a higher limit",
        headers={"Retry-After": str(wait_s)},
    )
