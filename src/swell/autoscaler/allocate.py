"""Which pools draw for which models, so that it costs least. Pure.

A transport problem whose goods change their amount on the way: a worker of a pool draws more of one
model than of another. It is solved greedily, the cheapest sample first, and mended by exchanges:
where a full pool draws for one model what another would pay more for, they change places.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

#: What no pool has room for costs so much more than the dearest that does.
_UNMET: Final = 1e6
#: Less than this is nothing.
_LITTLE: Final = 1e-9
#: An exchange must save at least this share of what it moves.
_WORTH: Final = 1e-6


class Slot(NamedTuple):
    """Workers of one price in one pool.

    Args:
        price: What one costs, in any unit that is the same for all; >= 0.
        room: How many there can be; >= 0.
        rates: What one draws of each model if it draws nothing else, in samples per second; 0 where
            it cannot.
    """

    price: float
    room: float
    rates: Sequence[float]


class Prices(NamedTuple):
    """What samples cost in slots, whatever their room: the same for several allocations.

    Args:
        per_sample: Price of one sample per second. Shape (slots, models), infinite where a slot
            cannot draw a model.
        order: (slot, model) of all that can be drawn, the cheapest first.
        unmet: What one costs that nobody draws.
    """

    per_sample: list[list[float]]
    order: list[tuple[int, int]]
    unmet: float


def prices_of(slots: Sequence[Slot]) -> Prices:
    """Return what samples cost."""
    # A little, so that of two that cost nothing the quicker one is taken.
    per_sample = [
        [(slot.price + _LITTLE) / rate if rate > 0.0 else math.inf for rate in slot.rates]
        for slot in slots
    ]
    priced = sorted(
        (each, at, model)
        for at, row in enumerate(per_sample)
        for model, each in enumerate(row)
        if each < math.inf
    )
    dearest = priced[-1][0] if priced else 1.0
    return Prices(per_sample, [(at, model) for _, at, model in priced], _UNMET * dearest)


def allocate(
    needs: Sequence[float], slots: Sequence[Slot], prices: Prices | None = None
) -> list[list[float]]:
    """Return how many workers of each slot draw for each model. Shape (slots, models).

    Args:
        needs: What is needed of each model, in samples per second; >= 0.
        slots: Where workers are. Where they cost the same, those named first are taken first.
        prices: From `prices_of` of slots that differ in their room only.
    """
    sharing = _Sharing(needs, slots, prices or prices_of(slots))
    sharing.fill()
    sharing.exchange()
    return sharing.workers


def cost(workers: Sequence[Sequence[float]], slots: Sequence[Slot]) -> float:
    """Return what an allocation costs."""
    return sum(slot.price * sum(row) for slot, row in zip(slots, workers, strict=True))


class _Sharing:
    """One allocation on its way."""

    def __init__(self, needs: Sequence[float], slots: Sequence[Slot], prices: Prices) -> None:
        self.slots = slots
        self.workers = [[0.0] * len(needs) for _ in slots]
        self.unmet = [max(0.0, each) for each in needs]
        self.room = [max(0.0, slot.room) for slot in slots]
        self.order = prices.order
        self.per_sample = prices.per_sample
        self.dearest = prices.unmet

    def fill(self) -> None:
        """Take the cheapest samples first."""
        unmet, room = self.unmet, self.room
        for at, model in self.order:
            if unmet[model] > _LITTLE and room[at] > _LITTLE:
                self._draw(at, model, unmet[model])

    def exchange(self) -> None:
        """Let models change places as long as that saves something."""
        full = [at for at, room in enumerate(self.room) if room <= _LITTLE]
        for _ in range(2 * (len(self.slots) + len(self.unmet))):
            full = [at for at in full if any(self.workers[at])]
            if not full:
                return
            dear = [self._dearest(model) for model in range(len(self.unmet))]
            if not any(self._change(at, dear) for at in full):
                return

    def _draw(self, at: int, model: int, samples: float) -> float:
        """Let a slot draw up to so many samples per second; return how many."""
        rate = self.slots[at].rates[model]
        taken = min(self.room[at], samples / rate)
        self.room[at] -= taken
        self.workers[at][model] += taken
        self.unmet[model] -= taken * rate
        return taken * rate

    def _leave(self, at: int, model: int, workers: float) -> None:
        self.workers[at][model] -= workers
        self.room[at] += workers
        self.unmet[model] += workers * self.slots[at].rates[model]

    def _change(self, at: int, dear: Sequence[tuple[float, int]]) -> bool:
        """Give places of a full slot to the model that saves most by them."""
        found = self._best(at, dear)
        if found is None:
            return False
        comes, goes, source, target = found
        here = self.slots[at].rates
        workers = self.workers[at][goes]
        # As much as whoever comes has elsewhere, and as much as there is room for whoever goes.
        had = self.unmet[comes]
        if source >= 0:
            had = self.workers[source][comes] * self.slots[source].rates[comes]
        workers = min(workers, had / here[comes])
        if target >= 0:
            space = self.room[target] * self.slots[target].rates[goes]
            workers = min(workers, space / here[goes])
        if workers <= _LITTLE:
            return False
        self._leave(at, goes, workers)
        if source >= 0:
            moved = workers * here[comes] / self.slots[source].rates[comes]
            self._leave(source, comes, min(moved, self.workers[source][comes]))
        self._draw(at, comes, workers * here[comes])
        if target >= 0:
            self._draw(target, goes, workers * here[goes])
        return True

    def _best(self, at: int, dear: Sequence[tuple[float, int]]) -> tuple[int, int, int, int] | None:
        """Return (who comes, who goes, from where, to where) of the best exchange; -1 is nowhere.

        What one worker saves for whoever comes, and costs whoever goes, do not depend on each
        other.
        """
        rates, own = self.slots[at].rates, self.per_sample[at]
        comes = goes = source = target = -1
        gain, loss = 0.0, math.inf
        for model, rate in enumerate(rates):
            if rate <= 0.0:
                continue
            paid, where = dear[model]
            if where != at and (saved := rate * (paid - own[model])) > gain:
                gain, comes, source = saved, model, where
            if self.workers[at][model] > _LITTLE:
                cheap, where = self._cheapest(model, at)
                if (lost := rate * (cheap - own[model])) < loss:
                    loss, goes, target = lost, model, where
        if comes < 0 or goes < 0 or comes == goes or gain <= loss + _WORTH * (gain + 1e-12):
            return None
        return comes, goes, source, target

    def _dearest(self, model: int) -> tuple[float, int]:
        """Return what the dearest samples of a model cost now, and where they are drawn."""
        if self.unmet[model] > _LITTLE:
            return self.dearest, -1
        dear, where = 0.0, -2
        for at, row in enumerate(self.workers):
            if row[model] > _LITTLE and (each := self.per_sample[at][model]) > dear:
                dear, where = each, at
        return dear, where

    def _cheapest(self, model: int, besides: int) -> tuple[float, int]:
        """Return what samples of a model would cost elsewhere, and where there is room."""
        cheap, where = self.dearest, -1
        for at, room in enumerate(self.room):
            if room > _LITTLE and at != besides and self.per_sample[at][model] < cheap:
                cheap, where = self.per_sample[at][model], at
        return cheap, where
