"""How many workers each pool should have for what models need, before money is looked at. Pure."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from swell.autoscaler.allocate import Prices, Slot, allocate, prices_of
from swell.autoscaler.policy_settings import PolicySettings
from swell.autoscaler.requirement import Requirement
from swell.autoscaler.supply import Supply

#: Less than so much of a worker is not worth a whole one.
_CRUMB: Final = 0.1
#: Starts of two pools that differ by less count as equally long.
_QUICKER: Final = 0.7
#: A worker that is paid for longer than this is kept for as long, in seconds.
_PAID_S: Final = 60.0


class Wish(NamedTuple):
    """What should be done in one pool.

    Args:
        launch: How many to ask for.
        cancel: How many that start are not needed.
        drain: How many that take tasks are not needed.
        up: So many are needed, and up to `high` are kept.
        high: See `up`.
        why: What keeps it from being changed further: the code of a reason, or nothing.
    """

    launch: int
    cancel: int
    drain: int
    up: int
    high: int
    why: str = ""


def wishes(
    models: Sequence[Requirement],
    pools: Sequence[Supply],
    settings: PolicySettings,
    known_s: float,
) -> list[Wish]:
    """Return what should be done in each pool.

    Args:
        models: What is needed.
        pools: Where.
        settings: What is wanted.
        known_s: For how long it has been looked at without a break: nothing shrinks before it is
            as long as a start takes.
    """
    sizing = _Sizing(models, pools, settings)
    up = sizing.up()
    # Where nothing is too much, it need not be known what is.
    over = any(pool.n > max(0, wanted) for pool, wanted in zip(pools, up, strict=True))
    high, now = (sizing.high(), sizing.now()) if over else (up, up)
    late = _late(models)
    found = []
    for at, pool in enumerate(pools):
        least, most = min(pool.view.least, pool.view.most), pool.view.most
        wanted = max(least, min(up[at], pool.room))
        if pool.view.closed_s > 0.0:
            wanted = min(wanted, pool.room)  # also where it has fewer than its least
        if pool.n < wanted:
            found.append(_grown(pool, wanted, max(wanted, high[at]), settings))
        elif pool.n > most:
            found.append(_shrunk(pool, most, most, 0, "most"))
        else:
            kept = min(most, max(wanted, high[at]))
            hold = "settle" if known_s < pool.keep_s else "late" if at in late else ""
            found.append(_kept(pool, wanted, kept, now[at], hold))
    return found


def _late(models: Sequence[Requirement]) -> set[int]:
    """Return the pools that draw for a model whose tasks wait for too long."""
    return {at for each in models if each.demand.oldest_s > each.terms.wait_s for at in each.pools}


def _grown(pool: Supply, wanted: int, high: int, settings: PolicySettings) -> Wish:
    most = max(settings.most_at_once, pool.n)
    launch = min(wanted - pool.n, most)
    return Wish(launch, 0, 0, wanted, high, "pace" if launch < wanted - pool.n else "")


def _kept(pool: Supply, wanted: int, kept: int, now: int, hold: str) -> Wish:
    """Return how far a pool shrinks to what is kept."""
    over = pool.n - kept
    if over <= 0 or hold == "settle":
        return Wish(0, 0, 0, wanted, kept, hold if over > 0 else "")
    cancel = min(over, _cancelable(pool))
    over -= cancel
    if hold:
        return Wish(0, cancel, 0, wanted, kept, hold if over > 0 else "")
    view = pool.view
    idle = max(0, min(view.ready - view.busy, view.ready - now, view.ready - view.least))
    free = idle if not view.paid_s else min(idle, sum(1 for s in view.paid_s if s <= _PAID_S))
    drain = min(over, free)
    why = "" if drain == over else "paid" if free < min(over, idle) else "busy"
    return Wish(0, cancel, drain, wanted, kept, why)


def _cancelable(pool: Supply) -> int:
    """Return how many of those that start are not paid for anyway until they are ready."""
    paid_s = pool.view.least_billed_s
    if paid_s <= 0.0:
        return len(pool.view.booting)
    return sum(boots.n for boots in pool.boots if paid_s - boots.age_s < boots.in_s)


def _shrunk(pool: Supply, wanted: int, high: int, idle_only: int, why: str) -> Wish:
    over = pool.n - wanted
    cancel = min(over, len(pool.view.booting))
    drain = min(over - cancel, pool.view.ready - idle_only)
    return Wish(0, cancel, drain, wanted, high, why)


class _Sizing:
    """Turns what models need into workers of pools."""

    def __init__(
        self,
        models: Sequence[Requirement],
        pools: Sequence[Supply],
        settings: PolicySettings,
    ) -> None:
        self._models, self._pools, self._settings = models, pools, settings
        self._rates = [
            [pool.view.rates.get(each.demand.model, 0.0) * each.believed for each in models]
            for pool in pools
        ]
        self._pooled = _pooled(models)
        self._lasting = [
            [rate * pool.left for rate in own] for pool, own in zip(pools, self._rates, strict=True)
        ]
        self._prices: Prices | None = None

    def up(self) -> list[int]:
        """Return how many workers each pool should have."""
        needs = [
            each.need.up - spare for each, spare in zip(self._models, self._pooled, strict=True)
        ]
        there = [pool.n for pool in self._pools]
        rooms = [max(pool.n, pool.room) for pool in self._pools]
        wanted = self._spread(needs, there, rooms)
        bridge = self._bridge()
        found = [
            max(math.ceil(each - _CRUMB), pool.n + more if more else 0)
            for each, pool, more in zip(wanted, self._pools, bridge, strict=True)
        ]
        return self._with_one(found, rooms)

    def high(self) -> list[int]:
        """Return up to how many workers each pool keeps."""
        needs = [
            each.need.keep - spare for each, spare in zip(self._models, self._pooled, strict=True)
        ]
        there = [pool.n for pool in self._pools]
        kept = self._spread(needs, there, there)
        soonest_s = min((pool.lead_s for pool in self._pools), default=0.0)
        if any(pool.lead_s * _QUICKER > soonest_s for pool in self._pools):
            # Those that bridge stay until the others are nearly there.
            soon = [pool.view.ready + pool.coming(soonest_s) for pool in self._pools]
            bridging = self._spread(needs, soon, soon)
            kept = [max(one, other) for one, other in zip(kept, bridging, strict=True)]
        return self._with_one([math.ceil(each - _CRUMB) for each in kept], there)

    def now(self) -> list[int]:
        """Return how many of those that are ready each pool needs."""
        there = [pool.view.ready for pool in self._pools]
        needed = self._spread([each.need.now for each in self._models], there, there)
        return [math.ceil(each - _CRUMB) for each in needed]

    def _with_one(self, found: list[int], rooms: Sequence[int]) -> list[int]:
        """Return as many with a whole worker for each model that is asked for, if but rarely."""
        for each in self._models:
            if each.is_idle or any(found[at] for at in each.pools):
                continue
            able = [at for at in each.pools if rooms[at] > 0]
            if able:
                # One that is there already is the cheapest.
                found[min(able, key=lambda at: (not self._pools[at].n, self._pools[at].price))] = 1
        return found

    def _bridge(self) -> list[int]:
        """Return how many quick pools are asked for until others have started."""
        needs = [each.bridge for each in self._models]
        if not any(needs):
            return [0] * len(self._pools)
        soonest_s = min(pool.lead_s for pool in self._pools)
        slots = [
            Slot(
                pool.new_price,
                max(0, pool.room - pool.n) if pool.lead_s * _QUICKER <= soonest_s else 0,
                rates,
            )
            for pool, rates in zip(self._pools, self._rates, strict=True)
        ]
        return [math.ceil(sum(row) - _CRUMB) for row in allocate(needs, slots)]

    def _spread(
        self, needs: Sequence[float], there: Sequence[int], rooms: Sequence[int]
    ) -> list[float]:
        """Return how many workers each pool should have for these needs.

        Args:
            needs: Of each model, in samples per second.
            there: Workers that have been started already.
            rooms: How many there may be.
        """
        if len(self._pools) == 1:
            return [self._alone(needs, rooms[0])]
        taken = [0.0] * len(self._pools)
        rest = list(needs)
        floor = self._settings.on_demand_share
        if floor > 0.0 and any(pool.view.is_spot for pool in self._pools):
            firm = [0 if pool.view.is_spot else room for pool, room in self._with(rooms)]
            rest = self._add(taken, [each * floor for each in needs], there, firm)
            rest = [each * (1.0 - floor) + left for each, left in zip(needs, rest, strict=True)]
        limited = self._limited(needs, rooms)
        if limited != list(rooms):
            rest = self._add(taken, rest, there, limited)
        if any(each > _CRUMB * 1e-3 for each in rest):
            self._add(taken, rest, there, rooms)
        return taken

    def _with(self, rooms: Sequence[float]) -> list[tuple[Supply, float]]:
        return list(zip(self._pools, rooms, strict=True))

    def _alone(self, needs: Sequence[float], room: int) -> float:
        rates, left = self._rates[0], self._pools[0].left
        work = sum(max(0.0, need) / rate for need, rate in zip(needs, rates, strict=True) if rate)
        return min(work / left, float(room))

    def _add(
        self,
        taken: list[float],
        needs: Sequence[float],
        there: Sequence[int],
        rooms: Sequence[float],
    ) -> list[float]:
        """Add workers for these needs to those that are taken; return what is not met."""
        slots = []
        for (pool, room), used, lasting, old in zip(
            self._with(rooms), taken, self._lasting, there, strict=True
        ):
            slots.append(Slot(pool.price, min(old, room) - used, lasting))
            slots.append(Slot(pool.new_price, room - max(old, used), lasting))
        if self._prices is None:
            self._prices = prices_of(slots)
        found = allocate(needs, slots, self._prices)
        met = [0.0] * len(needs)
        for at, own in enumerate(self._lasting):
            for row in (found[2 * at], found[2 * at + 1]):
                taken[at] += sum(row)
                for model, workers in enumerate(row):
                    met[model] += workers * own[model]
        return [max(0.0, need - got) for need, got in zip(needs, met, strict=True)]

    def _limited(self, needs: Sequence[float], rooms: Sequence[int]) -> list[float]:
        """Return the room of each pool with as much in one spot location as may be."""
        share = self._settings.location_share
        spots: dict[str, list[int]] = defaultdict(list)
        for at, pool in enumerate(self._pools):
            if pool.view.is_spot and pool.view.location:
                spots[pool.view.location].append(at)
        if not spots or share >= 1.0:
            return list(rooms)
        limited: list[float] = list(rooms)
        for places in spots.values():
            for at in places:
                work = sum(
                    max(0.0, need) / rate
                    for need, rate in zip(needs, self._rates[at], strict=True)
                    if rate
                )
                most = max(1.0, share * work / self._pools[at].left) / len(places)
                limited[at] = min(float(rooms[at]), most)
        return limited


def _pooled(models: Sequence[Requirement]) -> list[float]:
    """Return how much less of each model is needed as models that share all pools rarely rise at
    once, in samples per second.
    """
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for at, each in enumerate(models):
        groups[each.pools].append(at)
    spared = [0.0] * len(models)
    for places in groups.values():
        if len(places) < 2:
            continue
        chances = [models[at].need.headroom for at in places]
        total = sum(chances)
        if total > 0.0:
            factor = math.sqrt(sum(each * each for each in chances)) / total
            for at, chance in zip(places, chances, strict=True):
                spared[at] = chance * (1.0 - factor)
    return spared
