"""Reserves quota and credits for accepted tasks, and settles them when the tasks end.

The limits are in `swell.core.quota`; the rows are in the database, shared by all backends. Quota is
reserved under the id of a task before the store accepts it. `repair` releases reservations that a
crash leaves behind: their task was never accepted, or its end was not settled. Keys without quotas
cost a look into a set.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from swell.core.billing.money_format import dollars
from swell.core.clock import Clock
from swell.core.errors import CreditsUsedUp, QuotaExceeded, SwellError
from swell.core.quota import (
    Ask,
    Settled,
    Standing,
    Verdict,
    enter,
    period_name,
    places_of,
    resets_at,
)
from swell.core.store_types import Accepted
from swell.core.task import NewTask, Task, TaskState, new_id
from swell.db.registry import Registry
from swell.db.task_store import Store
from swell.server.request import Call
from swell.server.tasks.sample_counts import made_by

#: How long the set of keys with quotas is used before it is read again, in seconds.
_FRESH_S: Final = 2.0

#: A reservation without a task is released after this time, in seconds.
_ABANDONED_S: Final = 120.0
_AT_ONCE: Final = 500

#: The use of a day is stored for this time.
_KEPT: Final = timedelta(days=62)

#: Has the store accept tasks.
Make = Callable[[Sequence[NewTask]], Awaitable[list[Accepted | SwellError]]]


class Quotas:
    """Enforces quotas in one backend process.

    Args:
        registry: Has the accounts.
        store: Has the tasks.
        clock: The time.
        price: Returns the expected cost of a task, in millionths of a dollar.
        samples: Returns the samples of a task.
        sample_micros: The cost of a sample in pools without a price.
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
        #: Keys with quotas, and until when that is fresh, in monotonic seconds.
        self.keys: frozenset[str] = frozenset()
        self.fresh_until_s = -math.inf
        #: Keys that had quotas since this process started: their tasks may have reservations.
        self.ever: frozenset[str] = frozenset()
        self._reading = asyncio.Lock()
        #: Number of calls of `forget`.
        self._changes = 0
        self._ended: list[Settled] = []
        self._repaired_to = ""

    def forget(self) -> None:
        """Read which keys have quotas before the next task is accepted."""
        self._changes += 1
        self.fresh_until_s = -math.inf

    async def _limits(self, key_id: str) -> bool:
        async with self._reading:
            while (at_s := self._clock.monotonic_s()) >= self.fresh_until_s:
                changes = self._changes
                keys = await self._registry.quota_keys()
                self.ever |= keys
                # A quota that was set during the read may be missing from the answer.
                if changes == self._changes:
                    self.keys, self.fresh_until_s = keys, at_s + _FRESH_S
                    break
        return key_id in self.keys

    async def accept(
        self, call: Call, news: Sequence[NewTask], make: Make
    ) -> list[Accepted | SwellError]:
        """Reserve quota for tasks of one key, and have the store accept them.

        Args:
            call: The request of the key, or of an operator.
            news: The tasks.
            make: Has the store accept them.

        Raises:
            QuotaExceeded: A limit is reached until the day or the month ends.
            CreditsUsedUp: The credits do not cover them.
        """
        key_id = news[0].key_id
        if not await self._limits(key_id) or await self._is_repeat(news[0]):
            return await make(news)
        now, is_own = self._clock.now(), call.caller.id == key_id
        named = [replace(each, id=each.id or new_id(now)) for each in news]
        [verdict] = await self._registry.reserve([[self._ask(each, now) for each in named]])
        if is_own:
            _add_headers(call, verdict.standings, now)
        if verdict.refused_by is not None:
            raise _error_of(verdict, now, "this key" if is_own else f"key {key_id}")
        try:
            accepted = await make(named)
        except SwellError as error:
            # After a failure of the store the tasks may exist: `repair` finds out.
            if error.status < 500:
                self._undo(named)
            raise
        taken = {each.task.id for each in accepted if isinstance(each, Accepted) and each.is_new}
        self._undo(each for each in named if each.id not in taken)
        return accepted

    async def would_refuse(self, new: NewTask, micros: int) -> SwellError | None:
        """Return the error that a task would get now; None if it would be accepted."""
        if not await self._limits(new.key_id):
            return None
        now = self._clock.now()
        ask = replace(self._ask(replace(new, id="0"), now), micros=micros)
        sheet = await self._registry.sheet(places_of(new.key_id, new.user), now)
        verdict, _ = enter(sheet, [ask])
        return None if verdict.refused_by is None else _error_of(verdict, now)

    def _undo(self, reserved: Iterable[NewTask]) -> None:
        self._ended += [Settled(each.id or "", was_task=False) for each in reserved]

    def ended(self, task: Task) -> None:
        """Have the reservation of an ended task settled; its key must have one."""
        self._ended.append(self._settled(task))

    async def settle(self) -> None:
        """Settle the reservations of tasks that have ended since the last call."""
        while part := self._ended[:_AT_ONCE]:
            await self._registry.release(part)
            del self._ended[: len(part)]

    async def repair(self) -> None:
        """Release reservations of tasks that have ended or were never accepted, after a crash."""
        now = self._clock.now()
        before = now - timedelta(seconds=_ABANDONED_S)
        holds = await self._registry.holds(after=self._repaired_to, before=before, limit=_AT_ONCE)
        self._repaired_to = holds[-1].id if len(holds) == _AT_ONCE else ""
        tasks = await self._store.get([each.id for each in holds]) if holds else []
        over = [
            Settled(hold.id, was_task=False) if task is None else self._settled(task)
            for hold, task in zip(holds, tasks, strict=True)
            if task is None or task.state.is_terminal
        ]
        if over:
            await self._registry.release(over)
        await self._registry.forget_uses((now - _KEPT).date())

    async def _is_repeat(self, new: NewTask) -> bool:
        key = new.idempotency_key
        return key is not None and await self._store.knows(new.key_id, key)

    def _ask(self, new: NewTask, now: datetime) -> Ask:
        assert new.id is not None, "named before"
        micros, samples = self._price(new), self._samples(new)
        if micros is None:
            micros = self._sample_micros * samples
        return Ask(
            id=new.id, key_id=new.key_id, user=new.user, samples=samples, micros=micros, at=now
        )

    def _settled(self, task: Task) -> Settled:
        if task.state is not TaskState.SUCCEEDED:
            return Settled(task.id)
        made = made_by(task)
        micros = None if task.timings is None else task.timings.cost_micros
        if micros is None:
            micros = self._sample_micros * (made or self._samples(task))
        return Settled(task.id, micros, made)


def _add_headers(call: Call, standings: Iterable[Standing], now: datetime) -> None:
    for each in standings:
        policy, state = f"q={max(0, each.limit)}", f"r={max(0, each.left)}"
        if each.period:
            policy += f";w={2_678_400 if period_name(each.period) == 'month' else 86_400}"
            state += f";t={_until_s(each.period, now)}"
        call.add_header(b"ratelimit-policy", f'"{each.name}";{policy}'.encode())
        call.add_header(b"ratelimit", f'"{each.name}";{state}'.encode())


def _until_s(period: str, now: datetime) -> int:
    return max(1, math.ceil((resets_at(period) - now).total_seconds()))


def _error_of(verdict: Verdict, now: datetime, key: str = "this key") -> SwellError:
    standing = verdict.refused_by
    assert standing is not None, "the caller checks it"
    owner = key if standing.user is None else f"user {standing.user!r} of {key}"
    if not standing.period:
        return CreditsUsedUp(
            f"{owner} has credits of {dollars(standing.left)} left, and this would cost about "
            f"{dollars(verdict.asked)}: ask the operator to top up (`swell quotas "
            "KEY_ID --credit`), or ask for less"
        )
    amounts = standing.limit, max(0, standing.left), verdict.asked
    limit, left, asked = (
        dollars(each) if standing.unit == "micros" else f"{each:,}" for each in amounts
    )
    unit = "" if standing.unit == "micros" else f" {standing.unit}"
    name, wait_s = period_name(standing.period), _until_s(standing.period, now)
    return QuotaExceeded(
        f"{owner} may use {limit}{unit} per {name} (UTC), with {left} left, and this "
        f"request needs {asked}: the next {name} begins in {wait_s} s. Ask for "
        "less until then, or ask the operator for a higher limit",
        headers={"Retry-After": str(wait_s)},
    )
