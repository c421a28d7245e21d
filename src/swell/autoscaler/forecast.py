"""How much will be asked of a model, and how sure that is. Pure.

The logarithm of the arrival rate is followed as

    log rate = level + noise,    level' = slope,    noise = AR(1)

by three Kalman filters at once: one holds that demand moves as usual (slopes change over hours),
one that something has begun that takes hours, one that a crowd is here (slopes change within
minutes, levels jump). Which of them is right is part of what is estimated, so that a crowd is
believed as soon as it is more likely than chance, and growth read off noise is not extrapolated.
Arrivals are counts, and each count moves the estimate by a bounded amount.

Source:
    H. A. P. Blom, Y. Bar-Shalom: The interacting multiple model algorithm for systems with
    Markovian switching coefficients. IEEE Transactions on Automatic Control 33 (1988), 780-783.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from swell.autoscaler.outlook import Demand

#: How long noise lasts, in seconds, and its standard deviation at first, as a share of the rate.
NOISE_S: Final = 600.0
NOISE: Final = 0.10

#: How loud noise is, is learnt within so many counts, the first ones faster; and its bounds.
_LEARNT: Final = (50.0, 500.0)
_LOUDNESS: Final = (0.02**2, 0.50**2)
#: Surprises count up to this square when noise is learnt, and are then this on average.
_MOST_SQUARE: Final = 4.0
_MEAN_SQUARE: Final = 0.92

#: Of growth to come, no more is believed than this, as a logarithm.
MOST_GROWTH: Final = 1.2

#: One count moves the estimate as if it were at most so many standard deviations off.
MOST_SURPRISE: Final = 4.0

#: Counts are compared after so much was added, so that the logarithm of none is harmless.
_SOFT: Final = 0.5

#: Where less than one sample is expected, a count above this times the dispersion begins a crowd.
_MOST_AT_REST: Final = 8.0

#: First weights of the views: usually, and after a rest.
_USUAL: Final = (0.9, 0.07, 0.03)
_CROWDED: Final = (0.1, 0.1, 0.8)

#: Memory of the dispersion of counts, in seconds. One count weighs at most as this many times the
#: known dispersion.
_DISPERSION_S: Final = 1800.0
_MOST_DISPERSION: Final = 5.0

_TEN_S: Final = 10.0
#: So many counts are enough to know what is usual, and what waits for longer tells nothing of now.
_FRESH: Final = 6.0
_TOLD_S: Final = 60.0
_LEAST_LOG: Final = math.log(1e-6)
_MOST_LOG: Final = math.log(1e9)


class Motion(NamedTuple):
    """How the level of demand moves in one of the views.

    Args:
        level: Variance of the level's own steps, per second.
        slope: Variance of the slope's steps, per second; slopes are per second too.
        lasts_s: How long a slope lasts, in seconds.
        after: How steep slopes are once a livelier view is over, per second.
    """

    level: float
    slope: float
    lasts_s: float
    after: float


#: As usual: within an hour the slope changes by about a tenth an hour.
CALM: Final = Motion(0.02**2 / 3600, (0.10 / 3600) ** 2 / 3600, 6 * 3600.0, 0.3 / 3600)

#: Something has begun that takes hours: within ten minutes the slope changes by 0.4 an hour.
RAMP: Final = Motion(0.05**2 / 3600, (1.0 / 3600) ** 2 / 3600, 3 * 3600.0, 0.5 / 3600)

#: A crowd: within a minute the slope changes by 0.08 a minute, the level by a tenth besides.
CROWD: Final = Motion(0.10**2 / 60, (0.08 / 60) ** 2 / 60, 3600.0, 0.0)

MOTIONS: Final = (CALM, RAMP, CROWD)

#: How often one view turns into another, per second: rows from, columns to.
TURNS: Final = (
    (0.0, 1 / (24 * 3600), 1 / (72 * 3600)),
    (1 / (2 * 3600), 0.0, 1 / (72 * 3600)),
    (1 / 3600, 1 / 3600, 0.0),
)

#: What has less weight is left out where views turn into others.
_NO_WEIGHT: Final = 1e-5


class _View(NamedTuple):
    """Estimate of one filter: level, slope, noise, and their covariances."""

    level: float
    slope: float
    noise: float
    ll: float
    ls: float
    ln: float
    ss: float
    sn: float
    nn: float
    weight: float


#: What the numbers of the views are called where they are remembered.
_NAMES: Final = tuple(
    tuple(f"{view}.{field}" for field in _View._fields) for view in ("calm", "ramp", "crowd")
)


_SCALARS: Final = ("at", "loudness", "seen", "dispersion", "last")


class Forecast(NamedTuple):
    """What is expected of one model's arrivals.

    Args:
        views: The estimates, each with its weight; none where nothing was ever seen.
        at: When the last count ended, in seconds since 1970.
        loudness: Variance of the noise.
        seen: How many counts it rests on.
        dispersion: Variance of a count over its mean: 1 for Poisson, 4 for tasks of four samples.
        last: The last count of ten seconds.
    """

    views: tuple[_View, ...]
    at: float
    loudness: float = NOISE * NOISE
    seen: float = 0.0
    dispersion: float = 1.0
    last: float = 0.0

    @property
    def noise(self) -> float:
        """Standard deviation of the noise, as a share of the rate."""
        return math.sqrt(self.loudness)

    @property
    def rate(self) -> float:
        """Samples per second now."""
        return math.exp(sum(view.weight * (view.level + view.noise) for view in self.views))

    @property
    def slope(self) -> float:
        """Growth of the logarithm of the rate now, per second."""
        return sum(view.weight * view.slope for view in self.views)

    @property
    def is_crowd(self) -> bool:
        """Whether something has probably begun."""
        return self.views[-1].weight > 0.5

    def log_rate(self, ahead_s: float) -> tuple[float, float]:
        """Return mean and standard deviation of the logarithm of the rate, so far ahead.

        The rate is in samples per second.
        """
        mean = deviation = 0.0
        fade = math.exp(-ahead_s / NOISE_S)
        fresh = self.loudness * (1.0 - fade * fade)
        for view, motion in zip(self.views, MOTIONS, strict=True):
            reach = motion.lasts_s * (1.0 - math.exp(-ahead_s / motion.lasts_s))
            growth = view.slope * reach
            if growth > 0.0:
                growth = MOST_GROWTH * (1.0 - math.exp(-growth / MOST_GROWTH))
            spread = (
                view.ll
                + 2 * reach * (view.ls + fade * view.sn)
                + 2 * fade * view.ln
                + reach * reach * view.ss
                + fade * fade * view.nn
                + fresh
                + motion.level * ahead_s
            )
            mean += view.weight * (view.level + growth + view.noise * fade)
            deviation += view.weight * math.sqrt(spread)
        return mean, deviation


def forecast(memory: Mapping[str, float]) -> Forecast | None:
    """Return the forecast that was remembered; None where nothing was ever seen."""
    if "at" not in memory:
        return None
    views = tuple(_View(*[memory[name] for name in names]) for names in _NAMES)
    others = (memory[name] for name in _SCALARS)
    return Forecast(views, *others)


def remember(known: Forecast) -> dict[str, float]:
    """Return a forecast as plain numbers by name."""
    memory: dict[str, float] = {name: getattr(known, name) for name in _SCALARS}
    for names, view in zip(_NAMES, known.views, strict=True):
        memory.update(zip(names, view, strict=True))
    return memory


def follow(known: Forecast | None, demand: Demand, at: float) -> Forecast | None:
    """Return the forecast once what has arrived since is counted.

    Args:
        known: What was expected before, or None.
        demand: Counts of the last minutes and tens of seconds.
        at: Now, in seconds since 1970. Seen twice, the same moment counts once.
    """
    end = math.floor(at / _TEN_S) * _TEN_S
    if known is None:
        counts = [(count, 60.0) for count in demand.minutes] or [
            (count, _TEN_S) for count in demand.tens
        ]
        if not counts:
            return None
        known = _first(counts[:3])
        for count, seconds in counts:
            known = _seen(known, count, seconds)
        return known._replace(at=end)
    for count, seconds in _new(demand, known.at, end):
        if known.rate * seconds < 1.0 and count > _MOST_AT_REST * known.dispersion:
            # After a rest, earlier counts say nothing about a crowd.
            known = known._replace(views=_first([(count, seconds)], _CROWDED).views)
        known = _seen(known, count, seconds)
    return known._replace(at=max(end, known.at))


def fresh(known: Forecast | None, demand: Demand) -> Forecast | None:
    """Return what else may be expected as long as hardly anything was counted.

    What waits has arrived since the oldest of it did, which backends may not have told yet. None
    where that says nothing: where counts are known, or some have waited for long.

    Args:
        known: What is expected by what was counted.
        demand: What waits.
    """
    is_known = known is not None and known.seen >= _FRESH
    if is_known or demand.waiting <= 0.0 or demand.oldest_s > _TOLD_S:
        return None
    return _first([(demand.waiting, max(_TEN_S, demand.oldest_s))])


def _new(demand: Demand, since: float, end: float) -> Iterator[tuple[float, float]]:
    """Yield (count, seconds) of what is over now and was not then, the oldest first."""
    tens = round((end - since) / _TEN_S)
    if tens <= 0:
        return
    if tens <= len(demand.tens):
        for count in demand.tens[len(demand.tens) - tens :]:
            yield count, _TEN_S
        return
    minutes = min(len(demand.minutes), max(1, round(tens / 6)))
    for count in demand.minutes[len(demand.minutes) - minutes :]:
        yield count, 60.0
    rest = min(len(demand.tens), int(end % 60 / _TEN_S))
    for count in demand.tens[len(demand.tens) - rest :]:
        yield count, _TEN_S


def _first(
    counts: Sequence[tuple[float, float]], weights: tuple[float, float, float] = _USUAL
) -> Forecast:
    total = sum(count for count, _ in counts) + _SOFT
    level = math.log(total / sum(seconds for _, seconds in counts))
    spread = 0.1**2 + 1 / total
    view = _View(level, 0.0, 0.0, spread, 0.0, 0.0, (0.15 / 3600) ** 2, 0.0, NOISE**2, 0.0)
    return Forecast(tuple(view._replace(weight=each) for each in weights), 0.0)


def _seen(known: Forecast, count: float, seconds: float) -> Forecast:
    """Return the forecast after one more count of samples over so many seconds."""
    views, loudness, total = [], known.loudness, 0.0
    known = _with_dispersion(known, count, seconds)
    for to, (motion, chances) in enumerate(zip(MOTIONS, _chances(seconds), strict=True)):
        mixed, weight = known.views[to], known.views[to].weight * chances[to]
        for at, view in enumerate(known.views):
            share = view.weight * chances[at]
            if at == to or share < _NO_WEIGHT:
                continue
            # What comes from a livelier view brings its level, not its slope.
            part = _levelled(view, motion) if at > to else view
            mixed = _mixed(mixed, part, weight / (weight + share))
            weight += share
        ahead = _ahead(mixed, motion, known.loudness, seconds, weight)
        if to == 0:
            loudness = _louder(known, ahead, count, seconds)
        views.append(_corrected(ahead, count, seconds, known.dispersion))
        total += views[-1].weight
    weighed = tuple(view._replace(weight=view.weight / total) for view in views)
    return known._replace(views=weighed, loudness=loudness, seen=known.seen + 1.0)


def _with_dispersion(known: Forecast, count: float, seconds: float) -> Forecast:
    """Return the forecast with its dispersion updated by a count.

    Trends do not change the mean square of successive differences.

    Source:
        J. von Neumann, R. Kent, H. Bellinson, B. Hart: The mean square successive difference.
        Annals of Mathematical Statistics 12 (1941), 153-162.
    """
    if seconds != _TEN_S:
        return known
    dispersion, both = known.dispersion, known.last + count
    if known.seen and both:
        found = min((count - known.last) ** 2 / both, _MOST_DISPERSION * dispersion)
        gain = max(1.0 / (known.seen + 6.0), _TEN_S / _DISPERSION_S)
        dispersion = max(1.0, dispersion + gain * (found - dispersion))
    return known._replace(dispersion=dispersion, last=count)


@lru_cache(maxsize=16)
def _chances(seconds: float) -> tuple[tuple[float, ...], ...]:
    """Return the chance of each view (rows) to follow from each (columns) after so many seconds."""
    leave = [[min(0.25, rate * seconds) for rate in rates] for rates in TURNS]
    return tuple(
        tuple(1.0 - sum(row) if at == to else row[to] for at, row in enumerate(leave))
        for to in range(len(TURNS))
    )


def _levelled(view: _View, motion: Motion) -> _View:
    return view._replace(slope=0.0, ls=0.0, sn=0.0, ss=motion.after**2)


def _louder(known: Forecast, ahead: _View, count: float, seconds: float) -> float:
    """Return how loud noise is, by how surprising a count was if all is as usual.

    Where counts are small, they are surprising by themselves and say little of noise.
    """
    expected = math.exp(ahead.level + ahead.noise) * seconds + _SOFT
    known_spread = ahead.ll + 2 * ahead.ln + ahead.nn
    spread = known_spread + known.dispersion / expected
    square = min(_MOST_SQUARE, ((count + _SOFT) / expected - 1.0) ** 2 / spread)
    gain = known_spread / spread / min(_LEARNT[0] + known.seen, _LEARNT[1])
    louder = known.loudness * math.exp(gain * known.views[0].weight * (square - _MEAN_SQUARE))
    return min(_LOUDNESS[1], max(_LOUDNESS[0], louder))


def _mixed(a: _View, b: _View, share: float) -> _View:
    """Return one estimate in place of two, of which the first counts with this share."""
    rest = 1.0 - share
    dl, ds, dn = a.level - b.level, a.slope - b.slope, a.noise - b.noise
    both = share * rest
    return _View(
        share * a.level + rest * b.level,
        share * a.slope + rest * b.slope,
        share * a.noise + rest * b.noise,
        share * a.ll + rest * b.ll + both * dl * dl,
        share * a.ls + rest * b.ls + both * dl * ds,
        share * a.ln + rest * b.ln + both * dl * dn,
        share * a.ss + rest * b.ss + both * ds * ds,
        share * a.sn + rest * b.sn + both * ds * dn,
        share * a.nn + rest * b.nn + both * dn * dn,
        0.0,
    )


def _ahead(view: _View, motion: Motion, loudness: float, dt: float, weight: float) -> _View:
    """Return the estimate so many seconds later, before anything more was seen."""
    fade = math.exp(-dt / NOISE_S)
    slow = math.exp(-dt / motion.lasts_s)
    return _View(
        min(_MOST_LOG, max(_LEAST_LOG, view.level + view.slope * dt)),
        view.slope * slow,
        view.noise * fade,
        view.ll + 2 * dt * view.ls + dt * dt * view.ss + motion.level * dt,
        (view.ls + dt * view.ss) * slow,
        (view.ln + dt * view.sn) * fade,
        view.ss * slow * slow + motion.slope * dt,
        view.sn * slow * fade,
        view.nn * fade * fade + loudness * (1 - fade * fade),
        weight,
    )


def _corrected(view: _View, count: float, seconds: float, dispersion: float) -> _View:
    """Return the estimate after a count was seen, its weight times how likely that count was."""
    expected = math.exp(view.level + view.noise) * seconds + _SOFT
    gl, gs, gn = view.ll + view.ln, view.ls + view.sn, view.ln + view.nn
    spread = gl + gn + dispersion / expected
    most = MOST_SURPRISE * math.sqrt(spread)
    surprise = max(-most, min(most, (count + _SOFT) / expected - 1.0))
    likely = math.exp(-0.5 * surprise * surprise / spread) / math.sqrt(spread)
    step = surprise / spread
    return _View(
        view.level + gl * step,
        view.slope + gs * step,
        view.noise + gn * step,
        view.ll - gl * gl / spread,
        view.ls - gl * gs / spread,
        view.ln - gl * gn / spread,
        view.ss - gs * gs / spread,
        view.sn - gs * gn / spread,
        view.nn - gn * gn / spread,
        view.weight * likely,
    )
