"""How many samples per second have to be drawn, so that few of them wait for too long. Pure.

What is asked for now comes when a start is over, so what counts is demand at that time: a quantile
of what is expected then, and what will have piled up until then. How high a quantile follows from
how much may be late and from how much a queue of the wanted wait takes up by itself: noise that is
over before it has filled the queue costs nothing.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

from swell.autoscaler.forecast import NOISE, NOISE_S, Forecast
from swell.autoscaler.outlook import Demand
from swell.autoscaler.seasonal import Habit, growth

#: Of what may be late, so much is spent while all is calm; the rest is for crowds, which nobody
#: can foresee.
CALM_SHARE: Final = 0.3
#: A queue takes up noise that lasts less than so many times the wait that it stands for; the longer
#: it lasts the less, by this power.
_ABSORBED: Final = 26.0
_POWER: Final = 1.3
#: So unsure is a forecast at most, as a logarithm: beyond that its spread means nothing.
_MOST_SPREAD: Final = 0.3
#: So much of what need may move while a start takes is kept, in standard deviations.
_BAND: Final = 1.0
#: Of the queue that may stand, so much is left when new workers come.
_QUEUE: Final = 0.5
#: What is known of the rate ahead is looked up at so many times, and the queue in so many steps.
_POINTS: Final = 2
_STEPS: Final = 12
#: That a sample does not wait for too long is worth so much of what it costs to draw it.
_WORTH: Final = 1.0
#: How much of what comes is needed for a queue is found to one part in so many.
_PARTS: Final = 8
#: Where nothing arrives, the rate is below any that counts, in samples per second.
_LEAST_RATE: Final = 1e-9


class Terms(NamedTuple):
    """What is asked of one model, and by when something can be done.

    Args:
        wait_s: Within how long a task should start.
        score: How many standard deviations above the mean demand is met; see `headroom`.
        lead_s: How long a start takes.
        keep_s: How long a worker may stand idle before a new start would have been cheaper.
        at: Now, in seconds since 1970.
        habit: How demand usually grows.
    """

    wait_s: float
    score: float
    lead_s: float
    keep_s: float
    at: float
    habit: Habit


class Need(NamedTuple):
    """What one model needs, all but waits in samples per second.

    Args:
        up: By the time a start is over; less than this is too few.
        keep: More than this is too many.
        now: What those that are ready must be able to draw.
        headroom: What part of `up` stands for chance.
        rate: What is expected now.
        ahead: What is expected by the time a start is over.
        growing: Whether it grows faster than chance and days do.
        queue: How many samples will wait then.
        wait_s: How long a task that comes now will wait.
    """

    up: float
    keep: float
    now: float
    headroom: float
    rate: float
    ahead: float
    growing: bool
    queue: float
    wait_s: float


def headroom(late_share: float, wait_s: float, lead_s: float) -> float:
    """Return how many standard deviations above the mean are met at first.

    Args:
        late_share: What share may wait for longer than `wait_s`.
        wait_s: The wanted wait.
        lead_s: How long a start takes.
    """
    score = NormalDist().inv_cdf(1.0 - min(0.5, max(1e-4, CALM_SHARE * late_share)))
    lasting = (lead_s / (_ABSORBED * max(wait_s, 0.1))) ** _POWER
    return score * (1.0 - math.exp(-lasting))


def need(
    known: Forecast | None,
    demand: Demand,
    terms: Terms,
    ready: float,
    coming: Sequence[tuple[float, float]],
    usual_every_s: float,
) -> Need:
    """Return what a model needs.

    Args:
        known: What is expected.
        demand: What waits.
        terms: What is asked.
        ready: What workers that take tasks can draw of it, in samples per second.
        coming: (in how many seconds, samples per second) of those that start, the first first.
        usual_every_s: Steps of `demand.usual`.
    """
    lead_s, far_s = terms.lead_s, max(terms.lead_s, terms.keep_s)
    times = [lead_s * point / _POINTS for point in range(_POINTS + 1)]
    logs = _logs(known, demand, terms, [*times, far_s] if far_s > lead_s else times, usual_every_s)
    rates = [math.exp(mean) for mean, _ in logs[: _POINTS + 1]]
    queue, wait_s = _queue(demand.waiting, rates, lead_s, ready, coming)
    mean, spread = logs[_POINTS]
    ahead = rates[-1]
    high = math.exp(mean + terms.score * min(_MOST_SPREAD, spread))
    may_wait = _QUEUE * terms.wait_s * ahead
    excess = max(0.0, queue - may_wait)
    up = high + excess / max(lead_s, terms.wait_s, 1.0)
    most = max(mean + terms.score * min(_MOST_SPREAD, spread) for mean, spread in logs)
    keep = math.exp(most + _BAND * _moves(known, lead_s, terms.keep_s))
    if coming and demand.waiting > may_wait:
        keep = max(keep, _draining(demand.waiting, rates, lead_s, ready, coming))
    here, here_spread = logs[0]
    now = math.exp(here + max(0.0, terms.score) * min(_MOST_SPREAD, here_spread))
    late = max(0.0, demand.waiting - _QUEUE * terms.wait_s * rates[0])
    now += late / max(terms.wait_s, 1.0)
    return Need(
        up=up,
        keep=max(up, keep),
        now=now,
        headroom=max(0.0, high - ahead),
        rate=rates[0],
        ahead=ahead,
        growing=known is not None and known.is_crowd,
        queue=queue,
        wait_s=wait_s,
    )


def _moves(known: Forecast | None, lead_s: float, keep_s: float) -> float:
    """Return how much the need moves while a worker may stand idle: a standard deviation."""
    fade = math.exp(-2.0 * keep_s / NOISE_S)
    noise = known.noise if known else NOISE
    return noise * math.exp(-lead_s / NOISE_S) * math.sqrt(1.0 - fade)


def _logs(
    known: Forecast | None,
    demand: Demand,
    terms: Terms,
    times: Sequence[float],
    usual_every_s: float,
) -> list[tuple[float, float]]:
    """Return mean and standard deviation of the logarithm of the rate at these times."""
    if known is None:
        return [(math.log(_LEAST_RATE), 0.0) for _ in times]
    logs = [known.log_rate(each) for each in times]
    if terms.habit.trust > 0.0:
        # What usually grows now and does not yet.
        slope = max(0.0, known.slope)
        more = [max(0.0, growth(terms.habit, terms.at, each) - slope * each) for each in times]
        logs = [(mean + extra, spread) for (mean, spread), extra in zip(logs, more, strict=True)]
    if len(demand.usual) < 2:
        return logs
    now = math.exp(logs[0][0])
    return [
        (max(mean, _usual(demand.usual, each / usual_every_s, now)), spread)
        for each, (mean, spread) in zip(times, logs, strict=True)
    ]


#: How much comes says how usual a day is only as far as more is usual now than this, as a share.
_SOFT: Final = 0.2


def _usual(usual: Sequence[float], step: float, now: float) -> float:
    """Return the logarithm of what is usual then, or less of it where less comes now than usual.

    Where little is usual now, what comes says little. How more than usual grows is for `habit`.
    """
    soft = _SOFT * max(usual) + _LEAST_RATE
    level = min(1.0, (now + soft) / (usual[0] + soft))
    at = min(int(step), len(usual) - 2)
    share = min(1.0, step - at)
    then = usual[at] + share * (usual[at + 1] - usual[at])
    return math.log(max(_LEAST_RATE, then * level))


def _queue(
    waiting: float,
    rates: Sequence[float],
    lead_s: float,
    ready: float,
    coming: Sequence[tuple[float, float]],
) -> tuple[float, float]:
    """Return how many will wait after `lead_s`, and how long one that comes now will wait."""
    step_s = lead_s / _STEPS
    queue, ahead, able, at, wait_s = waiting, waiting, ready, 0, -1.0
    for step in range(_STEPS):
        middle_s = (step + 0.5) * step_s
        while at < len(coming) and coming[at][0] <= middle_s:
            able += coming[at][1]
            at += 1
        place = middle_s / lead_s * _POINTS
        below = int(place)
        rate = rates[below] + (rates[below + 1] - rates[below]) * (place - below)
        queue = max(0.0, queue + (rate - able) * step_s)
        if wait_s < 0.0:
            drawn = able * step_s
            if drawn >= ahead:
                wait_s = (step + (ahead / drawn if drawn > 0.0 else 0.0)) * step_s
            ahead -= drawn
    if wait_s < 0.0:
        able += sum(each for _, each in coming[at:])
        wait_s = lead_s + ahead / able if able > 0.0 else math.inf
    return queue, wait_s


def _draining(
    waiting: float,
    rates: Sequence[float],
    lead_s: float,
    ready: float,
    coming: Sequence[tuple[float, float]],
) -> float:
    """Return what workers together should draw, so that a queue goes at the least expense.

    The sooner it is gone the fewer wait for too long, but those that start are paid for until they
    are ready, and would not be needed for long.

    Returns:
        Samples per second.
    """
    total = sum(able for _, able in coming)
    starting = sum(in_s * able for in_s, able in coming)
    best, least = 1.0, math.inf
    for part in range(_PARTS + 1):
        share = part / _PARTS
        some = [(in_s, able * share) for in_s, able in coming]
        late = rates[-1] * _drained_s(waiting, rates, lead_s, ready, some)
        if (price := _WORTH * late + share * starting) < least:
            best, least = share, price
    return ready + best * total


def _drained_s(
    waiting: float,
    rates: Sequence[float],
    lead_s: float,
    ready: float,
    coming: Sequence[tuple[float, float]],
) -> float:
    """Return when a queue will be gone, in seconds."""
    queue, able, at = waiting, ready, 0
    step_s = lead_s / _STEPS
    for step in range(2 * _STEPS):
        while at < len(coming) and coming[at][0] <= (step + 0.5) * step_s:
            able += coming[at][1]
            at += 1
        rate = rates[min(_POINTS, int((step + 0.5) / _STEPS * _POINTS))]
        change = (rate - able) * step_s
        if queue + change <= 0.0:
            return (step + queue / -change) * step_s
        queue += change
    return 2.0 * lead_s + queue / (able - rate) if able > rate else math.inf
