"""Counts the samples that arrive. Each backend counts its own; the autoscaler adds them up.

Counts are kept in bins of ten seconds, numbered from 1970. Each process writes its complete bins
into a note with a unique name, so a restart of a backend or of the autoscaler counts nothing twice
and leaves nothing out. A killed backend loses its open bin: ten seconds at most.
"""

import contextlib
import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

#: Prefix of the names of the notes.
PREFIX: Final = "arrivals:"

BIN_S: Final = 10

#: Length of the spans that the forecast remembers, in seconds.
SPAN_S: Final = 600

#: All backends have written a bin this long after its end, in seconds.
LAG_S: Final = 1.5

_MINUTE: Final = 60 // BIN_S
#: Number of windows of a minute, and of ten seconds.
MINUTES: Final = 16
TENS: Final = 3
#: Bins kept: some more than the windows need, since the autoscaler may be late.
_KEPT: Final = (MINUTES + 4) * _MINUTE


class _Counts(msgspec.Struct, frozen=True):
    """The counts of one process."""

    #: Its first bin, and the first that is not complete.
    since: int
    until: int
    #: Queue → bin → samples.
    models: Mapping[str, Mapping[int, int]]


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


class Arrivals:
    """Counts the arrivals at this process.

    Args:
        now: The time of its first bin.
    """

    def __init__(self, now: datetime) -> None:
        #: Queue → samples since the last bin was closed. Accepting a task adds to it.
        self.fresh: dict[str, int] = {}
        self._since = self._open = _bin_of(now)
        self._models: dict[str, Counter[int]] = {}

    def next_in_s(self, now: datetime) -> float:
        """Return the seconds until the open bin ends."""
        # If the clock was set back, it seems to be far away.
        return min(float(BIN_S), max(0.0, (self._open + 1) * BIN_S - now.timestamp()))

    def close(self, now: datetime) -> bool:
        """Close the bins that have ended; return whether something arrived."""
        has_news = bool(self.fresh)
        for model, n in self.fresh.items():
            self._models.setdefault(model, Counter())[self._open] += n
        self.fresh.clear()
        self._open = _bin_of(now)
        # If the clock was ahead, counting continues from the correct time.
        self._since = min(self._since, self._open)
        oldest = self._open - _KEPT
        for model, bins in list(self._models.items()):
            recent = Counter({each: n for each, n in bins.items() if each >= oldest})
            if recent:
                self._models[model] = recent
            else:
                del self._models[model]
        return has_news

    def dump(self) -> bytes:
        """Return the closed bins as a note."""
        return msgspec.json.encode(_Counts(self._since, self._open, self._models))


def arrived(notes: Iterable[bytes], now: datetime) -> dict[str, Arrived]:
    """Return the arrivals at all backends by queue. Unreadable notes are left out.

    Args:
        notes: Those of each process.
        now: The time; the newest windows end with the last bin that all have written.
    """
    counts = _read_all(notes)
    end = int((now.timestamp() - LAG_S) // BIN_S)
    # An incomplete first minute says too little.
    since = min((each.since for each in counts), default=end)
    minutes = max(0, min(MINUTES, (end - since - 1) // _MINUTE))
    sums: dict[str, Counter[int]] = {}
    for each in counts:
        for model, bins in each.models.items():
            sums.setdefault(model, Counter()).update(bins)
    return {model: _windows(bins, end, minutes) for model, bins in sums.items()}


def last_span(notes: Iterable[bytes], now: datetime) -> Span | None:
    """Return the last complete span; None if no process has counted from its beginning.

    No notes at all mean that nothing has arrived for as long as notes are kept.

    Args:
        notes: Those of each process. Unreadable ones are left out.
        now: The time.
    """
    number = int((now.timestamp() - LAG_S) // SPAN_S) - 1
    begin, end = (each * SPAN_S // BIN_S for each in (number, number + 1))
    counts = _read_all(notes)
    if counts and min(each.since for each in counts) > begin:
        return None
    samples: dict[str, int] = {}
    for each in counts:
        for queue, bins in each.models.items():
            model = queue.partition(":")[0]
            if n := sum(bins.get(number, 0) for number in range(begin, end)):
                samples[model] = samples.get(model, 0) + n
    return Span(number, samples)


def stale(notes: Mapping[str, bytes], now: datetime) -> list[str]:
    """Return the names of notes that are unreadable or too old for all windows."""
    oldest = _bin_of(now) - _KEPT
    return [
        name
        for name, note in notes.items()
        if not any(counts.until >= oldest for counts in _read_all([note]))
    ]


def _windows(sums: Counter[int], end: int, minutes: int) -> Arrived:
    def last(windows: int, bins: int) -> tuple[float, ...]:
        starts = range(end - windows * bins, end, bins)
        return tuple(float(sum(sums[start + n] for n in range(bins))) for start in starts)

    return Arrived(minutes=last(minutes, _MINUTE), tens=last(TENS, 1))


def _bin_of(moment: datetime) -> int:
    return int(moment.timestamp() // BIN_S)


def _read_all(notes: Iterable[bytes]) -> list[_Counts]:
    counts = []
    for note in notes:
        with contextlib.suppress(msgspec.MsgspecError):
            counts.append(msgspec.json.decode(note, type=_Counts))
    return counts
