"""Adds up the samples that arrived at all backends (`swell.core.arrival_rates`). Pure."""

import operator
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from swell.core.arrival_rates import BIN_S, read_counts

#: Length of the spans that the forecast remembers, in seconds.
SPAN_S: Final = 600

#: All backends have written a bin this long after its end, in seconds.
LAG_S: Final = 1.5

_MINUTE: Final = 60 // BIN_S
#: Number of windows of a minute, and of ten seconds.
MINUTES: Final = 16
TENS: Final = 3


class Arrived(msgspec.Struct, frozen=True):
    """Samples of one queue, in windows that do not overlap, the newest last.

    Args:
        minutes: In each of the last minutes; fewer than `MINUTES` if the backends are younger.
        tens: In each of the last `TENS` windows of ten seconds.
    """

    minutes: tuple[float, ...]
    tens: tuple[float, ...]

    def with_(self, other: "Arrived") -> "Arrived":
        """Return the sum of two queues, counted at the same time."""
        return Arrived(
            tuple(map(operator.add, self.minutes, other.minutes)),
            tuple(map(operator.add, self.tens, other.tens)),
        )


class Span(msgspec.Struct, frozen=True):
    """Samples in one span of `SPAN_S` seconds.

    Args:
        number: The span, numbered from 1970.
        samples: By model, all versions together; without models that have none.
    """

    number: int
    samples: dict[str, int]


def arrived(notes: Iterable[bytes], now: datetime) -> dict[str, Arrived]:
    """Return the arrivals at all backends by queue. Unreadable notes are skipped.

    Args:
        notes: Notes of the processes.
        now: The time; the newest windows end with the last bin that all processes have written.
    """
    counts = read_counts(notes)
    end = int((now.timestamp() - LAG_S) // BIN_S)
    # Skip an incomplete first minute.
    since = min((each.since for each in counts), default=end)
    minutes = max(0, min(MINUTES, (end - since - 1) // _MINUTE))
    sums: dict[str, Counter[int]] = {}
    for each in counts:
        for model, bins in each.models.items():
            sums.setdefault(model, Counter()).update(bins)
    return {model: _windows(bins, end, minutes) for model, bins in sums.items()}


def last_span(notes: Iterable[bytes], now: datetime) -> Span | None:
    """Return the last complete span; None if no process has counted from its start.

    Without notes, nothing has arrived for as long as notes are kept.

    Args:
        notes: Notes of the processes. Unreadable ones are skipped.
        now: The time.
    """
    number = int((now.timestamp() - LAG_S) // SPAN_S) - 1
    begin, end = (each * SPAN_S // BIN_S for each in (number, number + 1))
    counts = read_counts(notes)
    if counts and min(each.since for each in counts) > begin:
        return None
    samples: dict[str, int] = {}
    for each in counts:
        for queue, bins in each.models.items():
            model = queue.partition(":")[0]
            if n := sum(bins.get(number, 0) for number in range(begin, end)):
                samples[model] = samples.get(model, 0) + n
    return Span(number, samples)


def _windows(sums: Counter[int], end: int, minutes: int) -> Arrived:
    def last(windows: int, bins: int) -> tuple[float, ...]:
        starts = range(end - windows * bins, end, bins)
        return tuple(float(sum(sums[start + n] for n in range(bins))) for start in starts)

    return Arrived(minutes=last(minutes, _MINUTE), tens=last(TENS, 1))
