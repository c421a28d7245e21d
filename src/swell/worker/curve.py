"""What one step costs, by how many rows run in it. Pure.

Whether a batch gains anything is a property of a model, a picture size and a device. On one and the
same card a batch of eight small pictures can do three times the work of one, and a batch of large
ones none more. So it is measured while working, never assumed: a `Curve` is what the steps of one
batch key on one device took, as a moving average per bucket.

Between measured buckets the curve is interpolated and never falls. Beyond the largest, a row is
assumed to cost what it costs in the largest: what was not tried promises nothing. Larger buckets
are therefore tried on purpose, one after the other, where as many rows wait (`next_size`), and no
further once twice the rows gained nothing.

How many run together is decided by some percent, and what a crowd shares by one. Single buckets
are not known so well: each was measured at its own moment, among other neighbours. Three things
help. What makes all steps longer for a while, whatever rows they have, is told apart from what a
bucket costs: the pace. What a bucket costs is rehearsed while nobody draws (`rehearsal.py`). And
where all that is known lies about a straight line, as on processors, so much for a step and so much
for each row, the line is believed; a bucket may lie the further from it the less steps agree, and
the fewer of them it had.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Final

import msgspec

#: Rows that a step may be padded to; a model is compiled once for each.
BUCKETS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

#: Curves of one model that are kept, those used last: users choose sizes, and so batch keys.
MOST_CURVES: Final = 256

#: Of the format below. A file of another version is measured anew.
_VERSION: Final = 1

#: Seconds per row and step before anything was measured; only ratios of it matter.
_PRIOR_S: Final = 0.1

#: Share of a step that does not grow with its rows, below the smallest bucket measured.
_PRIOR_FIXED: Final = 0.5

#: Weight of the newest step in the moving average, at the pace of its moment.
_NEWEST: Final = 0.05

#: The pace follows so much of a step's error, which counts up to so many times; half as much where
#: so many steps of its bucket were counted. These are of simulated crowds on a device whose speed
#: changes within seconds (benchmarks/engine_crowd.py).
_FOLLOWS: Final = 0.2
_ERROR_MOST: Final = 1.5
_HALF_KNOWN: Final = 6

#: So much of the pace becomes what is usual with each step, for the bucket that ran; for the others
#: half of that, since it may be this one only that has changed.
_SETTLES: Final = 0.03
_OTHERS: Final = 0.5

#: What was not rehearsed changes with what was, at most by so many times.
_RENEWED_MOST: Final = 10.0

#: How much steps disagree is a moving average, too.
_DISAGREES: Final = 0.05

#: A step counts for at most so many times the average: a stall is no change of the device.
_STALL: Final = 2.0

#: In the first steps of a bucket, one that took so much less than the average takes its place: when
#: it is first tried, a crowd has just come, and others want the processor as well.
_YOUNG: Final = 11
_DISTURBED: Final = 0.8

#: A largest bucket that seems to gain nothing is looked at again after so many steps for each time
#: that it ran since it was believed, or three times as many, as long as as many rows wait.
_AGAIN_STEPS: Final = 50

#: The same where the first larger one seemed to gain nothing, as where one row fills the device.
_AGAIN_FLAT_STEPS: Final = 2000

#: Steps until a bucket counts as measured. The first one may have compiled and never counts alone.
_ENOUGH: Final = 3

#: Steps until it is believed that the largest bucket gains nothing: one stall among the first three
#: would end the search for thousands of steps. Fewer than make a bucket old: if others disturbed
#: all of them, a few later looks can still take their place.
_BELIEVED: Final = 6

#: A larger batch must be so much better per row to be worth trying.
_TOLERANCE: Final = 1.05

#: And so much better to be worth the latency of who is in it; less where as many wait anyway.
_WORTH: Final = 1.12
_WORTH_FULL: Final = 1.01

#: The same by a straight line, of which single measurements move less: the first gives short
#: latencies, in the mean and in the 95th percentile, where few come at a time and where many do, in
#: crowds that are simulated on two cores whose speed changes (benchmarks/engine_crowd.py).
_WORTH_BY_LINE: Final = 1.15
_WORTH_FULL_BY_LINE: Final = 1.002

#: What the line says may differ so much from what was measured.
_WORTH_ROUGHLY: Final = 1.25

#: Buckets lie about a straight line if there are so many, and none is further from it than a tenth
#: and so many times what the mean of its steps may be off, with so many of them at most; never more
#: than that.
_LINE_POINTS: Final = 4
_LINE_ERROR: Final = 0.1
_LINE_DOUBT: Final = 3.0
_LINE_STEPS: Final = 32
_LINE_ERROR_MOST: Final = 0.3

#: Steps after which the largest bucket, if it did not run in them, is forgotten: the device may
#: have been busy with something else when it was tried.
_STALE_STEPS: Final = 20_000

#: A curve whose steps all cost the same but for so much tells nothing else than the one before.
_NEAR: Final = 0.005

_MOST_ROWS: Final = 4096
_MOST_STEPS: Final = 2**53


class _Point(msgspec.Struct, frozen=True, array_like=True):
    """One bucket: rows, average seconds, steps counted, and the curve's age when last run."""

    rows: int
    seconds: float
    count: int
    age: int


class _Now(msgspec.Struct, frozen=True):
    """What is known of the present moment; not stored."""

    #: How many times as long as usual steps take, whatever rows they have.
    pace: float = 1.0
    #: How far single steps are from what they were to take, as a share of it, in the mean.
    disagrees: float = 0.0


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    age: int
    points: tuple[_Point, ...]


class Curve:
    """Seconds per step by bucket, for one batch key on one device. A value: it never changes.

    Two are equal if they say the same; what is known of the moment is left out of that.
    """

    __slots__ = ("_age", "_now", "_outline", "_points", "_rows", "_seconds")

    def __init__(self) -> None:
        self._points: tuple[_Point, ...] = ()
        self._age = 0
        self._now = _Now()
        self._rows: tuple[int, ...] = ()
        self._seconds: tuple[float, ...] = ()
        #: What `is_near` compares beside seconds, once it was asked.
        self._outline: tuple[tuple[int, ...], bool, bool, tuple[float, ...]] | None = None

    @classmethod
    def _of(cls, points: tuple[_Point, ...], age: int, now: _Now) -> "Curve":
        curve = cls()
        curve._points, curve._age, curve._now = points, age, now
        curve._rows = tuple([point.rows for point in points])
        curve._seconds = _never_falling(points)
        return curve

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Curve):
            return NotImplemented
        return self._points == other._points and self._age == other._age

    def __hash__(self) -> int:
        return hash((self._points, self._age))

    def __repr__(self) -> str:
        steps = ", ".join(f"{point.rows}: {point.seconds:.4g}" for point in self._points)
        return f"Curve({{{steps}}})"

    @property
    def measured(self) -> tuple[int, ...]:
        """Buckets that were run often enough to be believed, smallest first."""
        return tuple(point.rows for point in self._points if point.count >= _ENOUGH)

    def is_between(self, rows: int) -> bool:
        """Whether so many rows are none that was run, and others around them are known."""
        known = self.measured
        return bool(known) and known[0] < rows < known[-1] and not self.count(rows)

    def is_near(self, other: "Curve") -> bool:
        """Whether nobody would decide otherwise by the other one."""
        if self._rows != other._rows:
            return False
        for mine, its in zip(self._seconds, other._seconds, strict=True):
            if abs(mine - its) > _NEAR * its:
                return False
        *mine_else, tolerances = self._outlined()
        *its_else, its_tolerances = other._outlined()
        return mine_else == its_else and all(
            abs(mine - its) <= _NEAR for mine, its in zip(tolerances, its_tolerances, strict=True)
        )

    def _outlined(self) -> tuple[tuple[int, ...], bool, bool, tuple[float, ...]]:
        if self._outline is None:
            tolerances = tuple([self.tolerance(rows) for rows in self._rows])
            self._outline = self.measured, self.is_due, self.is_believed, tolerances
        return self._outline

    def count(self, rows: int) -> int:
        """Return how many steps of exactly so many rows were counted."""
        point = self._point(rows)
        return 0 if point is None else point.count

    def _point(self, rows: int) -> _Point | None:
        return next((point for point in self._points if point.rows == rows), None)

    def observe(self, rows: int, seconds: float, steps: int = 1) -> "Curve":
        """Return the curve after one more step.

        Args:
            rows: The bucket that ran, padding included.
            seconds: What the step took on the device. What is no duration is left out.
            steps: How many there were since the last one that was told, this one included; at
                least 1. Where all is known, it is enough to tell of some.
        """
        now, old = self._now, self._point(rows)
        usual_s = seconds / now.pace
        if not _is_step(rows, usual_s):
            return self
        if old is not None and old.count >= _ENOUGH:
            now = _after(now, math.log(usual_s) - math.log(old.seconds), old.count)
        points, age = self._with(rows, usual_s, steps, _averaged)
        # The pace has no end of its own: what lasts becomes usual.
        usual = now.pace ** (1 - (1 - _SETTLES) ** steps)
        others = usual**_OTHERS
        settled = [
            _Point(p.rows, p.seconds * (usual if p.rows == rows else others), p.count, p.age)
            for p in points
        ]
        return Curve._of(tuple(settled), age, _Now(now.pace / usual, now.disagrees))

    def rehearse(self, rows: int, seconds: float) -> "Curve":
        """Return the curve after a step that nobody waited for.

        Such a step has the device for itself, or is disturbed by what has to do with it in no way:
        so the shortest of several is the truth, and only it counts.

        Args:
            rows: The bucket that ran.
            seconds: What the step took on the device. What is no duration is left out.
        """
        if not _is_step(rows, seconds):
            return self
        points, age = self._with(rows, seconds, 1, _shortest)
        return Curve._of(tuple(points), age, _Now(1.0, self._now.disagrees))

    def renew(self, seconds: Mapping[int, float]) -> "Curve":
        """Return the curve after buckets of it were rehearsed in one and the same moment.

        What was not rehearsed is as much cheaper or dearer now as those are in the mean.

        Args:
            seconds: Bucket → what its step took. Those that never ran, and what is no duration, are
                left out.
        """
        took = {rows: each for rows, each in seconds.items() if _is_step(rows, each)}
        errors = [
            math.log(took[p.rows]) - math.log(p.seconds) for p in self._points if p.rows in took
        ]
        if not errors:
            return self
        most = math.log(_RENEWED_MOST)
        others = math.exp(min(max(fmean(errors), -most), most))
        points = [
            _Point(p.rows, took.get(p.rows, p.seconds * others), p.count, p.age)
            for p in self._points
        ]
        return Curve._of(tuple(points), self._age, _Now(1.0, self._now.disagrees))

    def _with(
        self, rows: int, seconds: float, steps: int, combined: Callable[["_Point", float], float]
    ) -> tuple[list["_Point"], int]:
        """Return the points after a step, and their age."""
        age = self._age + steps
        points, place = list(self._points), 0
        while place < len(points) and points[place].rows < rows:
            place += 1
        if place < len(points) and points[place].rows == rows:
            old = points[place]
            points[place] = _Point(rows, combined(old, seconds), old.count + 1, age)
        else:
            points.insert(place, _Point(rows, seconds, 1, age))
        while age - points[-1].age >= _STALE_STEPS:
            points.pop()
        return points, age

    def seconds(self, rows: float) -> float:
        """Return what a step of so many rows takes; never less for more rows."""
        known, costs = self._rows, self._seconds
        if not known:
            return _PRIOR_S * rows
        if rows >= known[-1]:
            return costs[-1] * rows / known[-1]
        if rows <= known[0]:
            return costs[0] * (_PRIOR_FIXED + (1 - _PRIOR_FIXED) * rows / known[0])
        place = 1
        while known[place] < rows:
            place += 1
        low, high = known[place - 1], known[place]
        share = (rows - low) / (high - low)
        return costs[place - 1] + share * (costs[place] - costs[place - 1])

    def tolerance(self, rows: int) -> float:
        """Return how far a bucket that ran may lie from a straight line, as a share of it."""
        steps = min(max(self.count(rows), 1), _LINE_STEPS)
        doubt = _LINE_DOUBT * self._now.disagrees / math.sqrt(steps)
        return min(_LINE_ERROR + doubt, _LINE_ERROR_MOST)

    @property
    def is_due(self) -> bool:
        """Whether the largest measured bucket is worth another look."""
        measured = [point for point in self._points if point.count >= _ENOUGH]
        if not measured:
            return False
        last = measured[-1]
        steps = _AGAIN_STEPS if len(measured) > 2 else _AGAIN_FLAT_STEPS
        return self._age - last.age >= steps * max(_ENOUGH, last.count - _BELIEVED)

    @property
    def is_believed(self) -> bool:
        """Whether the largest measured bucket ran so often that it may end the search."""
        measured = self.measured
        return bool(measured) and self.count(measured[-1]) >= _BELIEVED

    def to_json(self) -> bytes:
        """Return the curve as JSON, for `from_json` of this or a later process."""
        return msgspec.json.encode(_Stored(_VERSION, self._age, self._points))

    @classmethod
    def from_json(cls, raw: bytes | str) -> "Curve":
        """Return a stored curve; an empty one if this is none, or one of another version.

        What a step costs is soon measured again, so a broken file is no reason to stop.
        """
        try:
            stored = msgspec.json.decode(raw, type=_Stored)
        except (ValueError, RecursionError):
            return cls()
        if stored.version != _VERSION or not _is_sound(stored):
            return cls()
        return cls._of(stored.points, stored.age, _Now())


def _is_step(rows: int, seconds: float) -> bool:
    return 1 <= rows <= _MOST_ROWS and 0 < seconds < math.inf


def _after(now: _Now, error: float, count: int) -> _Now:
    """Return the moment after a step that took e ** error times what it was to take.

    Where few steps of its bucket were counted, it is more likely these that were wrong.
    """
    most = math.log(_ERROR_MOST)
    error = min(max(error, -most), most)
    disagrees = now.disagrees + _DISAGREES * (abs(error) - now.disagrees)
    return _Now(now.pace * math.exp(_FOLLOWS * error * count / (count + _HALF_KNOWN)), disagrees)


def _averaged(old: _Point, seconds: float) -> float:
    if old.count == 1:
        return min(old.seconds, seconds)
    if old.count < _YOUNG and seconds < _DISTURBED * old.seconds:
        return seconds
    newest = max(_NEWEST, 1 / old.count)
    return old.seconds + newest * (min(seconds, _STALL * old.seconds) - old.seconds)


def _shortest(old: _Point, seconds: float) -> float:
    return min(old.seconds, seconds)


def _is_sound(stored: _Stored) -> bool:
    rows = [point.rows for point in stored.points]
    return (
        0 <= stored.age <= _MOST_STEPS
        and rows == sorted(set(rows))
        and all(
            1 <= point.rows <= _MOST_ROWS
            and 0 < point.seconds < math.inf
            and 1 <= point.count <= _MOST_STEPS
            and 0 <= point.age <= stored.age
            for point in stored.points
        )
    )


def _never_falling(points: Sequence[_Point]) -> tuple[float, ...]:
    """Return the closest costs that do not fall as rows grow.

    What is not believed yet, as it may have compiled, moves nothing else: it lies between its
    neighbours that are.
    """
    seconds = [point.seconds for point in points]
    if seconds == sorted(seconds):
        return tuple(seconds)
    costs: list[float] = []
    low, young = 0.0, list[float]()
    believed = iter(_pooled([point.seconds for point in points if point.count >= _ENOUGH]))
    for point in points:
        if point.count < _ENOUGH:
            young.append(point.seconds)
            continue
        high = next(believed)
        costs += [min(max(low, cost), high) for cost in _pooled(young)]
        costs.append(high)
        low, young = high, []
    costs += [max(low, cost) for cost in _pooled(young)]
    return tuple(costs)


def _pooled(seconds: Iterable[float]) -> list[float]:
    """Return the closest numbers that do not fall.

    Source:
        M. Ayer et al., "An Empirical Distribution Function for Sampling with Incomplete
        Information", Ann. Math. Statist. 26 (1955): neighbours that fall share their mean.
    """
    blocks: list[tuple[float, int]] = []
    for mean in seconds:
        size = 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean = (before * count + mean * size) / (count + size)
            size += count
        blocks.append((mean, size))
    return [mean for mean, size in blocks for _ in range(size)]


def best_size(curve: Curve, largest: int) -> int:
    """Return how many rows should run together: the fewest that are nearly as cheap as can be.

    That is the smallest bucket whose step costs at most 12 % more per row than the cheapest: with
    more, everybody waits longer for little. Where all lie about a line, it is the smallest of
    several rows that costs at most 15 % more by the line, and no smaller than the first that costs
    at most 25 % more by what was measured. One row means that a batch gains next to nothing here.

    Args:
        curve: What steps cost.
        largest: Rows that fit into memory; at least 1.
    """
    line = _line(curve, largest)
    if line is None:
        return _smallest(curve, largest, _WORTH)
    by_line = _smallest(line, min(curve.measured[-1], largest), _WORTH_BY_LINE)
    # A line sees no bend, so what was measured has a word as well: a rough one.
    return max(2, by_line, _smallest(curve, largest, _WORTH_ROUGHLY))


def full_size(curve: Curve, largest: int) -> int:
    """Return how many rows should run together where at least as many want to.

    Whoever waits then gains by what others wait longer for: 1 % more per row than the cheapest are
    enough, or 0.2 % where all lie about a straight line. One row where no batch is 5 % cheaper than
    that.

    Args:
        curve: What steps cost.
        largest: Rows that fit into memory; at least 1.
    """
    if _smallest(curve, largest, _TOLERANCE) == 1:
        return 1
    line = _line(curve, largest)
    if line is not None:
        return _smallest(line, min(curve.measured[-1], largest), _WORTH_FULL_BY_LINE)
    return _smallest(curve, largest, _WORTH_FULL)


def _smallest(curve: "Curve | _Line", largest: int, tolerance: float) -> int:
    per_row = [(rows, curve.seconds(rows) / rows) for rows in BUCKETS if rows <= largest]
    enough = tolerance * min(cost for _, cost in per_row)
    return next(rows for rows, cost in per_row if cost <= enough)


class _Line(msgspec.Struct, frozen=True):
    """What a step takes, and each of its rows, in seconds."""

    step_s: float
    row_s: float

    def seconds(self, rows: float) -> float:
        return self.step_s + self.row_s * rows


def _line(curve: Curve, largest: int) -> _Line | None:
    """Return the straight line about which all believed buckets lie, if they lie about one.

    It is the one with the least squares of errors, each over how large it may be. Where a batch
    gains little, a line is no reason to have a larger one.
    """
    known = [(rows, curve.seconds(rows), curve.tolerance(rows)) for rows in curve.measured]
    if len(known) < _LINE_POINTS or _smallest(curve, largest, _WORTH) == 1:
        return None
    ones = [(1 / s / error, rows / s / error, 1 / error) for rows, s, error in known]
    aa = sum(a * a for a, _, _ in ones)
    ab = sum(a * b for a, b, _ in ones)
    bb = sum(b * b for _, b, _ in ones)
    a1 = sum(a * one for a, _, one in ones)
    b1 = sum(b * one for _, b, one in ones)
    whole = aa * bb - ab * ab
    if not whole > 0:
        return None
    line = _Line((a1 * bb - b1 * ab) / whole, (b1 * aa - a1 * ab) / whole)
    if line.step_s < 0 or line.row_s <= 0:
        return None
    if any(abs(line.seconds(rows) - s) > error * s for rows, s, error in known):
        return None
    return line


def flat_end(curve: Curve) -> tuple[int, int] | None:
    """Return the largest measured bucket, and before it one of about half as many rows, if twice
    the rows seem to gain nothing; None if they do, or nothing is there to be compared with.
    """
    measured = curve.measured
    halves = [rows for rows in measured if rows <= measured[-1] / 2]
    if not halves or not _is_flat(curve, measured[-1]):
        return None
    return halves[-1], measured[-1]


def _is_flat(curve: Curve, last: int) -> bool:
    """Whether rows are no cheaper among so many than among half of them."""
    line = _line(curve, last)
    if line is not None:
        return _gain(line, last / 2, last) < _WORTH_FULL
    return _gain(curve, last / 2, last) < _TOLERANCE


def _gain(curve: "Curve | _Line", rows: float, more: float) -> float:
    """Return how many times cheaper a row is among more."""
    return (curve.seconds(rows) / rows) / (curve.seconds(more) / more)


def next_size(curve: Curve, largest: int, widest: int = 1, *, believes: bool = False) -> int | None:
    """Return the larger bucket to try next if as many rows wait, or None where it is pointless.

    The next bucket is tried while the largest measured one is at least 5 % cheaper per row than
    half as many rows, or 1 % where all lie about a straight line: a flat piece of the curve does
    not end the search, a flat doubling does once some steps have shown it, until the largest is due
    for another look.

    Args:
        curve: What steps cost.
        largest: Rows that fit into memory; at least 1.
        widest: Rows by which a batch of this key grows: 1, or 2 if every sample takes two.
        believes: Whether a few steps are believed to show that a bucket gains nothing, as where
            nobody else wants the device.
    """
    measured = curve.measured
    if not measured:
        return None
    last = measured[-1]
    if last / 2 >= measured[0] and _is_flat(curve, last):
        is_open = curve.is_due or not (believes or curve.is_believed)
        return last if is_open and last <= largest else None
    return next((rows for rows in BUCKETS if last + widest <= rows <= largest), None)
