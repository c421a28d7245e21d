"""How many samples arrive: each backend counts its own, and the autoscaler adds them up.

Counts stand in bins of ten seconds, named by their number since 1970. Each process tells its own
under a name that no other ever has, and tells whole bins only, so that nothing counts twice or not
at all when a backend or the autoscaler is started again. What a backend has not told when it is
killed is lost: ten seconds at most.
"""

import operator
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

#: How names of notes begin in which backends tell what arrived.
PREFIX: Final = "arrivals:"

BIN_S: Final = 10

#: Of longer times, so long spans are remembered, in seconds.
SPAN_S: Final = 600

#: A bin counts as told by everybody so long after its end, in seconds.
LAG_S: Final = 1.5

_MINUTE: Final = 60 // BIN_S
#: So many minutes are told, and so many tens of seconds.
MINUTES: Final = 16
TENS: Final = 3
#: Bins that are kept, some more than are told: whoever adds up may be late.
_KEPT: Final = (MINUTES + 4) * _MINUTE


class _Told(msgspec.Struct, frozen=True):
    """What one process has counted."""

    #: Its first bin, and the newest that is whole.
    since: int
    until: int
    #: Queue → pairs of a bin's number after `since`, and samples.
    models: dict[str, list[tuple[int, int]]]


class Arrived(msgspec.Struct, frozen=True):
    """Samples of one queue, in windows that do not overlap, the newest last.

    Args:
        minutes: In each of the last minutes; fewer than `MINUTES` where nobody counted before.
        tens: In each of the last `TENS` times ten seconds.
    """

    minutes: tuple[float, ...]
    tens: tuple[float, ...]

    def with_(self, other: "Arrived") -> "Arrived":
        """Return what arrived in two queues together, as both were told at once."""
        return Arrived(
            tuple(map(operator.add, self.minutes, other.minutes)),
            tuple(map(operator.add, self.tens, other.tens)),
        )


class Span(msgspec.Struct, frozen=True):
    """What arrived in one span of `SPAN_S` seconds.

    Args:
        number: Which one, counted from 1970.
        samples: By model, whatever its versions; models of which none arrived are left out.
    """

    number: int
    samples: dict[str, int]


class Arrivals:
    """What arrived at this process.

    Args:
        now: The time, of its first bin.
    """

    def __init__(self, now: datetime) -> None:
        #: Queue → samples since the last bin was closed. The way into the store adds to it.
        self.fresh: dict[str, int] = {}
        self._since = self._open = _bin_of(now)
        self._models: dict[str, dict[int, int]] = {}

    def next_in_s(self, now: datetime) -> float:
        """Return after how many seconds the bin that is open is over."""
        # By a clock that has been put back it may seem to be long.
        return min(float(BIN_S), max(0.0, (self._open + 1) * BIN_S - now.timestamp()))

    def close(self, now: datetime) -> bool:
        """Note that time has passed; return whether there is something new to tell."""
        has_news = bool(self.fresh)
        for model, n in self.fresh.items():
            bins = self._models.setdefault(model, {})
            bins[self._open] = bins.get(self._open, 0) + n
        self.fresh.clear()
        before = self._open
        self._open = self._moved(_bin_of(now))
        # A clock that is ahead for a moment makes nobody forget.
        oldest, newest = min(before, self._open) - _KEPT, max(_bin_of(now), self._open)
        for model in list(self._models):
            kept = {each: n for each, n in self._models[model].items() if oldest <= each <= newest}
            if kept:
                self._models[model] = kept
            else:
                del self._models[model]
        return has_news

    def _moved(self, now: int) -> int:
        """Return the bin that is open now.

        One that was told stays told where the clock is set back a little. Where it was far ahead,
        it goes on from where it is: what was counted in times to come is of no known time.
        """
        if now >= self._open - 1:
            return max(self._open, now)
        self._since = min(self._since, now)
        return now

    def dump(self) -> bytes:
        """Return the bins that were closed, to be told."""
        oldest, models = self._open - _KEPT, {}
        for model, bins in self._models.items():
            if told := [(each - self._since, n) for each, n in bins.items() if each >= oldest]:
                models[model] = told
        return msgspec.json.encode(_Told(self._since, self._open, models))


def arrived(notes: Iterable[bytes], now: datetime) -> dict[str, Arrived]:
    """Return what arrived at all backends together, by queue.

    Args:
        notes: What each process has told. What cannot be read is left out.
        now: The time; the newest windows end with the last bin that everybody has told.
    """
    told = [each for each in map(_read, notes) if each is not None]
    if not told:
        return {}
    end = int((now.timestamp() - LAG_S) // BIN_S)
    bins: dict[str, dict[int, int]] = {}
    for each in told:
        for model, pairs in each.models.items():
            sums = bins.setdefault(model, {})
            for offset, n in pairs:
                sums[each.since + offset] = sums.get(each.since + offset, 0) + n
    # A first minute of which somebody saw less than the whole says too little.
    counted = (end - min(each.since for each in told) - 1) // _MINUTE
    minutes = max(0, min(MINUTES, counted))
    return {model: _windows(sums, end, minutes) for model, sums in bins.items()}


def last_span(notes: Iterable[bytes], now: datetime) -> Span | None:
    """Return the last span that is over and told by everybody; None if nobody saw it begin.

    Where there are no notes, nobody has asked for anything for as long as they are kept.

    Args:
        notes: What each process has told. What cannot be read is left out.
        now: The time.
    """
    number = int((now.timestamp() - LAG_S) // SPAN_S) - 1
    begin = number * SPAN_S // BIN_S
    end = begin + SPAN_S // BIN_S
    told = [each for each in map(_read, notes) if each is not None]
    if told and min(each.since for each in told) > begin:
        return None
    samples: dict[str, int] = {}
    for each in told:
        for queue, pairs in each.models.items():
            model = queue.partition(":")[0]
            n = sum(count for offset, count in pairs if begin <= each.since + offset < end)
            if n:
                samples[model] = samples.get(model, 0) + n
    return Span(number, samples)


def stale(notes: Mapping[str, bytes], now: datetime) -> list[str]:
    """Return the names of notes that say nothing about the last minutes any more."""
    oldest = _bin_of(now) - _KEPT
    return [
        name for name, note in notes.items() if (told := _read(note)) is None or told.until < oldest
    ]


def _windows(sums: Mapping[int, int], end: int, minutes: int) -> Arrived:
    def within(first: int, n: int) -> float:
        return float(sum(sums.get(each, 0) for each in range(first, first + n)))

    return Arrived(
        tuple(within(end - back * _MINUTE, _MINUTE) for back in range(minutes, 0, -1)),
        tuple(within(end - back, 1) for back in range(TENS, 0, -1)),
    )


def _bin_of(moment: datetime) -> int:
    return int(moment.timestamp() // BIN_S)


def _read(note: bytes) -> _Told | None:
    try:
        return msgspec.json.decode(note, type=_Told)
    except msgspec.MsgspecError:
        return None
