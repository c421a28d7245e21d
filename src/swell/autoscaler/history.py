"""What arrived in the last weeks, and what is usual from now on by that. Pure.

`seasonal` learns within days by how much demand grows at a time of the day, as a share: that says
nothing where next to nobody comes before. What is kept here tells of each time of the week how many
came, so that a pool that sleeps at night is up when the working day begins.

A crowd that came once is not awaited again: of several weeks the lower half counts. Growth that may
be chance is none: what came is taken for as little as chance allows, and what is before it, over
some spans, for as much as it was on average.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Final, NamedTuple

import msgspec

from swell.autoscaler.arrivals import SPAN_S

#: Steps of what is usual, in seconds, and how far it is told, to both sides.
EVERY_S: Final = 60.0
_FAR_S: Final = 3 * 3600.0
_SPANS: Final = math.ceil(_FAR_S / SPAN_S) + 1

_WEEK: Final = 7 * 86_400 // SPAN_S
#: So many weeks are kept, and so many must have been seen before anything counts as usual.
_WEEKS: Final = 4
_KNOWN_WEEKS: Final = 2
#: A week is known at a time if so many of its spans about it were counted, as a share.
_COUNTED: Final = 0.8
#: What usually comes now is the mean of so many spans before, or that of the last, or as much of
#: this one as has passed: the highest.
_BEFORE: Final = 6
#: Less growth than that is left to `seasonal`, since the noise of some weeks looks just like it.
_GROWN: Final = 1.25
_KEPT: Final = _WEEKS * _WEEK + _SPANS

_UNKNOWN: Final = -1


class Past(msgspec.Struct, frozen=True, array_like=True):
    """What arrived of one model.

    Args:
        first: Number of the first span, counted from 1970.
        counts: Samples in it and in those after it; -1 where nobody counted.
    """

    first: int
    counts: tuple[int, ...]


def remember(past: Past | None, number: int, samples: int) -> Past | None:
    """Return what is remembered after a span; None where there is nothing to be remembered.

    One that is remembered already stays as it is.

    Args:
        past: Before it; None where nothing was.
        number: Of the span.
        samples: What arrived in it.
    """
    if past is None:
        return Past(number, (samples,)) if samples else None
    gap = number - (past.first + len(past.counts))
    if gap < 0:
        return past
    counts = (*past.counts, *((_UNKNOWN,) * min(gap, _KEPT)), samples)[-_KEPT:]
    if not any(each > 0 for each in counts):
        return None
    return Past(number + 1 - len(counts), counts)


class Usual(NamedTuple):
    """What usually comes at this time of the week, in samples per second.

    Args:
        ahead: Now, and then in steps of `EVERY_S`; empty where too few weeks are known.
        before: One step ago, two and so on; as long.
    """

    ahead: Sequence[float] = ()
    before: Sequence[float] = ()


def usual(past: Past, now: float) -> Usual:
    """Return what is usual at this time of the week.

    Args:
        past: What arrived.
        now: In seconds since 1970.
    """
    here = int(now // SPAN_S)
    weeks = []
    for back in range(1, _WEEKS + 1):
        found = _spans(past, here - back * _WEEK - _SPANS, 2 * _SPANS + 1)
        if _is_known(found[_SPANS - _BEFORE : _SPANS]) and _is_known(found[_SPANS:]):
            weeks.append(found)
    if len(weeks) < _KNOWN_WEEKS:
        return Usual()
    lower, upper = (len(weeks) - 1) // 2, len(weeks) // 2
    # All that may be usual now, and what is usual later for sure.
    passed = now / SPAN_S - here
    now_s = sorted(_now(each, passed) for each in weeks)[upper] / SPAN_S
    spans = [sorted(map(_at_least, each))[lower] / SPAN_S for each in zip(*weeks, strict=True)]

    def at(seconds: float) -> float:
        return spans[int(seconds // SPAN_S) - here + _SPANS]

    steps = range(1, int(_FAR_S / EVERY_S) + 1)
    ahead = [at(now + step * EVERY_S) for step in steps]
    return Usual(
        (now_s, *(each if each > _GROWN * now_s else min(each, now_s) for each in ahead)),
        tuple(at(now - step * EVERY_S) for step in steps),
    )


def _now(spans: Sequence[int], passed: float) -> float:
    """Return what comes in the middle one of some spans, so far, or in those before it."""
    before = [each for each in spans[_SPANS - _BEFORE : _SPANS] if each >= 0]
    return max(fmean(before), before[-1], passed * spans[_SPANS])


def _spans(past: Past, first: int, n: int) -> list[int]:
    """Return what arrived in n spans from one on, as `Past.counts`."""
    there = range(len(past.counts))
    places = range(first - past.first, first - past.first + n)
    return [past.counts[each] if each in there else _UNKNOWN for each in places]


def _is_known(counts: Sequence[int]) -> bool:
    return sum(each >= 0 for each in counts) >= _COUNTED * len(counts)


def _at_least(count: int) -> float:
    """Return what came but for a standard deviation of chance; nothing where nobody counted."""
    return max(0.0, count - math.sqrt(count)) if count > 0 else 0.0
