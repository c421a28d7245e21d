"""Memory of the controller, stored as one note in the registry.

The controller replaces the note that it read before it acts. If two controllers both assume to be
the leader, only one write succeeds, and the other one does not act.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

import msgspec

from swell.autoscaler.outlook import State
from swell.autoscaler.versions import Brought
from swell.core.clock import Clock
from swell.db.registry import Registry
from swell.protocol.autoscaler_messages import TAKEN_BACK, read

#: Names of the notes.
MEMORY: Final = "autoscaler.memory"
HABITS: Final = "autoscaler.habits"

#: Interval between writes of the habits, in seconds.
_HABITS_EVERY_S: Final = 60.0

#: Back-off after a refusal, in seconds: first delays (no capacity, no quota), and the limit.
_CLOSED_S: Final = 15.0
_QUOTA_S: Final = 300.0
_MOST_CLOSED_S: Final = 1800.0

#: Back-off after a failed boot, in seconds: first delay, and the limit.
_FAILED_S: Final = 2.0
_MOST_FAILED_S: Final = 600.0


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A launch. Repeating it with the same token returns the same machines."""

    token: str
    pool: str
    n: int
    #: Time of the decision, and earliest time of the next attempt, as Unix times in seconds.
    at: float
    next_at: float = 0.0
    tries: int = 0
    #: Ids that the provider returned; it may not list all of them yet.
    given: tuple[str, ...] | None = None
    #: Set when the launch was given up without a known result, as a Unix time in seconds. Until
    #: then, its machines count towards the pool's `most`.
    until: float | None = None


def expected(launch: Launch) -> int:
    """Return the number of machines that a launch may create."""
    return launch.n if launch.given is None else len(launch.given)


class Closure(msgspec.Struct, frozen=True, kw_only=True):
    """A pause of a pool's launches."""

    until: float = 0.0
    #: Consecutive refusals.
    refusals: int = 0
    why: str = ""
    #: Time of the last refusal. Later refusals of earlier calls count as the same one.
    at: float = 0.0


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The whole memory. Empty is always valid. Times are Unix times in seconds."""

    state: State = State()
    launches: tuple[Launch, ...] = ()
    closures: Mapping[str, Closure] = {}
    #: Deadlines of terminated machines, by id.
    ending: Mapping[str, float] = {}
    #: Times of the last terminate call, by id.
    told: Mapping[str, float] = {}
    #: Expected kinds of end (`swell.protocol.autoscaler_messages.ENDS`), by id; empty if that
    #: depends on the worker.
    orders: Mapping[str, str] = {}
    #: Ids of reclaimed machines with a hurried worker.
    hurried: tuple[str, ...] = ()
    #: Ids of ended machines that are recorded, oldest first.
    judged: tuple[str, ...] = ()
    #: Consecutive failed boots, and time of the last, by pool.
    failures: Mapping[str, tuple[int, float]] = {}
    #: Models that workers have served, by pool.
    models: Mapping[str, tuple[str, ...]] = {}
    #: Version from the last worker of each staged model, by pool and model.
    versions: Mapping[str, Mapping[str, Brought]] = {}
    #: Configured models that the workers do not serve, by pool.
    vain: Mapping[str, tuple[str, ...]] = {}
    #: Number of actions, by pool and kind.
    counts: Mapping[str, Mapping[str, int]] = {}
    #: Number of machine ends, by pool and kind.
    ends: Mapping[str, Mapping[str, int]] = {}
    #: Current day (UTC), its cost so far, and the time of the last update.
    day: str = ""
    spent_micros: float = 0.0
    spent_at: float = 0.0

    def of_pools(self, names: Collection[str]) -> "Memory":
        """Remove the launches of pools that no longer exist.

        They cannot be repeated. If the pool returns, its machines are found by their labels.
        """
        launches = tuple(each for each in self.launches if each.pool in names)
        return msgspec.structs.replace(self, launches=launches)

    def counting(self, pool: str, what: str, n: int = 1) -> "Memory":
        """Count an action."""
        if n == 0:
            return self
        own = dict(self.counts.get(pool, {}))
        own[what] = own.get(what, 0) + n
        return msgspec.structs.replace(self, counts={**self.counts, pool: own})

    def refused(
        self,
        pool: str,
        now: float,
        why: str,
        *,
        asked_at: float | None = None,
        is_quota: bool = False,
        retry_after_s: float | None = None,
    ) -> "Memory":
        """Record a refusal: the back-off doubles each time.

        Refusals of parallel calls count once.

        Args:
            pool: Name of the pool.
            now: Time of the refusal, as a Unix time in seconds.
            why: The provider's words.
            asked_at: Time of the call, as a Unix time in seconds; defaults to `now`.
            is_quota: As `Refused`.
            retry_after_s: As `Refused`.
        """
        asked_at = now if asked_at is None else asked_at
        known = self.closures.get(pool, Closure())
        is_same = known.refusals > 0 and asked_at <= known.at
        before = known.refusals - 1 if is_same else known.refusals
        base_s = _QUOTA_S if is_quota else _CLOSED_S
        wait_s = min(_MOST_CLOSED_S, base_s * 2.0 ** min(before, 20))
        if retry_after_s is not None:
            wait_s = max(retry_after_s, min(wait_s, _CLOSED_S))
        until = max(now + wait_s, known.until if is_same else 0.0)
        at = known.at if is_same else now
        closed = Closure(until=until, refusals=before + 1, why=why, at=at)
        return msgspec.structs.replace(self, closures={**self.closures, pool: closed})

    def given(self, pool: str, asked_at: float = float("inf")) -> "Memory":
        """End the back-off after a successful launch, unless a later call was refused."""
        known = self.closures.get(pool)
        if known is None or (known.refusals > 0 and asked_at <= known.at):
            return self
        closures = {name: each for name, each in self.closures.items() if name != pool}
        return msgspec.structs.replace(self, closures=closures)

    def telling(self, instance_id: str, now: float, due: float, order: str = "") -> "Memory":
        """Record a termination with its deadline.

        The first reason is kept, except that a reclaim replaces it.
        """
        ending = {**self.ending, instance_id: due}
        told = {**self.told, instance_id: now}
        first = "" if order == TAKEN_BACK else self.orders.get(instance_id, "")
        orders = {**self.orders, instance_id: first or order}
        return msgspec.structs.replace(self, ending=ending, told=told, orders=orders)

    def judging(self, pool: str, instance_id: str, fate: str) -> "Memory":
        """Record the end of a machine."""
        ending = {each: at for each, at in self.ending.items() if each != instance_id}
        own = dict(self.ends.get(pool, {}))
        own[fate] = own.get(fate, 0) + 1
        judged = msgspec.structs.replace(
            self, judged=(*self.judged, instance_id), ends={**self.ends, pool: own}
        )
        return judged.expecting(ending)

    def expecting(self, ending: Mapping[str, float]) -> "Memory":
        """Keep only these terminations."""
        return msgspec.structs.replace(
            self,
            ending=ending,
            told={each: at for each, at in self.told.items() if each in ending},
            orders={each: order for each, order in self.orders.items() if each in ending},
            hurried=tuple(each for each in self.hurried if each in ending),
        )

    def boot_failed(self, pool: str, now: float, why: str) -> "Memory":
        """Record a failed boot: the back-off doubles each time.

        A longer back-off of the provider's refusal stays.
        """
        n = self.failures.get(pool, (0, 0.0))[0] + 1
        wait_s = min(_MOST_FAILED_S, _FAILED_S * 2.0 ** min(n - 1, 20))
        known = self.closures.get(pool, Closure())
        if known.until < now + wait_s:
            known = msgspec.structs.replace(known, until=now + wait_s, why=why)
        return msgspec.structs.replace(
            self,
            failures={**self.failures, pool: (n, now)},
            closures={**self.closures, pool: known},
        )

    def boot_succeeded(self, pool: str) -> "Memory":
        """Reset the boot failures of a pool."""
        failures = {name: each for name, each in self.failures.items() if name != pool}
        return msgspec.structs.replace(self, failures=failures)

    def day_micros(self, now: datetime) -> int:
        """Return the recorded cost of this day (UTC)."""
        return round(self.spent_micros) if self.day == now.date().isoformat() else 0

    def closed_s(self, pool: str, now: float) -> float:
        """Return the time until the end of a pool's back-off, in seconds."""
        known = self.closures.get(pool)
        return 0.0 if known is None else max(0.0, known.until - now)


class Keeping:
    """Reads and writes the memory.

    The habits of the policy are large and change slowly. They have a separate note, written rarely.
    After a crash the policy learns the lost part again.
    """

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._kept: bytes | None = None
        self._habits = b""
        self._habits_at_s = float("-inf")

    async def load(self) -> Memory:
        """Return the stored memory; an empty one if there is none or it is invalid."""
        self._kept = await self._registry.note(MEMORY)
        memory = read(self._kept, Memory) or Memory()
        habits = read(await self._registry.note(HABITS), dict[str, tuple[float, ...]])
        if habits is None:
            return memory
        state = msgspec.structs.replace(memory.state, habits=habits)
        return msgspec.structs.replace(memory, state=state)

    async def save(self, memory: Memory) -> bool:
        """Replace the stored memory; return False if another process has changed it."""
        state = msgspec.structs.replace(memory.state, habits={})
        note = msgspec.json.encode(msgspec.structs.replace(memory, state=state))
        if note != self._kept:
            if not await self._registry.swap_note(MEMORY, self._kept, note):
                return False
            self._kept = note
        await self._save_habits(memory)
        return True

    async def _save_habits(self, memory: Memory) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._habits_at_s < _HABITS_EVERY_S:
            return
        habits = msgspec.json.encode(memory.state.habits)
        if habits != self._habits and memory.state.habits:
            await self._registry.put_note(HABITS, habits)
        self._habits, self._habits_at_s = habits, now_s
