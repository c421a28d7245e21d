"""Counts the samples that arrive at a backend. `swell.autoscaler.arrivals` adds them up.

Counts are kept in bins of ten seconds, numbered from 1970. Each process writes its complete bins
into a note with a unique name, so a restart of a backend or of the autoscaler counts nothing twice
and leaves nothing out. A killed backend loses its open bin: ten seconds at most.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

#: Prefix of the names of the notes.
PREFIX: Final = "arrivals:"

BIN_S: Final = 10

#: Bins kept: those of 20 minutes.
_KEPT: Final = 120


class Counts(msgspec.Struct, frozen=True):
    """The counts of one process."""

    #: Its first bin, and the first that is not complete.
    since: int
    until: int
    #: Queue → bin → samples.
    models: Mapping[str, Mapping[int, int]]


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
        return msgspec.json.encode(Counts(self._since, self._open, self._models))


def stale(notes: Mapping[str, bytes], now: datetime) -> list[str]:
    """Return the names of notes that are unreadable or too old for all windows."""
    oldest = _bin_of(now) - _KEPT
    return [
        name
        for name, note in notes.items()
        if not any(counts.until >= oldest for counts in read_counts([note]))
    ]


def _bin_of(moment: datetime) -> int:
    return int(moment.timestamp() // BIN_S)


def read_counts(notes: Iterable[bytes]) -> list[Counts]:
    """Return the counts of each process. Unreadable notes are left out."""
    counts = []
    for note in notes:
        with contextlib.suppress(msgspec.MsgspecError):
            counts.append(msgspec.json.decode(note, type=Counts))
    return counts
