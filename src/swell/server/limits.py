"""Limits of API keys: requests per second, tasks in flight, tasks per day, event streams.

Each process decides at once with its own counts, and shares its use with the others once a second
(`Registry.spend`). So N processes allow a key at most N - 1 bursts and one second of its rate too
much at any time. The excess is missing later, so over a longer time the key gets its rate. Tasks in
flight are counted in the store once a second, and again before a refusal; in between, each process
adds accepted tasks and subtracts ended ones. Each process limits its own event streams.

Source:
    The generic cell rate algorithm (ITU-T I.371, annex A) as a token bucket; the fields are those
    of draft-ietf-httpapi-ratelimit-headers-10.
"""

import asyncio
import contextlib
import math
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from msgspec.structs import asdict

from swell.core.clock import Clock
from swell.core.errors import FieldError, InvalidInput, SwellError, TooManyRequests
from swell.core.records import ApiKey, KeyLimits, Scope
from swell.core.store_types import Accepted
from swell.core.task import NewTask, Task, again
from swell.db.registry import Registry
from swell.db.task_store import Store
from swell.server.admin.admin_schemas import LEAST_RATE
from swell.server.billing.quota_accounting import Quotas
from swell.server.open_streams import Stream
from swell.server.request import Call
from swell.server.single_flight import SingleFlight

#: Processes share their use this often, in seconds.
SHARE_EVERY_S: Final = 1.0

#: A count of tasks in flight is valid for this long, and for a refusal for this long, in seconds.
_COUNT_S: Final = 1.0
_RECOUNT_S: Final = 0.05

#: `Retry-After` of a refusal because of tasks in flight or streams, in seconds.
_FULL_RETRY_S: Final = 1

#: The largest excess of all processes together, in seconds of the rate.
_MOST_DEBT_S: Final = 60.0

#: The longest window (31 years), so that its end is a valid date.
_MOST_WINDOW_S: Final = 1e9

#: The most keys in memory; the least recently used one without pending tasks is removed.
_MAX_METERS: Final = 10_000

_DAY_S: Final = 86_400.0

#: The window for guest keys: one per address, and `_GUESTS` in total.
_GUEST_S: Final = 3600.0
_GUESTS: Final = 60


class Allowance:
    """A token bucket that holds `quota` tokens and fills up within `window_s`.

    Args:
        name: Of the bucket, for all processes.
        quota: Its size; > 0.
        window_s: The time until it is full again, in seconds; > 0.
    """

    def __init__(self, name: str, quota: int, window_s: float) -> None:
        self.name = name
        self.quota = quota
        self.window_s = window_s
        self._token_s = window_s / quota
        #: When it is full again, in monotonic seconds.
        self._full_at_s = -math.inf
        #: Taken since the last sharing, in seconds of the rate, and whether a request asked.
        self.unshared_s = 0.0
        self.is_asked = False

    def take(self, now_s: float, n: int = 1) -> float:
        """Take n tokens and return 0; if there are fewer, return the seconds to wait."""
        self.is_asked = True
        cost_s = n * self._token_s
        full_at_s = max(now_s, self._full_at_s) + cost_s
        missing_s = full_at_s - now_s - self.window_s
        if missing_s > 1e-6:
            return missing_s
        self._full_at_s = full_at_s
        self.unshared_s += cost_s
        return 0.0

    def give_back(self, n: int) -> None:
        """Return unused tokens."""
        self._full_at_s -= n * self._token_s
        self.unshared_s -= n * self._token_s

    def left(self, now_s: float) -> int:
        """Return how many tokens are left."""
        return max(0, math.floor((self.window_s - self.full_in_s(now_s)) / self._token_s + 1e-6))

    def full_in_s(self, now_s: float) -> float:
        """Return after how many seconds it is full again."""
        return max(0.0, self._full_at_s - now_s)

    def adopt(self, full_at_s: float, now_s: float) -> None:
        """Set when it is full again by the use of all processes.

        If a machine's clock has jumped, keys wait about a minute at most.
        """
        self._full_at_s = min(full_at_s, now_s + self.window_s + _MOST_DEBT_S) + self.unshared_s

    def add_headers(self, call: Call, name: str, now_s: float) -> None:
        """Add the response headers with the limit, in whole seconds, and the remainder."""
        quota = self.quota if self.window_s >= 1 else math.floor(self.quota / self.window_s)
        window = max(1, math.ceil(self.window_s))
        rest = f'"{name}";r={self.left(now_s)};t={math.ceil(self.full_in_s(now_s))}'
        call.add_header(b"ratelimit-policy", f'"{name}";q={quota};w={window}'.encode())
        call.add_header(b"ratelimit", rest.encode())


class _InFlight:
    """How many tasks of a key have not ended, as far as this process knows."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.n = 0
        #: When the store counted them, in monotonic seconds.
        self.at_s = -math.inf
        #: Allowed tasks that the store has not accepted yet.
        self.pending = 0
        #: The change since the store began to count.
        self.since = 0

    def add(self, n: int) -> None:
        self.n += n
        self.since += n


class _Meter:
    """The use of one key."""

    def __init__(self, key: ApiKey, limits: KeyLimits) -> None:
        self.key = key
        self.limits = limits
        self.requests = _requests(key.id, limits)
        per_day = limits.tasks_per_day
        self.tasks = Allowance(f"{key.id}:tasks", per_day, _DAY_S) if per_day else None
        self.flight = _InFlight(limits.tasks_in_flight) if limits.tasks_in_flight else None


class Limits:
    """The use of all keys.

    Args:
        registry: Shares it with other processes.
        store: Counts tasks.
        clock: The time.
        defaults: Limits of keys that set none, except operators'.
        quotas: Of keys and users, by day and month.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        clock: Clock,
        defaults: KeyLimits,
        quotas: Quotas,
    ) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._defaults = defaults
        self.quotas = quotas
        #: By key id, the most recently used last.
        self._meters: OrderedDict[str, _Meter] = OrderedDict()
        self._counts: SingleFlight[str, None] = SingleFlight()
        #: Key id → its open streams, if it has a limit for them.
        self._streams: dict[str, set[Stream]] = defaultdict(set)
        #: Guest keys of this process, and when each address got one.
        self._guests = Allowance("guests", _GUESTS, _GUEST_S)
        self._guest_at_s: dict[str, float] = {}

    def check(self, call: Call) -> None:
        """Count a request, and add the remainder to its response.

        Raises:
            TooManyRequests: There have been too many.
        """
        requests = self._meter(call.caller).requests
        if requests is None:
            return
        now_s = self._clock.monotonic_s()
        wait_s = requests.take(now_s)
        requests.add_headers(call, "requests", now_s)
        if wait_s > 0:
            raise too_many(
                f"key {call.caller.name!r} has used up its {requests.quota} requests in "
                f"{requests.window_s:g} s",
                wait_s,
            )

    def let_in_guest(self, address: str) -> None:
        """Count a guest key.

        Raises:
            TooManyRequests: The address got one within the hour, or all addresses got 60.
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

    async def accept(self, call: Call, news: Sequence[NewTask]) -> list[Accepted | SwellError]:
        """Have the store accept tasks if the caller's key may create them.

        Raises:
            TooManyRequests: Not now; the store accepted none.
            InvalidInput: It may never have this many at once.
            CreditsUsedUp: Its prepaid credit does not cover them.
        """
        quotas, make = self.quotas, partial(self._store.accept, news)
        is_known = self._clock.monotonic_s() < quotas.fresh_until_s
        if not is_known or news[0].key_id in quotas.keys:
            make = partial(quotas.accept, call, news, self._store.accept)
        meter = self._meter(call.caller)
        if meter.flight is None and meter.tasks is None:
            return await make()
        return await self._within(call, len(news), make)

    def most_at_once(self, call: Call, n: int) -> int:
        """Return how many of n tasks the caller's key may have at once, if it may have n at all."""
        meter = self._meter(call.caller)
        may_never = meter.tasks is not None and n > meter.tasks.quota
        return n if meter.flight is None or may_never else min(n, meter.flight.limit)

    async def repeat(self, call: Call, task: Task, *, only_dead: bool) -> Accepted:
        """Have the store repeat a task, and raise as `accept`.

        Args:
            call: The request.
            task: An ended task.
            only_dead: Whether an operator replays a dead letter: then only the quotas of its owner
                apply, and not the limits of the caller.

        Raises:
            Conflict: The task has not ended, or is not a dead letter.
        """

        async def make(news: Sequence[NewTask]) -> list[Accepted | SwellError]:
            new_id = news[0].id
            return [await self._store.retry(task.id, only_dead=only_dead, new_id=new_id)]

        within_quotas = partial(self.quotas.accept, call, [again(task)], make)
        [accepted] = await (within_quotas() if only_dead else self._within(call, 1, within_quotas))
        assert isinstance(accepted, Accepted), "errors of one task are raised"
        return accepted

    async def _within(
        self, call: Call, n: int, make: Callable[[], Awaitable[list[Accepted | SwellError]]]
    ) -> list[Accepted | SwellError]:
        """Have `make` create n tasks within the limits of the caller's key."""
        meter = self._meter(call.caller)
        flight, tasks = meter.flight, meter.tasks
        _check_possible(call, meter, n)
        if flight is not None:
            await self._add_in_flight(call, flight, n)
        taken = fresh = 0
        try:
            if tasks is not None:
                self._take_of_day(call, tasks, n)
                taken = n
            accepted = await make()
            fresh = sum(isinstance(each, Accepted) and each.is_new for each in accepted)
        finally:
            if flight is not None:
                flight.pending -= n
                flight.add(fresh - n)
            if tasks is not None:
                tasks.give_back(taken - fresh)
        return accepted

    @contextlib.asynccontextmanager
    async def open(self, call: Call, stream: Stream) -> AsyncIterator[None]:
        """Count an event stream while the block runs.

        Raises:
            TooManyRequests: The key has too many open streams.
        """
        key = call.caller
        limit = self._meter(key).limits.streams
        if not limit:
            yield
            return
        streams = self._streams[key.id]
        if len(streams) >= limit:
            # A client that comes back at once may have closed the connection of an earlier one.
            for each in streams:
                each.check()
            await asyncio.sleep(0)
        call.add_header(b"ratelimit-policy", b'"streams";q=%d' % limit)
        call.add_header(b"ratelimit", b'"streams";r=%d' % max(0, limit - len(streams) - 1))
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

    def ended(self, task: Task) -> None:
        """Note the end of a task."""
        if task.key_id in self.quotas.ever:
            self.quotas.ended(task)
        meter = self._meters.get(task.key_id)
        if meter is not None and meter.flight is not None:
            meter.flight.add(-1)

    async def share(self) -> None:
        """Write this process's use to the registry, and read that of all processes."""
        asked = [
            each
            for meter in self._meters.values()
            for each in (meter.requests, meter.tasks)
            if each is not None and each.is_asked
        ]
        if not asked:
            return
        costs_s = {each.name: each.unshared_s for each in asked}
        for each in asked:
            each.unshared_s, each.is_asked = 0.0, False
        try:
            full_at = await self._registry.spend(costs_s)
        except BaseException:
            for each in asked:
                each.unshared_s, each.is_asked = each.unshared_s + costs_s[each.name], True
            raise
        now, now_s = self._clock.now(), self._clock.monotonic_s()
        for each in asked:
            each.adopt(now_s + (full_at[each.name] - now).total_seconds(), now_s)

    def _take_of_day(self, call: Call, tasks: Allowance, n: int) -> None:
        now_s = self._clock.monotonic_s()
        wait_s = tasks.take(now_s, n)
        tasks.add_headers(call, "tasks", now_s)
        if wait_s > 0:
            raise too_many(
                f"key {call.caller.name!r} may create {tasks.quota:,} tasks a day; "
                f"{tasks.left(now_s):,} are left, and this request needs {n:,}",
                wait_s,
            )

    async def _add_in_flight(self, call: Call, flight: _InFlight, n: int) -> None:
        for valid_s in (_COUNT_S, _RECOUNT_S):
            if self._clock.monotonic_s() - flight.at_s > valid_s:
                await self._counts.run(call.caller.id, lambda: self._count(call.caller.id, flight))
            has_room = flight.n + n <= flight.limit
            if has_room:
                flight.add(n)
                flight.pending += n
                break
        call.add_header(b"ratelimit-policy", b'"in-flight";q=%d' % flight.limit)
        call.add_header(b"ratelimit", b'"in-flight";r=%d' % max(0, flight.limit - flight.n))
        if not has_room:
            raise too_many(
                f"key {call.caller.name!r} may have {flight.limit:,} tasks that have not ended, "
                f"and has {flight.n:,}: wait for some to end",
                _FULL_RETRY_S,
            )

    async def _count(self, key_id: str, flight: _InFlight) -> None:
        # A pending task may be counted twice for a moment, and is never missed.
        flight.since = flight.pending
        (n,) = await self._store.count_open([key_id])
        flight.n = max(0, n + flight.since)
        flight.at_s = self._clock.monotonic_s()

    def _meter(self, key: ApiKey) -> _Meter:
        meter = self._meters.get(key.id)
        if meter is not None and meter.key is not key:
            known, meter.key = meter.key, key
            if (known.limits, known.scopes) != (key.limits, key.scopes):
                meter = None
        if meter is None:
            if len(self._meters) >= _MAX_METERS:
                self._remove_idle()
            limits = effective_limits(key, self._defaults)
            meter = self._meters[key.id] = _Meter(key, limits)
        self._meters.move_to_end(key.id)
        return meter

    def _remove_idle(self) -> None:
        for key_id, meter in self._meters.items():
            if meter.flight is None or not meter.flight.pending:
                del self._meters[key_id]
                return


def effective_limits(key: ApiKey, defaults: KeyLimits) -> KeyLimits:
    """Return the limits of a key: its own, else the defaults; 0 means no limit. Pure.

    The defaults do not apply to operators.
    """
    if Scope.ADMIN in key.scopes:
        defaults = KeyLimits()
    own = asdict(key.limits)
    chosen = {
        name: getattr(defaults, name) if limit is None else limit for name, limit in own.items()
    }
    if own["rate_per_s"]:
        # The default burst belongs to the default rate.
        chosen["burst"] = own["burst"]
    return KeyLimits(**{name: limit or None for name, limit in chosen.items()})


def _requests(key_id: str, limits: KeyLimits) -> Allowance | None:
    rate_per_s = limits.rate_per_s
    if not rate_per_s:
        return None
    # By default, a burst is as much as the rate gives in two seconds.
    burst = limits.burst or max(1, math.ceil(2 * rate_per_s))
    window_s = burst / max(rate_per_s, LEAST_RATE)
    return Allowance(f"{key_id}:requests", burst, min(window_s, _MOST_WINDOW_S))


def _check_possible(call: Call, meter: _Meter, n: int) -> None:
    """Check that the key could create n tasks at once if it had used nothing.

    Raises:
        InvalidInput: It never can.
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
    """Return an error that asks the client to wait `wait_s` seconds."""
    wait = max(1, math.ceil(wait_s))
    return TooManyRequests(
        f"{what}: try again in {wait} s, or ask the operator for more",
        headers={"Retry-After": str(wait)},
    )
