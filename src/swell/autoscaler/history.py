"""Stores the arrivals of the last weeks, and estimates usual arrivals from them. Pure.

`seasonal` learns demand growth by time of day as a ratio, within days. A ratio says nothing after
hours of almost no demand. This module learns absolute arrivals by time of the week, so that a pool
that is empty at night is ready when the working day starts.

The estimate is robust: it uses the lower median of the weeks, so that a single crowd is not
expected again. To ignore growth that may be noise, it compares a lower bound of later arrivals with
the mean of the preceding spans.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Final, NamedTuple

import msgspec

from swell.autoscaler.arrivals import SPAN_S

#: Step of the estimate, in seconds, and its range in both directions.
EVERY_S: Final = 60.0
_FAR_S: Final = 3 * 3600.0
_SPANS: Final = math.ceil(_FAR_S / SPAN_S) + 1

_WEEK: Final = 7 * 86_400 // SPAN_S
#: Number of stored weeks, and number of known weeks that an estimate needs.
_WEEKS: Final = 4
_KNOWN_WEEKS: Final = 2
#: Share of counted spans around a time that makes its week known.
_COUNTED: Final = 0.8
#: Usual arrivals now are the maximum of three rates: the mean of this many preceding spans, the
#: last span, and the elapsed part of the current span.
_BEFORE: Final = 6
#: Smaller growth factors are left to `seasonal`: the noise of a few weeks looks the same.
_GROWN: Final = 1.25
_KEPT: Final = _WEEKS * _WEEK + _SPANS

_UNKNOWN: Final = -1


class Past(msgspec.Struct, frozen=True, array_like=True):
    """Arrivals of one model.

    Args:
        first: Number of the first span, counted from 1970.
        counts: Samples in consecutive spans; -1 for a span without counts.
    """

    first: int
    counts: tuple[int, ...]


def remember(past: Past | None, number: int, samples: int) -> Past | None:
    """Return the history with one more span; None if it has no arrivals.

    A span that is already stored does not change.

    Args:
        past: The history; None if empty.
        number: Number of the span.
        samples: Arrivals in the span.
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
    """Usual arrivals at this time of the week, in samples per second.

    Args:
        ahead: Now, and then in steps of `EVERY_S`; empty if too few weeks are known.
        before: One step ago, two and so on; same length.
    """

    ahead: Sequence[float] = ()
    before: Sequence[float] = ()


def usual(past: Past, now: float) -> Usual:
    """Return the usual arrivals at this time of the week.

    Args:
        past: The history.
        now: Unix time in seconds.
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
    # Upper estimate of the present, lower bounds of the future.
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
    """Return the current arrivals per span, given the spans of one week."""
    before = [each for each in spans[_SPANS - _BEFORE : _SPANS] if each >= 0]
    return max(fmean(before), before[-1], passed * spans[_SPANS])


def _spans(past: Past, first: int, n: int) -> list[int]:
    """Return the counts of `n` spans from `first` on, as in `Past.counts`."""
    there = range(len(past.counts))
    places = range(first - past.first, first - past.first + n)
    return [past.counts[each] if each in there else _UNKNOWN for each in places]


def _is_known(counts: Sequence[int]) -> bool:
    return sum(each >= 0 for each in counts) >= _COUNTED * len(counts)


def _at_least(count: int) -> float:
    """Return the count less one standard deviation of Poisson noise; 0 if unknown."""
    return max(0.0, count - math.sqrt(count)) if count > 0 else 0.0
