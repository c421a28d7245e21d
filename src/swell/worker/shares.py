"""Which part of a device's time each sample has taken. Pure.

Samples that share a step share what it took, by their rows, so that all shares together are the
time that the device has worked for somebody. A device that works by itself is done with a sample's
last steps only after the sample has been told to be finished: what they will take is guessed then,
and what they did take more, or less, is borne by whoever is drawn next.
"""

from collections.abc import Mapping


class Shares:
    """The shares of the samples that are here."""

    def __init__(self) -> None:
        self._spent_s: dict[str, float] = {}
        #: What those that have left took beyond what was guessed; negative for less.
        self._owed_s = 0.0
        #: What those took together who share step after step, until somebody asks.
        self._together: Mapping[str, int] = {}
        self._together_s = 0.0

    @property
    def owed_s(self) -> float:
        """What nobody has borne yet; with all shares it is what the device took."""
        self._share()
        return self._owed_s

    def begin(self, sample_id: str) -> None:
        """Note that a sample has come."""
        self._share()
        self._spent_s[sample_id] = 0.0

    def took(self, seconds: float, rows: Mapping[str, int]) -> None:
        """Share what the device took among samples.

        Args:
            seconds: Of the device; >= 0.
            rows: Sample → how many rows of it took part, >= 1. It may have left. Nobody changes the
                mapping: the same one means the same samples.
        """
        if rows is not self._together:
            self._share()
            self._together = rows
        self._together_s += seconds

    def _share(self) -> None:
        """Give each its part of what they took together."""
        seconds, rows = self._together_s, self._together
        self._together, self._together_s = {}, 0.0
        each_s = seconds / max(1, sum(rows.values()))
        here = 0
        for sample_id, n in rows.items():
            if sample_id in self._spent_s:
                self._spent_s[sample_id] += each_s * n
                here += n
            else:
                self._owed_s += each_s * n
        if here and self._owed_s:
            # Nobody gets back more than he has just been given.
            borne_s = max(self._owed_s, -each_s * here)
            self._owed_s -= borne_s
            for sample_id, n in rows.items():
                if sample_id in self._spent_s:
                    self._spent_s[sample_id] += borne_s * n / here

    def end(self, sample_id: str, guessed_s: float = 0.0) -> float:
        """Return what a sample has taken that leaves, in seconds; a second time 0.

        Args:
            sample_id: Which one.
            guessed_s: What the device will take for it that is not over yet.
        """
        self._share()
        spent_s = self._spent_s.pop(sample_id, None)
        if spent_s is None:
            return 0.0
        self._owed_s -= guessed_s
        return spent_s + guessed_s

    def so_far(self, sample_id: str) -> float:
        """Return what a sample has taken that goes on, in seconds; 0 for one that is not here."""
        self._share()
        return self._spent_s.get(sample_id, 0.0)
