"""What each model needs of the pools that can draw it. Pure.

Which pool draws how much is decided afterwards; here each model is looked at for itself, with the
share of the pools' workers that falls to it now.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from swell.autoscaler.forecast import Forecast, follow, forecast, fresh, remember
from swell.autoscaler.need import CALM_SHARE, Need, Terms, headroom, need
from swell.autoscaler.outlook import Demand, Observation, State
from swell.autoscaler.policy_settings import PolicySettings
from swell.autoscaler.seasonal import Habit, habit, known, learn
from swell.autoscaler.supply import Supply

#: The headroom is corrected by what turns out late: by so many deviations for each second.
_CORRECTED: Final = 5e-5
#: Between two looks that are further apart than this, nobody knows what was late, in seconds.
_MOST_APART_S: Final = 60.0
_MOST_SCORE: Final = 3.0
#: A quicker pool bridges until the cheapest has started, if it starts in less than this share.
_QUICKER: Final = 0.7
#: How fast workers really are is learnt within so many seconds, believed if it differs by more than
#: so much from what was told, and to no more than so much; both as logarithms.
_SPEED_S: Final = 600.0
_TOLERATED: Final = 0.2
_MOST_SPEED: Final = 1.0
_FEW: Final = 5.0
#: That many arrivals expected before a worker would have paid for its start are certain enough.
_CERTAIN: Final = 3.0
#: What usually comes may come so much later, in seconds.
_LATE_S: Final = 600.0
#: Of a model of which nobody has asked anything for so long, nothing is remembered, in seconds.
_FORGOTTEN_S: Final = 14 * 86400.0


class Requirement(NamedTuple):
    """One model.

    Args:
        demand: What was seen.
        pools: Which pools can draw it, as places in their order.
        known: What is expected.
        habit: How it usually grows.
        speed: How many times as fast workers have proved to be as was told, as a logarithm.
        extra: By how many deviations the headroom was corrected.
        seen_at: When it was asked for last, in seconds since 1970.
        terms: What is asked of it.
        need: What it needs.
        bridge: What a quicker pool should draw until others have started, in samples per second.
        able: What its workers can draw by the time that new ones are ready, in samples per second.
        is_idle: Whether nobody will probably ask before a new start would be cheaper.
    """

    demand: Demand
    pools: tuple[int, ...]
    known: Forecast | None
    habit: Habit
    speed: float
    extra: float
    seen_at: float
    terms: Terms
    need: Need
    bridge: float
    able: float
    is_idle: bool

    @property
    def believed(self) -> float:
        """By what told rates are multiplied."""
        return _believed(self.speed)


def requirements(
    observation: Observation, settings: PolicySettings, state: State, pools: Sequence[Supply]
) -> list[Requirement]:
    """Return what each model needs, in the order of their names."""
    seen_at = observation.at - observation.age_s
    demands = sorted(observation.demands, key=lambda demand: demand.model)
    forecasts = [
        follow(forecast(state.forecasts.get(demand.model, {})), demand, seen_at)
        for demand in demands
    ]
    shares = _shares(demands, forecasts, pools)
    found = []
    for demand, expected, own in zip(demands, forecasts, shares, strict=True):
        memory = state.forecasts.get(demand.model, {})
        usual = habit(state.habits.get(demand.model, ()))
        if expected is not None:
            usual = learn(usual, seen_at, math.log(expected.rate))
        looking = _Looking(demand, expected, usual, own, pools, settings, observation)
        found.append(looking.at(memory))
    return found


def remembered(
    models: Sequence[Requirement], state: State, at: float
) -> dict[str, Mapping[str, float]]:
    """Return what is to be remembered of each model."""
    memory: dict[str, Mapping[str, float]] = {
        name: numbers
        for name, numbers in state.forecasts.items()
        if at - numbers.get("seen_at", at) < _FORGOTTEN_S
    }
    for each in models:
        numbers = remember(each.known) if each.known else {}
        numbers["extra"] = each.extra
        numbers["speed"] = each.speed
        numbers["waiting"] = each.demand.waiting
        numbers["seen_at"] = each.seen_at
        numbers["looked_at"] = at
        memory[each.demand.model] = numbers
    return memory


def _believed(speed: float) -> float:
    return math.exp(speed) if abs(speed) > _TOLERATED else 1.0


def habits(models: Sequence[Requirement], state: State) -> dict[str, Sequence[float]]:
    """Return what is to be remembered of how each model's demand usually grows."""
    before = state.habits
    kept = {name: before[name] for name in before if name in state.forecasts}
    for each in models:
        numbers = before.get(each.demand.model, ())
        if each.known and not (numbers and numbers[0] == each.habit.slot):
            kept[each.demand.model] = known(each.habit)
    return kept


def _shares(
    demands: Sequence[Demand], forecasts: Sequence[Forecast | None], pools: Sequence[Supply]
) -> list[list[tuple[int, float]]]:
    """Return for each model (pool, samples per second of one of its workers) as it falls out now.

    Models of one pool share it by how much work they bring.
    """
    owns: list[list[tuple[int, float]]] = [[] for _ in demands]
    for at, pool in enumerate(pools):
        rates = [pool.view.rates.get(demand.model, 0.0) for demand in demands]
        models = [model for model, rate in enumerate(rates) if rate > 0.0]
        if len(models) == 1:
            owns[models[0]].append((at, rates[models[0]]))
            continue
        work = [_load(demands[model], forecasts[model]) / rates[model] for model in models]
        total = sum(work)
        for model, own in zip(models, work, strict=True):
            share = own / total if total > 0.0 else 1.0 / len(models)
            owns[model].append((at, rates[model] * share))
    return owns


def _load(demand: Demand, known: Forecast | None) -> float:
    return (known.rate if known else 0.0) + demand.waiting / 60.0


class _Looking:
    """Looks at one model."""

    def __init__(
        self,
        demand: Demand,
        known: Forecast | None,
        usual: Habit,
        own: Sequence[tuple[int, float]],
        pools: Sequence[Supply],
        settings: PolicySettings,
        observation: Observation,
    ) -> None:
        self._demand, self._known, self._own, self._habit = demand, known, own, usual
        self._pools, self._settings, self._seen = pools, settings, observation
        self._wait_s = settings.wait_s if demand.wait_s is None else demand.wait_s

    def at(self, memory: Mapping[str, float]) -> Requirement:
        """Return what it needs."""
        demand, at = self._demand, self._seen.at
        extra = self._corrected(memory)
        speed = self._speed(memory)
        self._own = [(at, rate * _believed(speed)) for at, rate in self._own]
        seen_at = max(memory.get("seen_at", at), self._last_asked(at))
        long, quick = self._leads()
        terms = self._terms(long, extra)
        ready, coming = self._able(terms.lead_s)
        found = self._need(terms)
        is_idle = self._is_idle(found, terms, at - seen_at)
        if is_idle:
            found = found._replace(up=0.0, keep=0.0, now=0.0, headroom=0.0)
        return Requirement(
            demand=demand,
            pools=tuple(at for at, _ in self._own),
            known=self._known,
            habit=self._habit,
            speed=speed,
            extra=extra,
            seen_at=seen_at,
            terms=terms,
            need=found,
            bridge=0.0 if is_idle else self._bridge(long, quick, extra, found.up),
            able=ready + coming,
            is_idle=is_idle,
        )

    def _last_asked(self, at: float) -> float:
        demand = self._demand
        if demand.waiting > 0.0 or demand.leased > 0.0:
            return at
        for place, count in enumerate(reversed(demand.tens)):
            if count > 0.0:
                return at - 10.0 * place
        for place, count in enumerate(reversed(demand.minutes)):
            if count > 0.0:
                return at - 60.0 * place
        return -math.inf

    def _corrected(self, memory: Mapping[str, float]) -> float:
        """Return the correction of the headroom after what has waited since the last look."""
        extra = memory.get("extra", 0.0)
        passed_s = self._seen.at - memory.get("looked_at", self._seen.at)
        if not 0.0 < passed_s <= _MOST_APART_S:
            return extra
        late = 1.0 if self._demand.oldest_s > self._wait_s else 0.0
        extra += _CORRECTED * passed_s * (late - CALM_SHARE * self._settings.late_share)
        return max(-_MOST_SCORE, min(_MOST_SCORE, extra))

    def _speed(self, memory: Mapping[str, float]) -> float:
        """Return how many times as fast as was told workers are, as a logarithm.

        What left the queue is held against what those that were busy should have drawn. Where some
        are idle, only that they are faster can be seen: slow ones may just not have been full.
        """
        demand, speed = self._demand, memory.get("speed", 0.0)
        passed_s = self._seen.at - memory.get("looked_at", self._seen.at)
        if not 0.0 < passed_s <= _MOST_APART_S or not demand.tens:
            return speed
        came = sum(demand.tens) / (10.0 * len(demand.tens))
        drawn = came - (demand.waiting - memory.get("waiting", 0.0)) / passed_s
        busy = sum(self._pools[at].view.busy for at, _ in self._own)
        told = sum(self._pools[at].view.busy * rate for at, rate in self._own)
        if drawn <= 0.0 or told <= 0.0:
            return speed
        seen = max(-2.0 * _MOST_SPEED, min(2.0 * _MOST_SPEED, math.log(drawn / told)))
        is_full = demand.oldest_s > self._wait_s and busy >= sum(
            self._pools[at].view.ready for at, _ in self._own
        )
        if seen < min(speed, 0.0) and not is_full:
            return speed
        # What few do may be chance.
        gain = min(1.0, passed_s / _SPEED_S) * busy / (busy + _FEW)
        return max(-_MOST_SPEED, min(_MOST_SPEED, speed + gain * (seen - speed)))

    def _leads(self) -> tuple[Supply | None, Supply | None]:
        """Return the pool that would be asked for more, and a quicker one that could bridge."""
        able = [(self._pools[at], self._rate(at)) for at, _ in self._own]
        open_ = [each for each in able if each[0].room > each[0].n] or able
        if not open_:
            return None, None
        long = min(open_, key=lambda each: each[0].new_price / each[1])[0]
        quick = min(open_, key=lambda each: each[0].lead_s)[0]
        return long, quick if quick.lead_s < _QUICKER * long.lead_s else None

    def _rate(self, at: int) -> float:
        return self._pools[at].view.rates[self._demand.model]

    def _terms(self, pool: Supply | None, extra: float) -> Terms:
        lead_s = pool.lead_s if pool else 60.0
        score = headroom(self._settings.late_share, self._wait_s, lead_s) + extra
        return Terms(
            wait_s=self._wait_s,
            score=max(0.0, min(_MOST_SCORE, score)),
            lead_s=lead_s,
            keep_s=pool.keep_s if pool else lead_s,
            at=self._seen.at,
            habit=self._habit,
        )

    def _able(self, lead_s: float) -> tuple[float, float]:
        """Return what those draw that are ready, and what those add that will be by then."""
        ready = coming = 0.0
        for at, rate in self._own:
            pool = self._pools[at]
            ready += pool.view.ready * rate
            coming += pool.coming(lead_s) * rate
        return ready, coming

    def _need(self, terms: Terms) -> Need:
        ready, coming = 0.0, []
        for at, rate in self._own:
            pool = self._pools[at]
            ready += pool.view.ready * rate
            coming += [(boots.in_s, boots.n * rate) for boots in pool.boots]
        coming.sort()
        every_s = self._seen.usual_every_s
        found = need(self._known, self._demand, terms, ready, coming, every_s)
        guess = fresh(self._known, self._demand)
        if guess is None:
            return found
        other = need(guess, self._demand, terms, ready, coming, every_s)
        return max(found, other, key=lambda each: each.up)

    def _bridge(
        self, long: Supply | None, quick: Supply | None, extra: float, enough: float
    ) -> float:
        """Return what is missing by the time that the quicker pool could help."""
        if long is None or quick is None:
            return 0.0
        terms = self._terms(quick, extra)
        ready, coming = self._able(terms.lead_s)
        if self._demand.oldest_s <= self._wait_s and ready + coming >= enough:
            return 0.0
        found = self._need(terms)
        later = self._able(long.lead_s)[1] - coming
        # Only what would be late without it, and what no start that is under way will mend.
        if later > 0.0 and found.wait_s <= self._wait_s:
            return 0.0
        return max(0.0, found.up - ready - coming)

    def _missed(self, idle_s: float) -> float:
        """Return how many samples usually come in the time in which nobody has come.

        Not in the last minutes of it: they may still, since weeks are not alike to the minute. Any
        number where nothing is usual.
        """
        demand, every_s = self._demand, self._seen.usual_every_s
        if len(demand.usual) < 2:
            return math.inf
        known = len(demand.usual_before)
        return every_s * sum(
            demand.usual_before[int(_LATE_S / every_s) : int(min(known, idle_s / every_s))]
        )

    def _is_idle(self, found: Need, terms: Terms, idle_s: float) -> bool:
        """Return whether its last worker costs more than a new start and the wait for it."""
        demand = self._demand
        if demand.waiting > 0.0 or demand.leased > 0.0:
            return False
        patience_s = terms.keep_s + self._settings.first_wait_s
        if found.ahead * patience_s >= _CERTAIN and found.rate * idle_s < _CERTAIN:
            return False
        if found.ahead * patience_s >= _CERTAIN and self._missed(idle_s) < _CERTAIN:
            return False
        gap_s = max(idle_s, 1.0 / found.rate if found.rate > 0.0 else math.inf)
        return gap_s > patience_s
