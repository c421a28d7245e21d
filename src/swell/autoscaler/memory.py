"""What the controller remembers across its own restarts, as one note in the registry.

It is written before anything is done, in place of the note that was read: of two controllers that
both take themselves for the leader, one cannot write, and does nothing.
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

#: What is usual is written so seldom, in seconds.
_HABITS_EVERY_S: Final = 60.0

#: A pool that refuses is asked again after so long, in seconds, and at most after so long.
_CLOSED_S: Final = 15.0
_QUOTA_S: Final = 300.0
_MOST_CLOSED_S: Final = 1800.0

#: After a boot that came to nothing the next waits so long, in seconds, and at most so long.
_FAILED_S: Final = 2.0
_MOST_FAILED_S: Final = 600.0


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Machines that are asked for. Repeated with its token, it gives the same."""

    token: str
    pool: str
    n: int
    #: When it was decided, and when it may be asked (again), in seconds since 1970.
    at: float
    next_at: float = 0.0
    tries: int = 0
    #: What the provider gave; not all of it may be listed yet.
    given: tuple[str, ...] | None = None
    #: It was given up, as nobody knows what came of it. Until then something may still, and it
    #: counts towards the pool's `most`, in seconds since 1970.
    until: float | None = None


def expected(launch: Launch) -> int:
    """Return how many machines may come of a launch."""
    return launch.n if launch.given is None else len(launch.given)


class Closure(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is asked of a pool's provider for a while."""

    until: float = 0.0
    #: In a row.
    refusals: int = 0
    why: str = ""
    #: When it refused last. What was asked before that has met the same refusal.
    at: float = 0.0


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. An empty one is valid at any time. Times are seconds since 1970."""

    state: State = State()
    launches: tuple[Launch, ...] = ()
    closures: Mapping[str, Closure] = {}
    #: Machine that was told to end → by when it should be gone.
    ending: Mapping[str, float] = {}
    #: The same machine → when it was told last.
    told: Mapping[str, float] = {}
    #: The same machine → the end that this would be, of `swell.protocol.autoscaler_messages.ENDS`;
    #: empty where that depends on its worker.
    orders: Mapping[str, str] = {}
    #: Machines that are being taken back, and were told to hurry.
    hurried: tuple[str, ...] = ()
    #: Ended machines that were accounted for, the oldest first.
    judged: tuple[str, ...] = ()
    #: Pool → boots that failed in a row, and when the last did.
    failures: Mapping[str, tuple[int, float]] = {}
    #: Pool → models that its workers have served.
    models: Mapping[str, tuple[str, ...]] = {}
    #: Pool → model → the version that its last worker brought, of the models that were staged.
    versions: Mapping[str, Mapping[str, Brought]] = {}
    #: Pool → models of its settings that its workers did not know when they had come up.
    vain: Mapping[str, tuple[str, ...]] = {}
    #: Pool → what was done → how often.
    counts: Mapping[str, Mapping[str, int]] = {}
    #: Pool → how its machines have ended → how many.
    ends: Mapping[str, Mapping[str, int]] = {}
    #: The day (UTC) that is counted, what it has cost, and up to when that was counted.
    day: str = ""
    spent_micros: float = 0.0
    spent_at: float = 0.0

    def of_pools(self, names: Collection[str]) -> "Memory":
        """Return it without launches of pools that are not there (any more).

        Nobody could repeat them or see what came of them. Should such a pool be there again, its
        machines are found by their marks.
        """
        launches = tuple(each for each in self.launches if each.pool in names)
        return msgspec.structs.replace(self, launches=launches)

    def counting(self, pool: str, what: str, n: int = 1) -> "Memory":
        """Return it with something done in a pool."""
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
        """Return it after a refusal: asked again later and later.

        Many calls that meet one moment of refusal are refused once.

        Args:
            pool: Which one.
            now: When it refused, in seconds since 1970.
            why: In its own words.
            asked_at: When it was asked, in seconds since 1970; now if left out.
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
        """Return it after a provider gave all that it was asked for, and has not refused since."""
        known = self.closures.get(pool)
        if known is None or (known.refusals > 0 and asked_at <= known.at):
            return self
        closures = {name: each for name, each in self.closures.items() if name != pool}
        return msgspec.structs.replace(self, closures=closures)

    def telling(self, instance_id: str, now: float, due: float, order: str = "") -> "Memory":
        """Return it with a machine that is told now to be gone by then.

        What it was told for first stays, unless its provider takes it back.
        """
        ending = {**self.ending, instance_id: due}
        told = {**self.told, instance_id: now}
        first = "" if order == TAKEN_BACK else self.orders.get(instance_id, "")
        orders = {**self.orders, instance_id: first or order}
        return msgspec.structs.replace(self, ending=ending, told=told, orders=orders)

    def judging(self, pool: str, instance_id: str, fate: str) -> "Memory":
        """Return it with a machine whose end was accounted for."""
        ending = {each: at for each, at in self.ending.items() if each != instance_id}
        own = dict(self.ends.get(pool, {}))
        own[fate] = own.get(fate, 0) + 1
        judged = msgspec.structs.replace(
            self, judged=(*self.judged, instance_id), ends={**self.ends, pool: own}
        )
        return judged.expecting(ending)

    def expecting(self, ending: Mapping[str, float]) -> "Memory":
        """Return it with nothing of machines that were told to end, but of these."""
        return msgspec.structs.replace(
            self,
            ending=ending,
            told={each: at for each, at in self.told.items() if each in ending},
            orders={each: order for each, order in self.orders.items() if each in ending},
            hurried=tuple(each for each in self.hurried if each in ending),
        )

    def boot_failed(self, pool: str, now: float, why: str) -> "Memory":
        """Return it after boots that came to nothing: tried again later and later.

        Where the provider has refused for longer, that and its words stay.
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
        """Return it after a boot that came to something."""
        failures = {name: each for name, each in self.failures.items() if name != pool}
        return msgspec.structs.replace(self, failures=failures)

    def day_micros(self, now: datetime) -> int:
        """Return what this day (UTC) has cost as far as that was counted here."""
        return round(self.spent_micros) if self.day == now.date().isoformat() else 0

    def closed_s(self, pool: str, now: float) -> float:
        """Return for how long nothing is asked of a pool, in seconds."""
        known = self.closures.get(pool)
        return 0.0 if known is None else max(0.0, known.until - now)


class Keeping:
    """Reads and writes the note.

    What the policy knows of usual days is much, and changes slowly: it has a note of its own, which
    is written seldom. What it lacks after a crash is learnt again.
    """

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._kept: bytes | None = None
        self._habits = b""
        self._habits_at_s = float("-inf")

    async def load(self) -> Memory:
        """Return what was remembered; an empty memory where nothing was, or none can be read."""
        self._kept = await self._registry.note(MEMORY)
        memory = read(self._kept, Memory) or Memory()
        habits = read(await self._registry.note(HABITS), dict[str, tuple[float, ...]])
        if habits is None:
            return memory
        state = msgspec.structs.replace(memory.state, habits=habits)
        return msgspec.structs.replace(memory, state=state)

    async def save(self, memory: Memory) -> bool:
        """Write it in place of the one that was read or written last; False if another has."""
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
