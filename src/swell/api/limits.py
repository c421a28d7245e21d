"""How much a key may ask: requests per second, tasks in flight, tasks per day, event streams.

Each process decides at once by what it knows, and tells all others once a second what it has let
through (`Registry.spend`). So with N processes a key gets at most N - 1 bursts, and what its rate
gives in a second, more than its due at any time; what it had too much of is missing later, and over
any longer time it gets its rate. Tasks in flight are counted in the store once a second, and at
once before anything is refused; in between each process adds what it accepts and takes off what it
sees end. Of event streams each process counts its own.

Source:
    The generic cell rate algorithm (ITU-T I.371, annex A) as a bucket of tokens; the fields are
    those of draft-ietf-httpapi-ratelimit-headers-10.
"""

import asyncio
import contextlib
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from swell import task as life
from swell.api.call import Call
from swell.api.messages import LEAST_RATE
from swell.api.quotas import Quotas
from swell.api.streams import Stream
from swell.clock import Clock
from swell.db.registry import Registry
from swell.errors import FieldError, InvalidInput, SwellError, TooManyRequests
from swell.registry import ApiKey, KeyLimits, Scope, Spend
from swell.store import Accepted
from swell.stores.tasks import Store
from swell.task import NewTask, Task

_log = structlog.get_logger("swell.api")

T = TypeVar("T")

#: How often processes tell each other what they let through, in seconds.
SHARE_EVERY_S: Final = 1.0

#: A count of tasks in flight is good for so long, and for so long before one refuses, in seconds.
_COUNT_S: Final = 1.0
_RECOUNT_S: Final = 0.05

#: Who may ask again for a place in flight does so after so many seconds.
_FULL_RETRY_S: Final = 1

#: So much more than was due at once may all have let through together, in seconds of the rate.
_MOST_DEBT_S: Final = 60.0

#: An allowance fills up in at most so many seconds (31 years): later moments no calendar has.
_MOST_WINDOW_S: Final = 1e9

#: Keys whose use is remembered: those that asked last, and those whose tasks are being accepted.
_MAX_METERS: Final = 10_000

_DAY_S: Final = 86_400.0

#: An address gets a guest key so often, in seconds.
_GUEST_S: Final = 3600.0


class Allowance:
    """So much in a while: a bucket that holds `quota` and fills up within `window_s`.

    Args:
        name: Of it, for all processes.
        quota: What it holds; > 0.
        window_s: Seconds in which it fills up; > 0.
    """

    __slots__ = ("_each_s", "_until_s", "is_asked", "name", "quota", "unshared_s", "window_s")

    def __init__(self, name: str, quota: int, window_s: float) -> None:
        self.name = name
        self.quota = quota
        self.window_s = window_s
        self._each_s = window_s / quota
        #: When it is full again, in monotonic seconds.
        self._until_s = -math.inf
        #: Taken since others were told, and whether anything was asked for.
        self.unshared_s = 0.0
        self.is_asked = False

    def take(self, now_s: float, n: int = 1) -> float:
        """Take `n`; return 0, or the seconds after which there is so much, with nothing taken."""
        self.is_asked = True
        cost_s = n * self._each_s
        until_s = max(now_s, self._until_s) + cost_s
        missing_s = until_s - now_s - self.window_s
        if missing_s > 1e-6:
            return missing_s
        self._until_s = until_s
        self.unshared_s += cost_s
        return 0.0

    def give_back(self, n: int) -> None:
        """Put back what was taken for nothing."""
        cost_s = n * self._each_s
        self._until_s -= cost_s
        self.unshared_s -= cost_s

    def left(self, now_s: float) -> int:
        """Return how much may be taken now."""
        return max(0, math.floor((self.window_s - self.full_in_s(now_s)) / self._each_s + 1e-6))

    def full_in_s(self, now_s: float) -> float:
        """Return after how many seconds it is full again."""
        return max(0.0, self._until_s - now_s)

    def adopt(self, until_s: float, now_s: float) -> None:
        """Take over when it is full again from what all have told.

        A machine's clock that has jumped keeps nobody waiting for much longer than a minute more.
        """
        self._until_s = min(until_s, now_s + self.window_s + _MOST_DEBT_S) + self.unshared_s

    def policy(self, name: str) -> str:
        """Return it as an item of `RateLimit-Policy`, whose windows are whole seconds."""
        quota = self.quota if self.window_s >= 1 else math.floor(self.quota / self.window_s)
        return f'"{name}";q={quota};w={max(1, math.ceil(self.window_s))}'

    def state(self, name: str, now_s: float) -> str:
        """Return it as an item of `RateLimit`."""
        return f'"{name}";r={self.left(now_s)};t={math.ceil(self.full_in_s(now_s))}'


class _InFlight:
    """How many tasks of a key have not ended, as far as this process knows."""

    __slots__ = ("at_s", "counting", "limit", "n", "pending", "since")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.n = 0
        #: When the store was asked, in monotonic seconds.
        self.at_s = -math.inf
        #: Let through, while the store has not answered yet.
        self.pending = 0
        #: What came and went here since the store was last asked.
        self.since = 0
        self.counting: asyncio.Task[int] | None = None

    def add(self, n: int) -> None:
        self.n += n
        self.since += n


class _Meter:
    """What one key has used."""

    __slots__ = ("flight", "key", "limits", "requests", "tasks")

    def __init__(self, key: ApiKey, limits: KeyLimits) -> None:
        self.key = key
        self.limits = limits
        self.requests = _requests(key.id, limits)
        per_day = limits.tasks_per_day
        self.tasks = Allowance(f"{key.id}:tasks", per_day, _DAY_S) if per_day else None
        self.flight = _InFlight(limits.tasks_in_flight) if limits.tasks_in_flight else None

    @property
    def is_pending(self) -> bool:
        """Whether the store is accepting tasks that were counted here."""
        return self.flight is not None and self.flight.pending > 0


class Limits:
    """What keys have used, and what they may.

    Args:
        registry: Shares it with other processes.
        store: Counts tasks.
        clock: The time.
        defaults: For keys that have none of their own and are no operator's.
        quotas: Of keys and users, by day and month; None for some that know of no prices.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        clock: Clock,
        defaults: KeyLimits,
        quotas: Quotas | None = None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._defaults = defaults
        self.quotas = quotas or Quotas(
            registry, store, clock, lambda _: None, lambda task: task.count
        )
        #: By key id; the key that asked last comes last.
        self._meters: OrderedDict[str, _Meter] = OrderedDict()
        #: Key id → its open streams, where it is limited in these.
        self._streams: dict[str, set[Stream]] = {}
        #: Keys that visitors of shared pages get from this process, and when an address got one.
        self._guests = Allowance("guests", 60, _GUEST_S)
        self._guest_at_s: dict[str, float] = {}

    def check(self, call: Call) -> None:
        """Count a request, and have its answer tell what is left.

        Raises:
            TooManyRequests: There have been too many.
        """
        meter = self._meter(call.caller)
        requests = meter.requests
        if requests is None:
            return
        now_s = self._clock.monotonic_s()
        wait_s = requests.take(now_s)
        call.tell(b"ratelimit-policy", requests.policy("requests").encode())
        call.tell(b"ratelimit", requests.state("requests", now_s).encode())
        if wait_s > 0:
            raise too_many(
                f"key {call.caller.name!r} has used up its {requests.quota} requests in "
                f"{requests.window_s:g} s",
                wait_s,
            )

    def let_in_guest(self, address: str) -> None:
        """Count a guest key.

        Raises:
            TooManyRequests: The address got one within the hour, or all of them got 60.
        """
        now_s = self._clock.monotonic_s()
        recent = {each: at for each, at in self._guest_at_s.items() if now_s - at < _GUEST_S}
        self._guest_at_s = recent
        if address in recent:
            wait_s = recent[address] + _GUEST_S - now_s
            raise too_many("this address got a guest key within the last hour", wait_s)
        if wait_s := self._guests.take(now_s):
            raise too_many("too many guest keys were created within the last hour", wait_s)
        recent[address] = now_s

    def accept(self, call: Call, news: Sequence[NewTask]) -> Awaitable[list[Accepted | SwellError]]:
        """Have the store accept tasks, if the key may have so many more.

        Raises:
            TooManyRequests: It may not now; nothing was accepted.
            InvalidInput: It may never have so many at once.
            CreditsUsedUp: What was paid before does not cover them.
        """
        meter = self._meter(call.caller)
        if self.quotas.may_limit(meter.key.id):
            return self._within(
                call, len(news), lambda: self.quotas.accept(call, news, self._store.accept)
            )
        if meter.flight is None and meter.tasks is None:
            return self._store.accept(news)
        return self._within(call, len(news), lambda: self._store.accept(news))

    def most_at_once(self, call: Call, n: int) -> int:
        """Return how many of n tasks the caller's key may have at once, if it may have n at all."""
        meter = self._meter(call.caller)
        may_never = meter.tasks is not None and n > meter.tasks.quota
        return n if meter.flight is None or may_never else min(n, meter.flight.limit)

    async def retry(self, call: Call, task: Task) -> Accepted:
        """Have the store repeat a task, if its caller's key may have one more; raises as `accept`.

        Raises:
            Conflict: The task has not ended.
        """

        def make() -> Awaitable[list[Accepted | SwellError]]:
            return self._again(call, task, only_dead=False)

        (accepted,) = await self._within(call, 1, make)
        assert isinstance(accepted, Accepted), "errors of one task are raised"
        return accepted

    async def replay(self, call: Call, task: Task) -> Accepted:
        """Have the store repeat a dead letter, if its owner's accounts allow one more.

        It is the owner's task: what its caller, an operator, may do in a time does not count.

        Raises:
            Conflict: The task is no dead letter.
            QuotaExceeded, CreditsUsedUp: The owner has used up what there was.
        """
        (accepted,) = await self._again(call, task, only_dead=True)
        assert isinstance(accepted, Accepted), "errors of one task are raised"
        return accepted

    def _again(
        self, call: Call, task: Task, *, only_dead: bool
    ) -> Awaitable[list[Accepted | SwellError]]:
        async def make(news: Sequence[NewTask]) -> list[Accepted | SwellError]:
            new_id, key_id = news[0].id, task.key_id
            retried = self._store.retry(task.id, key_id=key_id, only_dead=only_dead, new_id=new_id)
            return [await retried]

        return self.quotas.accept(call, [life.again(task)], make)

    async def _within(
        self, call: Call, n: int, make: Callable[[], Awaitable[list[Accepted | SwellError]]]
    ) -> list[Accepted | SwellError]:
        meter = self._meter(call.caller)
        if meter.flight is None and meter.tasks is None:
            return await make()
        _check_possible(call, meter, n)
        await self._enter(call, meter, n)
        fresh = 0
        try:
            accepted = await make()
            fresh = sum(isinstance(each, Accepted) and each.is_new for each in accepted)
        finally:
            self._leave(meter, n, fresh)
        return accepted

    @contextlib.asynccontextmanager
    async def open(self, call: Call, stream: Stream) -> AsyncIterator[None]:
        """Count an event stream while the block runs.

        Raises:
            TooManyRequests: The key has too many open.
        """
        key = call.caller
        limit = self._meter(key).limits.streams
        if not limit:
            yield
            return
        streams = self._streams.setdefault(key.id, set())
        if len(streams) >= limit:
            # Who comes again at once may have hung up on one of these.
            for each in streams:
                each.check()
            await asyncio.sleep(0)
        # Another may have come or gone meanwhile.
        streams = self._streams.setdefault(key.id, set())
        call.tell(b"ratelimit-policy", b'"streams";q=%d' % limit)
        call.tell(b"ratelimit", b'"streams";r=%d' % max(0, limit - len(streams) - 1))
        if len(streams) >= limit:
            raise too_many(
                f"key {key.name!r} may have {limit:,} event streams open at this process, and has "
                "as many: close some",
                _FULL_RETRY_S,
            )
        streams.add(stream)
        try:
            yield
        finally:
            streams.discard(stream)
            if not streams and self._streams.get(key.id) is streams:
                del self._streams[key.id]

    def ended(self, key_id: str) -> None:
        """Note that a task of a key has ended."""
        meter = self._meters.get(key_id)
        if meter is not None and meter.flight is not None:
            meter.flight.add(-1)

    async def share(self) -> None:
        """Tell the other processes what was let through here, and learn what was there."""
        told = [
            each
            for meter in self._meters.values()
            for each in (meter.requests, meter.tasks)
            if each is not None and each.is_asked
        ]
        if not told:
            return
        spends = [Spend(name=each.name, cost_s=each.unshared_s) for each in told]
        for each in told:
            each.unshared_s, each.is_asked = 0.0, False
        try:
            untils = await self._registry.spend(spends)
        except BaseException:
            for each, spend in zip(told, spends, strict=True):
                each.unshared_s, each.is_asked = each.unshared_s + spend.cost_s, True
            raise
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        for each, until in zip(told, untils, strict=True):
            each.adopt(now_s + (until - now).total_seconds(), now_s)

    async def _enter(self, call: Call, meter: _Meter, n: int) -> None:
        tasks, now_s = meter.tasks, self._clock.monotonic_s()
        if meter.flight is not None:
            await self._find_room(call, meter.flight, n)
        if tasks is None:
            return
        wait_s = tasks.take(now_s, n)
        call.tell(b"ratelimit-policy", tasks.policy("tasks").encode())
        call.tell(b"ratelimit", tasks.state("tasks", now_s).encode())
        if wait_s > 0:
            if meter.flight is not None:
                meter.flight.add(-n)
                meter.flight.pending -= n
            raise too_many(
                f"key {call.caller.name!r} may create {tasks.quota:,} tasks a day; "
                f"{tasks.left(now_s):,} are left, and this request needs {n:,}",
                wait_s,
            )

    async def _find_room(self, call: Call, flight: _InFlight, n: int) -> None:
        for good_s in (_COUNT_S, _RECOUNT_S):
            if self._clock.monotonic_s() - flight.at_s > good_s:
                await self._count(call.caller.id, flight)
            if flight.n + n <= flight.limit:
                flight.add(n)
                flight.pending += n
                break
        else:
            n = 0
        left = max(0, flight.limit - flight.n)
        call.tell(b"ratelimit-policy", b'"in-flight";q=%d' % flight.limit)
        call.tell(b"ratelimit", b'"in-flight";r=%d' % left)
        if n == 0:
            raise too_many(
                f"key {call.caller.name!r} may have {flight.limit:,} tasks that have not ended, "
                f"and has {flight.n:,}: wait for some to end",
                _FULL_RETRY_S,
            )

    async def _count(self, key_id: str, flight: _InFlight) -> None:
        if flight.counting is None:
            # What is under way may be counted twice for a moment, and is never missed.
            flight.since = flight.pending
            counting = asyncio.ensure_future(self._ask(key_id))
            flight.counting = counting
            counting.add_done_callback(lambda done: self._counted(flight, done))
        await asyncio.shield(flight.counting)

    async def _ask(self, key_id: str) -> int:
        return (await self._store.count_open([key_id]))[0]

    def _counted(self, flight: _InFlight, counting: "asyncio.Task[int]") -> None:
        flight.counting = None
        if not counting.cancelled() and counting.exception() is None:
            flight.n = max(0, counting.result() + flight.since)
            flight.at_s = self._clock.monotonic_s()

    def _leave(self, meter: _Meter, n: int, fresh: int) -> None:
        if meter.flight is not None:
            meter.flight.pending -= n
            meter.flight.add(fresh - n)
        if meter.tasks is not None and fresh < n:
            meter.tasks.give_back(n - fresh)

    def _meter(self, key: ApiKey) -> _Meter:
        meter = self._meters.get(key.id)
        if meter is None or meter.key is not key:
            meter = self._learn(key, meter)
        self._meters.move_to_end(key.id)
        return meter

    def _learn(self, key: ApiKey, known: _Meter | None) -> _Meter:
        limits = effective_limits(key, self._defaults)
        if known is not None and known.limits == limits:
            known.key = key
            return known
        if known is None and len(self._meters) >= _MAX_METERS:
            idle = next((id_ for id_, each in self._meters.items() if not each.is_pending), None)
            if idle is not None:
                del self._meters[idle]
        meter = self._meters[key.id] = _Meter(key, limits)
        return meter


def effective_limits(key: ApiKey, defaults: KeyLimits) -> KeyLimits:
    """Return the limits of a key: its own, else the settings', and none where both say 0. Pure.

    Operators are held to their own limits only.
    """
    if Scope.ADMIN in key.scopes:
        defaults = KeyLimits()
    own = key.limits
    return KeyLimits(
        rate_per_s=_first(own.rate_per_s, defaults.rate_per_s),
        burst=_first(own.burst, None if own.rate_per_s else defaults.burst),
        tasks_in_flight=_first(own.tasks_in_flight, defaults.tasks_in_flight),
        tasks_per_day=_first(own.tasks_per_day, defaults.tasks_per_day),
        streams=_first(own.streams, defaults.streams),
    )


def _first(own: T | None, default: T | None) -> T | None:
    return (default if own is None else own) or None


def _requests(key_id: str, limits: KeyLimits) -> Allowance | None:
    rate_per_s = limits.rate_per_s
    if not rate_per_s:
        return None
    # Unless said otherwise, what two seconds give may come at once.
    burst = limits.burst or max(1, math.ceil(2 * rate_per_s))
    window_s = burst / max(rate_per_s, LEAST_RATE)
    return Allowance(f"{key_id}:requests", burst, min(window_s, _MOST_WINDOW_S))


def _check_possible(call: Call, meter: _Meter, n: int) -> None:
    """Check that so many tasks at once would pass if the key had used nothing.

    Raises:
        InvalidInput: They never will.
    """
    quota = math.inf if meter.tasks is None else meter.tasks.quota
    limit = math.inf if meter.flight is None else meter.flight.limit
    most = min(quota, limit)
    if n > most:
        bound = "tasks a day" if quota <= limit else "tasks that have not ended"
        what = (
            f"key {call.caller.name!r} may have {most:,} {bound}, and here are {n:,}: send at most "
            f"{most:,} in one batch, or ask the operator for more"
        )
        raise InvalidInput(
            what, errors=[FieldError(pointer="/tasks", detail=what, code="too_many")]
        )


def too_many(what: str, wait_s: float) -> TooManyRequests:
    """Return the error that asks to wait `wait_s` seconds."""
    wait = max(1, math.ceil(wait_s))
    return TooManyRequests(
        f"{what}: try again in {wait} s, or ask the operator for more",
        headers={"Retry-After": str(wait)},
    )
